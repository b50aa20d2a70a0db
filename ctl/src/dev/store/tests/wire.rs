//! Connections and signatures.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use futures::future::join_all;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{
    BUCKET, REGION, client_with, code, config, get, presigned, put, raw_get, refusal, started,
};

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
