//! The store through the AWS SDK, and through bare sockets where the SDK would hide what is on the wire.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use futures::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{RunningStore, SecretKey, StoreConfig, StoreError};

const BUCKET: &str = "secrets-bucket-with-a-name-as-long-as-buckets-names-can-ever-be";
const REGION: &str = "eu-central-1";

fn config(directory: &TempDir) -> StoreConfig {
    StoreConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        directory: directory.path().join("store"),
        access_key: "access".to_owned(),
        secret_key: SecretKey::from("secret"),
        region: REGION.to_owned(),
    }
}

fn client_with(endpoint: &str, secret: &str, region: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::new("access", secret, None, None, "test"))
        .region(Region::new(region.to_owned()))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

fn client(store: &RunningStore) -> Client {
    client_with(store.endpoint().as_str(), "secret", REGION)
}

async fn started(directory: &TempDir) -> (RunningStore, Client) {
    let store = RunningStore::start(config(directory)).await.unwrap();
    let client = client(&store);
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    (store, client)
}

/// The status of an answer, with the code of its error.
fn refusal<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug>(
    result: Result<T, SdkError<E>>,
) -> (u16, Option<String>) {
    let error = result.unwrap_err();
    let status = error.raw_response().unwrap().status().as_u16();
    (status, error.code().map(str::to_owned))
}

fn code(status: u16, code: &str) -> (u16, Option<String>) {
    (status, Some(code.to_owned()))
}

async fn put(client: &Client, key: &str, body: &[u8]) -> PutObjectOutput {
    let body = ByteStream::from(body.to_vec());
    client
        .put_object()
        .bucket(BUCKET)
        .key(key)
        .body(body)
        .send()
        .await
        .unwrap()
}

