//! Restarts, kills and uploads that fail: what was answered for is there, and nothing is torn.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{BUCKET, REGION, client_with, code, config, get, put, refusal, started};
use crate::dev::store::{RunningStore, StoreConfig, StoreError};

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
    let client = super::client(&store);
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

/// Where the child of the next test keeps its objects; without it, that test is only a name in the list.
const CHILD_DIRECTORY: &str = "STORE_TEST_DIRECTORY";

/// A child that does not outlive a failed assertion.
struct Killable(Child);

impl Killable {
    /// SIGKILL, to this child only.
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Not a test of its own: the store in a process that can be killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_store() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let directory = std::path::PathBuf::from(directory);
    let child = StoreConfig {
        directory,
        ..config(&tempfile::tempdir().unwrap())
    };
    let store = RunningStore::start(child).await.unwrap();
    println!("\nlistens {}", store.addr());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_store_leaves_whole_objects_and_every_answered_write() {
    let directory = tempfile::tempdir().unwrap();
    let (store, client) = started(&directory).await;
    store.shutdown().await;
    drop(client);
    for round in 0..4_u8 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "dev::store::tests::durability::child_store",
                "--nocapture",
            ])
            .env(CHILD_DIRECTORY, config(&directory).directory)
            .stdout(Stdio::piped())
            .spawn();
        let mut child = Killable(child.unwrap());
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let told = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listens ").map(str::to_owned));
        let addr: SocketAddr = told.unwrap().parse().unwrap();
        let client = client_with(&format!("http://{addr}"), "secret", REGION);
        let (first_written, mut wrote) = tokio::sync::mpsc::channel(100_000);
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (client, first_written) = (client.clone(), first_written.clone());
                tokio::spawn(async move {
                    let mut answered = 0;
                    loop {
                        let fill = answered + 1;
                        let put = client
                            .put_object()
                            .bucket(BUCKET)
                            .key(format!("doc/{writer}"));
                        let put = put.content_type(format!("x/{fill}"));
                        if put
                            .body(ByteStream::from(vec![fill; 200_000]))
                            .send()
                            .await
                            .is_err()
                        {
                            return answered;
                        }
                        answered = fill % 250;
                        first_written.send(writer).await.unwrap();
                    }
                })
            })
            .collect();
        // Each writer is at work, and the kill comes at another moment in each round.
        let mut at_work = std::collections::BTreeSet::new();
        while at_work.len() < 4 {
            at_work.insert(wrote.recv().await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(7 * u64::from(round))).await;
        child.kill();

        let store = RunningStore::start(config(&directory)).await.unwrap();
        let client = super::client(&store);
        for (writer, answered) in join_all(writers).await.into_iter().enumerate() {
            let answered = answered.unwrap();
            let key = format!("doc/{writer}");
            let found = client
                .get_object()
                .bucket(BUCKET)
                .key(&key)
                .send()
                .await
                .unwrap();
            let content_type = found.content_type.clone().unwrap();
            let body = found.body.collect().await.unwrap().to_vec();
            let whole = body.len() == 200_000 && body.iter().all(|byte| *byte == body[0]);
            assert!(whole, "torn");
            let expected = [answered, answered + 1];
            assert!(
                expected.contains(&body[0]),
                "{} after {answered} was answered",
                body[0]
            );
            assert_eq!(
                content_type,
                format!("x/{}", body[0]),
                "attributes of another version"
            );
        }
        store.shutdown().await;
    }
}
