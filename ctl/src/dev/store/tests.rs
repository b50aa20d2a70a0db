//! The store through the AWS SDK, and through bare sockets where the SDK would hide what is on the wire.

mod durability;
mod races;
mod wire;

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{RunningStore, SecretKey, StoreConfig};

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