async fn get(client: &Client, key: &str) -> Vec<u8> {
    let answer = client
        .get_object()
        .bucket(BUCKET)
        .key(key)
        .send()
        .await
        .unwrap();
    answer.body.collect().await.unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_and_a_missing_bucket_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, client) = started(&directory).await;
    let missing = client.get_object().bucket(BUCKET).key("a/b").send().await;
    assert_eq!(refusal(missing), code(404, "NoSuchKey"));
    let missing = client
        .get_object()
        .bucket("no-bucket")
        .key("a")
        .send()
        .await;
    assert_eq!(refusal(missing), code(404, "NoSuchBucket"));
    let missing = client
        .put_object()
        .bucket("no-bucket")
        .key("a")
        .send()
        .await;
    assert_eq!(refusal(missing), code(404, "NoSuchBucket"));
    assert_eq!(
        refusal(client.head_object().bucket(BUCKET).key("a").send().await).0,
        404
    );
    assert_eq!(
        refusal(client.head_bucket().bucket("no-bucket").send().await).0,
        404
    );
    client.head_bucket().bucket(BUCKET).send().await.unwrap();
    let again = client.create_bucket().bucket(BUCKET).send().await;
    assert_eq!(refusal(again), code(409, "BucketAlreadyOwnedByYou"));
    let outside = client
        .get_object()
        .bucket(BUCKET)
        .key("../.lock")
        .send()
        .await;
    assert_eq!(refusal(outside), code(404, "NoSuchKey"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_read_of_the_known_version_is_304() {
    let directory = tempfile::tempdir().unwrap();
    let (store, client) = started(&directory).await;
    let etag = put(&client, "a", b"one").await.e_tag.unwrap();
    let before = store.requests();
    let known = client
        .get_object()
        .bucket(BUCKET)
        .key("a")
        .if_none_match(&etag)
        .send()
        .await;
    let error = known.unwrap_err();
    let raw = error.raw_response().unwrap();
    assert_eq!(raw.status().as_u16(), 304);
    assert_eq!(raw.headers().get("etag"), Some(etag.as_str()));
    let known = client
        .head_object()
        .bucket(BUCKET)
        .key("a")
        .if_none_match(&etag)
        .send()
        .await;
    assert_eq!(refusal(known).0, 304);
    let asked = store.requests().since(&before);
    assert_eq!((asked.total, asked.not_modified), (2, 2));
    assert_eq!((asked.of("GetObject"), asked.of("HeadObject")), (1, 1));

    put(&client, "a", b"two").await;
    let news = client
        .get_object()
        .bucket(BUCKET)
        .key("a")
        .if_none_match(&etag)
        .send()
        .await
        .unwrap();
    assert_ne!(news.e_tag(), Some(etag.as_str()));
    assert_eq!(news.body.collect().await.unwrap().to_vec(), b"two");
    let stale = client
        .get_object()
        .bucket(BUCKET)
        .key("a")
        .if_match(&etag)
        .send()
        .await;
    assert_eq!(refusal(stale), code(412, "PreconditionFailed"));
}

/// Sends a presigned GET with further headers on a bare connection and returns the answer's head, leaving it open.
async fn raw_get(stream: &mut TcpStream, url: &url::Url, headers: &str) -> String {
    let host = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let request = format!(
        "GET {}?{} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n",
        url.path(),
        url.query().unwrap()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap().to_ascii_lowercase()
}

async fn presigned(client: &Client, key: &str) -> url::Url {
    let lifetime = PresigningConfig::expires_in(Duration::from_secs(600)).unwrap();
    let request = client
        .get_object()
        .bucket(BUCKET)
        .key(key)
        .presigned(lifetime)
        .await
        .unwrap();
    request.uri().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_304_has_no_body_and_keeps_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (store, client) = started(&directory).await;
    let etag = put(&client, "a", b"one").await.e_tag.unwrap();
    let url = presigned(&client, "a").await;
    let mut stream = TcpStream::connect(store.addr()).await.unwrap();
    for _ in 0..3 {
        // A body would be read here as the head of the next answer.
        let head = raw_get(&mut stream, &url, &format!("If-None-Match: {etag}\r\n")).await;
        assert!(head.starts_with("http/1.1 304"), "{head}");
        assert!(head.contains(&format!("etag: {etag}")), "{head}");
        assert!(head.contains("\r\ndate: "), "{head}");
        assert!(
            !head.contains("content-length: ") || head.contains("content-length: 0"),
            "{head}"
        );
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
}

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

#[tokio::test(flavor = "multi_thread")]
async fn listing_pages_groups_and_names_versions() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, client) = started(&directory).await;
    let mut etags = Vec::new();
    for n in 0..7 {
        etags.push(
            put(
                &client,
                &format!("nodes/secure/{n}.json"),
                n.to_string().as_bytes(),
            )
            .await
            .e_tag
            .unwrap(),
        );
    }
    put(&client, "nodes/compute/0.json", b"x").await;
    put(&client, "operator/keyring.json", b"y").await;

    let mut pages = client
        .list_objects_v2()
        .bucket(BUCKET)
        .prefix("nodes/secure/")
        .max_keys(3)
        .into_paginator()
        .send();
    let mut found = Vec::new();
    let mut count = 0;
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        count += 1;
        assert!(page.contents().len() <= 3);
        found.extend(
            page.contents()
                .iter()
                .map(|o| (o.key().unwrap().to_owned(), o.e_tag().unwrap().to_owned())),
        );
    }
    assert_eq!(count, 3);
    let expected: Vec<_> = etags
        .into_iter()
        .enumerate()
        .map(|(n, etag)| (format!("nodes/secure/{n}.json"), etag))
        .collect();
    assert_eq!(found, expected);

    let top = client
        .list_objects_v2()
        .bucket(BUCKET)
        .delimiter("/")
        .send()
        .await
        .unwrap();
    let prefixes: Vec<_> = top
        .common_prefixes()
        .iter()
        .filter_map(|p| p.prefix())
        .collect();
    assert_eq!(prefixes, ["nodes/", "operator/"]);
    assert!(top.contents().is_empty());
    let all = client
        .list_objects_v2()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(
        all.key_count(),
        Some(9),
        "nothing of the store's own is listed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_object_is_gone_and_can_be_created_again() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, client) = started(&directory).await;
    let old = put(&client, "a/b", b"one").await.e_tag.unwrap();
    let new = put(&client, "a/b", b"two").await.e_tag.unwrap();
    let stale = client
        .delete_object()
        .bucket(BUCKET)
        .key("a/b")
        .if_match(&old)
        .send()
        .await;
    assert_eq!(refusal(stale), code(412, "PreconditionFailed"));
    let full = client.delete_bucket().bucket(BUCKET).send().await;
    assert_eq!(refusal(full), code(409, "BucketNotEmpty"));
    client
        .delete_object()
        .bucket(BUCKET)
        .key("a/b")
        .if_match(&new)
        .send()
        .await
        .unwrap();
    client
        .delete_object()
        .bucket(BUCKET)
        .key("a/b")
        .send()
        .await
        .unwrap();
    assert_eq!(
        refusal(client.get_object().bucket(BUCKET).key("a/b").send().await),
        code(404, "NoSuchKey")
    );
    assert_eq!(
        client
            .list_objects_v2()
            .bucket(BUCKET)
            .send()
            .await
            .unwrap()
            .key_count(),
        Some(0)
    );
    let created = client
        .put_object()
        .bucket(BUCKET)
        .key("a/b")
        .if_none_match("*")
        .send()
        .await;
    created.unwrap();
    client
        .delete_object()
        .bucket(BUCKET)
        .key("a/b")
        .send()
        .await
        .unwrap();
    client.delete_bucket().bucket(BUCKET).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_and_a_wrong_region_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (store, client) = started(&directory).await;
    put(&client, "a", b"one").await;
    let before = store.requests();
    let forger = client_with(store.endpoint().as_str(), "guess", REGION);
    let refused = forger.get_object().bucket(BUCKET).key("a").send().await;
    assert_eq!(refusal(refused), code(403, "SignatureDoesNotMatch"));
    let refused = forger
        .put_object()
        .bucket(BUCKET)
        .key("a")
        .body(ByteStream::from_static(b"forged"))
        .send()
        .await;
    assert_eq!(refusal(refused), code(403, "SignatureDoesNotMatch"));
    let elsewhere = client_with(store.endpoint().as_str(), "secret", "us-west-2");
    let refused = elsewhere.get_object().bucket(BUCKET).key("a").send().await;
    assert_eq!(refusal(refused), code(400, "AuthorizationHeaderMalformed"));
    let mut unsigned = TcpStream::connect(store.addr()).await.unwrap();
    let url = store
        .endpoint()
        .join(&format!("{BUCKET}/a?x-id=GetObject"))
        .unwrap();
    let head = raw_get(&mut unsigned, &url, "").await;
    assert!(head.starts_with("http/1.1 403"), "{head}");
    let asked = store.requests().since(&before);
    assert_eq!((asked.refused, asked.client_errors), (3, 1));
    assert!(asked.by_operation.is_empty(), "{asked:?}");
    assert_eq!(get(&client, "a").await, b"one");
    assert!(!format!("{:?}", config(&directory)).contains("secret\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_and_etags_outlive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, client) = started(&directory).await;
    // As long as a bundle's name gets: too long for one file name with the bucket's in base64.
    let key = format!(
        "groups/secure/targets/{}.{}",
        "0a".repeat(32),
        "n".repeat(64)
    );
    let body = ByteStream::from_static(b"one");
    let request = client.put_object().bucket(BUCKET).key(&key).body(body);
    let etag = request
        .content_type("application/json")
        .metadata("mtime", "12")
        .send()
        .await
        .unwrap()
        .e_tag
        .unwrap();
    drop(client);
    store.shutdown().await;

    let store = RunningStore::start(config(&directory)).await.unwrap();
    let client = self::client(&store);
    let known = client
        .get_object()
        .bucket(BUCKET)
        .key(&key)
        .if_none_match(&etag)
        .send()
        .await;
    assert_eq!(refusal(known).0, 304);
    let answer = client
        .get_object()
        .bucket(BUCKET)
        .key(&key)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.e_tag(), Some(etag.as_str()));
    assert_eq!(answer.content_type(), Some("application/json"));
    assert_eq!(answer.metadata().unwrap()["mtime"], "12");
    let swapped = client
        .put_object()
        .bucket(BUCKET)
        .key(&key)
        .if_match(&etag)
        .body(ByteStream::from_static(b"two"));
    swapped.send().await.unwrap();
    assert_eq!(get(&client, &key).await, b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_long_bodies_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let (_store, client) = started(&directory).await;
    let long: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    put(&client, "long", &long).await;
    assert_eq!(get(&client, "long").await, long);
    for (range, expected) in [
        ("bytes=5-9", &long[5..10]),
        ("bytes=100000-", &long[100_000..]),
        ("bytes=-7", &long[2_999_993..]),
    ] {
        let answer = client
            .get_object()
            .bucket(BUCKET)
            .key("long")
            .range(range)
            .send()
            .await
            .unwrap();
        assert!(answer.content_range().unwrap().ends_with("/3000000"));
        assert_eq!(answer.body.collect().await.unwrap().to_vec(), expected);
    }
    let beyond = client
        .get_object()
        .bucket(BUCKET)
        .key("long")
        .range("bytes=3000000-")
        .send()
        .await;
    assert_eq!(refusal(beyond), code(416, "InvalidRange"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_upload_leaves_the_old_object() {
    let directory = tempfile::tempdir().unwrap();
    let (store, client) = started(&directory).await;
    put(&client, "a", b"good").await;
    let bad = client
        .put_object()
        .bucket(BUCKET)
        .key("a")
        .body(ByteStream::from_static(b"evil"));
    let refused = bad.content_md5("XUFAKrxLKna5cZ2REBfFkg==").send().await;
    assert_eq!(refusal(refused), code(400, "BadDigest"));
    let bad = client
        .put_object()
        .bucket(BUCKET)
        .key("a")
        .body(ByteStream::from_static(b"evil"));
    let refused = bad.checksum_crc32("AAAAAA==").send().await;
    assert_eq!(refusal(refused), code(400, "BadDigest"));

    let lifetime = PresigningConfig::expires_in(Duration::from_secs(600)).unwrap();
    let cut = client
        .put_object()
        .bucket(BUCKET)
        .key("a")
        .presigned(lifetime)
        .await
        .unwrap();
    let url: url::Url = cut.uri().parse().unwrap();
    let mut stream = TcpStream::connect(store.addr()).await.unwrap();
    let head = format!(
        "PUT {}?{} HTTP/1.1\r\nHost: {}\r\nContent-Length: 100\r\n\r\nevil",
        url.path(),
        url.query().unwrap(),
        store.addr()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    assert_eq!(get(&client, "a").await, b"good");

    let below = client
        .put_object()
        .bucket(BUCKET)
        .key("a/b")
        .body(ByteStream::from_static(b"x"))
        .send()
        .await;
    assert_eq!(refusal(below), code(400, "InvalidArgument"));
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_hundred_kept_connections_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let (store, client) = started(&directory).await;
    let etag = put(&client, "timestamp.json", b"{}").await.e_tag.unwrap();
    let url = presigned(&client, "timestamp.json").await;
    drop(client);
    let mut streams = Vec::new();
    for _ in 0..1200 {
        streams.push(TcpStream::connect(store.addr()).await.unwrap());
    }
    let header = format!("If-None-Match: {etag}\r\n");
    for _poll in 0..2 {
        let polls = streams
            .iter_mut()
            .map(|stream| raw_get(stream, &url, &header));
        for head in join_all(polls).await {
            assert!(head.starts_with("http/1.1 304"), "{head}");
        }
    }
    assert!(store.connections() >= 1200);
    assert!(store.requests().not_modified >= 2400);
    // Idle connections are closed, not waited for.
    tokio::time::timeout(Duration::from_secs(4), store.shutdown())
        .await
        .unwrap();
    for mut stream in streams {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_store_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _client) = started(&directory).await;
    let same_directory = RunningStore::start(config(&directory)).await.unwrap_err();
    assert!(matches!(same_directory, StoreError::DirectoryInUse { .. }));
    assert!(
        same_directory
            .to_string()
            .contains(directory.path().to_str().unwrap())
    );
    let other = tempfile::tempdir().unwrap();
    let same_address = StoreConfig {
        listen: store.addr(),
        ..config(&other)
    };
    let refused = RunningStore::start(same_address).await.unwrap_err();
    assert!(
        refused.to_string().contains(&store.addr().to_string()),
        "{refused}"
    );
    store.shutdown().await;
    RunningStore::start(config(&directory)).await.unwrap();
}
