//! Many writers at once: exactly one wins, and readers see whole versions.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use futures::future::join_all;

use super::{BUCKET, code, put, refusal, started};

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_writers_over_one_version_exactly_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, client) = started(&directory).await;
    let mut etag = put(&client, "doc.json", b"start").await.e_tag.unwrap();
    for round in 0..6 {
        let race = (0..50).map(|writer| {
            let (client, etag) = (client.clone(), etag.clone());
            tokio::spawn(async move {
                let body = ByteStream::from(format!("round {round} writer {writer}").into_bytes());
                let put = client
                    .put_object()
                    .bucket(BUCKET)
                    .key("doc.json")
                    .if_match(etag)
                    .body(body);
                (writer, put.send().await)
            })
        });
        etag = the_one_winner(&client, "doc.json", round, join_all(race).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_creators_exactly_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, client) = started(&directory).await;
    for round in 0..6 {
        let key = format!("new/{round}/doc.json");
        let race = (0..50).map(|writer| {
            let (client, key) = (client.clone(), key.clone());
            tokio::spawn(async move {
                let body = ByteStream::from(format!("round {round} writer {writer}").into_bytes());
                let put = client
                    .put_object()
                    .bucket(BUCKET)
                    .key(key)
                    .if_none_match("*")
                    .body(body);
                (writer, put.send().await)
            })
        });
        the_one_winner(&client, &key, round, join_all(race).await).await;
    }
}

type Attempt =
    Result<(usize, Result<PutObjectOutput, SdkError<PutObjectError>>), tokio::task::JoinError>;

/// Asserts that one attempt won and the object is its, and returns the winner's ETag.
async fn the_one_winner(
    client: &Client,
    key: &str,
    round: usize,
    attempts: Vec<Attempt>,
) -> String {
    let mut winners = Vec::new();
    for attempt in attempts {
        match attempt.unwrap() {
            (writer, Ok(output)) => winners.push((writer, output.e_tag.unwrap())),
            (_, lost) => assert_eq!(refusal(lost), code(412, "PreconditionFailed")),
        }
    }
    assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
    let (writer, etag) = winners.remove(0);
    let now = client
        .get_object()
        .bucket(BUCKET)
        .key(key)
        .send()
        .await
        .unwrap();
    assert_eq!(now.e_tag(), Some(etag.as_str()));
    let content = now.body.collect().await.unwrap().to_vec();
    assert_eq!(
        content,
        format!("round {round} writer {writer}").into_bytes()
    );
    etag
}

#[tokio::test(flavor = "multi_thread")]
async fn compare_and_swap_over_nothing_is_404() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, client) = started(&directory).await;
    let put = client
        .put_object()
        .bucket(BUCKET)
        .key("a")
        .if_match("\"5d41402abc4b2a76b9719d911017c592\"");
    assert_eq!(refusal(put.send().await), code(404, "NoSuchKey"));
    assert_eq!(
        refusal(client.get_object().bucket(BUCKET).key("a").send().await),
        code(404, "NoSuchKey")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_meet_whole_versions_under_their_own_etag() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, client) = started(&directory).await;
    put(&client, "a", &[0; 4096]).await;
    let writer = {
        let client = client.clone();
        tokio::spawn(async move {
            for n in 1..=60_u8 {
                put(&client, "a", &[n; 4096]).await;
            }
        })
    };
    let mut seen = std::collections::BTreeMap::new();
    while !writer.is_finished() {
        let answer = client
            .get_object()
            .bucket(BUCKET)
            .key("a")
            .send()
            .await
            .unwrap();
        let etag = answer.e_tag.clone().unwrap();
        let body = answer.body.collect().await.unwrap().to_vec();
        assert!(
            body.iter().all(|byte| *byte == body[0]) && body.len() == 4096,
            "torn"
        );
        assert_eq!(
            *seen.entry(etag).or_insert(body[0]),
            body[0],
            "one ETag for two contents"
        );
    }
    writer.await.unwrap();
}
