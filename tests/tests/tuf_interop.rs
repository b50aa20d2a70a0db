//! A TUF client of another make (python-tuf) accepts what `shared::trust::sign` signs, and refuses what it should.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use jiff::Timestamp;
use platform_tests::tools;
use shared::digest::Sha256Digest;
use shared::trust::sign::{
    ListedTarget, Lives, RepositoryKeys, Versions, sign_documents, sign_root, yesterday,
};

const TARGET: &str = "release-1.bundle";

type Files = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// A repository that is served over HTTP on loopback, and a client's directories.
struct Repository {
    files: Files,
    address: String,
    client: tempfile::TempDir,
}

impl Repository {
    fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = Files::default();
        let served = Arc::clone(&files);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let served = Arc::clone(&served);
                std::thread::spawn(move || answer(&stream, &served));
            }
        });
        let client = tempfile::tempdir().unwrap();
        for directory in ["metadata", "targets"] {
            std::fs::create_dir(client.path().join(directory)).unwrap();
        }
        Self {
            files,
            address,
            client,
        }
    }

    fn put(&self, path: &str, bytes: &Bytes) {
        self.files
            .lock()
            .unwrap()
            .insert(format!("/{path}"), bytes.clone());
    }

    async fn publish(
        &self,
        version: u64,
        root: &[u8],
        keys: &RepositoryKeys,
        content: &'static [u8],
    ) {
        let lives = Lives::from(Timestamp::now());
        self.publish_until(version, root, keys, content, lives)
            .await;
    }

    async fn publish_until(
        &self,
        version: u64,
        root: &[u8],
        keys: &RepositoryKeys,
        content: &'static [u8],
        lives: Lives,
    ) {
        let sha256 = Sha256Digest::of(content);
        let listed = ListedTarget {
            name: TARGET.to_owned(),
            length: content.len() as u64,
            sha256,
            custom: HashMap::from([("bundle".to_owned(), serde_json::json!({"release": 1}))]),
        };
        let n = number(version);
        let versions = Versions {
            targets: n,
            snapshot: n,
            timestamp: n,
        };
        let documents = sign_documents(root, keys, &[listed], versions, lives)
            .await
            .unwrap();
        let target = format!("targets/{sha256}.{TARGET}");
        self.put(&target, &Bytes::from_static(content));
        self.put(
            &format!("metadata/{version}.targets.json"),
            &documents.targets,
        );
        self.put(
            &format!("metadata/{version}.snapshot.json"),
            &documents.snapshot,
        );
        self.put("metadata/timestamp.json", &documents.timestamp);
    }

    fn download(&self, python: &Path, first_root: Option<&Path>) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/python/tuf_download.py");
        let mut command = Command::new(python);
        command
            .arg(script)
            .arg(self.client.path().join("metadata"))
            .arg(self.client.path().join("targets"))
            .arg(format!("{}/metadata/", self.address))
            .arg(format!("{}/targets/", self.address))
            .arg(TARGET);
        command.args(first_root);
        command.output().unwrap()
    }

    fn accepts(&self, python: &Path, first_root: Option<&Path>, root: &str, content: &[u8]) {
        let output = self.download(python, first_root);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let trusted = String::from_utf8_lossy(&output.stdout);
        assert_eq!(trusted.trim(), root, "version of the trusted root");
        let file = self.client.path().join("targets").join(TARGET);
        assert_eq!(std::fs::read(file).unwrap(), content);
    }

    fn refuses(&self, python: &Path, error: &str) {
        let output = self.download(python, None);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "it was accepted");
        assert!(errors.contains(error), "not {error}: {errors}");
    }

    fn save(&self, root: &Bytes) -> PathBuf {
        let path = self.client.path().join("first_root.json");
        std::fs::write(&path, root).unwrap();
        path
    }
}

fn answer(stream: &TcpStream, files: &Files) {
    let mut lines = BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty());
    let request = lines.next().unwrap_or_default();
    lines.for_each(drop);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let found = files.lock().unwrap().get(path).cloned();
    let (status, body) = match found {
        Some(bytes) => ("200 OK", bytes),
        None => ("404 Not Found", Bytes::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = stream;
    // A client that went away is the client's business.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&body));
}

fn number(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

#[tokio::test]
async fn python_tuf_follows_our_releases_and_a_root_rotation() {
    let Some(python) = tools::python_with("tuf.ngclient") else {
        return;
    };
    let repository = Repository::serve();
    let old = RepositoryKeys::generate().unwrap();
    let first = sign_root(&old, None, number(1), Timestamp::now())
        .await
        .unwrap();
    repository.put("metadata/1.root.json", &first);
    repository.publish(1, &first, &old, b"one").await;
    let given = repository.save(&first);
    repository.accepts(&python, Some(&given), "1", b"one");

    repository.publish(2, &first, &old, b"two").await;
    repository.accepts(&python, None, "1", b"two");

    let new = RepositoryKeys::generate().unwrap();
    let second = sign_root(&new, Some(&old), number(2), Timestamp::now())
        .await
        .unwrap();
    repository.put("metadata/2.root.json", &second);
    repository.publish(3, &second, &new, b"three").await;
    repository.accepts(&python, None, "2", b"three");

    // And it does look: revoked keys, and metadata that has expired.
    repository.publish(4, &first, &old, b"four").await;
    repository.refuses(&python, "UnsignedMetadataError");
    let past = yesterday(Timestamp::now());
    let past = Lives {
        targets: past,
        snapshot: past,
        timestamp: past,
    };
    repository
        .publish_until(5, &second, &new, b"five", past)
        .await;
    repository.refuses(&python, "ExpiredMetadataError");
}
