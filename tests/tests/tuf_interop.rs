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
use platform_tests::workspace::{Bucket, Operator, group};
use shared::digest::Sha256Digest;
use shared::trust::sign::{
    ListedTarget, Lives, RepositoryKeys, Versions, sign_documents, sign_root, yesterday,
};

const TARGET: &str = "release-1.bundle";

type Files = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// A repository that is served over HTTP on loopback, and a client's directories.
struct Repository {
    files: Files,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    address: String,
    client: tempfile::TempDir,
}

impl Repository {
    fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = Files::default();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (served, book) = (Arc::clone(&files), Arc::clone(&asked));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (served, book) = (Arc::clone(&served), Arc::clone(&book));
                std::thread::spawn(move || answer(&stream, &served, &book));
            }
        });
        let client = tempfile::tempdir().unwrap();
        for directory in ["metadata", "targets"] {
            std::fs::create_dir(client.path().join(directory)).unwrap();
        }
        Self {
            files,
            asked,
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
            custom: HashMap::from([("purpose".to_owned(), serde_json::json!({"of": "tests"}))]),
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

    fn download(&self, python: &Path, name: &str, first_root: Option<&Path>) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/python/tuf_download.py");
        let mut command = Command::new(python);
        command
            .arg(script)
            .arg(self.client.path().join("metadata"))
            .arg(self.client.path().join("targets"))
            .arg(format!("{}/metadata/", self.address))
            .arg(format!("{}/targets/", self.address))
            .arg(name);
        command.args(first_root);
        command.output().unwrap()
    }

    fn accepts(&self, python: &Path, first_root: Option<&Path>, root: &str, content: &[u8]) {
        let output = self.download(python, TARGET, first_root);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let trusted = String::from_utf8_lossy(&output.stdout);
        assert_eq!(trusted.trim(), root, "version of the trusted root");
        let file = self.client.path().join("targets").join(TARGET);
        assert_eq!(std::fs::read(file).unwrap(), content);
    }

    fn refuses(&self, python: &Path, error: &str) {
        let output = self.download(python, TARGET, None);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "it was accepted");
        assert!(errors.contains(error), "not {error}: {errors}");
    }

    /// Our own client, with directories of its own.
    fn client(&self, arguments: &[&str]) -> Output {
        let test = std::env::current_exe().unwrap();
        let built = test.parent().and_then(Path::parent).unwrap();
        let program = built.join("examples/tuf_client");
        assert!(
            program.is_file(),
            "{} is not there: build it with `cargo build --workspace --examples`",
            program.display()
        );
        let mut command = Command::new(program);
        command.arg("--metadata-dir").arg(self.ours("metadata"));
        command.args(["--metadata-url", &format!("{}/metadata/", self.address)]);
        command.args(["--target-base-url", &format!("{}/targets/", self.address)]);
        command.args(["--target-name", TARGET]);
        command.arg("--target-dir").arg(self.ours("targets"));
        command.args(arguments).output().unwrap()
    }

    fn ours(&self, directory: &str) -> PathBuf {
        let path = self.client.path().join("ours").join(directory);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// What our client trusts, by file.
    fn trusted(&self) -> BTreeMap<String, Vec<u8>> {
        let files = std::fs::read_dir(self.ours("metadata")).unwrap();
        let read = |file: std::fs::DirEntry| {
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read(file.path()).unwrap())
        };
        files.map(|file| read(file.unwrap())).collect()
    }

    fn served(&self, path: &str) -> Vec<u8> {
        self.files.lock().unwrap()[path].to_vec()
    }

    fn save(&self, root: &Bytes) -> PathBuf {
        let path = self.client.path().join("first_root.json");
        std::fs::write(&path, root).unwrap();
        path
    }
}

fn answer(stream: &TcpStream, files: &Files, asked: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty());
    let request = lines.next().unwrap_or_default();
    lines.for_each(drop);
    let path = request.split(' ').nth(1).unwrap_or_default();
    asked.lock().unwrap().push(path.to_owned());
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

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

#[tokio::test]
async fn our_client_keeps_what_it_received_and_fetches_an_artifact_once() {
    let repository = Repository::serve();
    let keys = RepositoryKeys::generate().unwrap();
    let root = sign_root(&keys, None, number(1), Timestamp::now())
        .await
        .unwrap();
    repository.put("metadata/1.root.json", &root);
    repository.publish(1, &root, &keys, b"one").await;

    // Not everything that is JSON is a root.
    let no_root = repository.save(&Bytes::from_static(b"{\"signed\": {}}"));
    let refused = repository.client(&["init", no_root.to_str().unwrap()]);
    assert_eq!(code(&refused), 1, "{refused:?}");
    assert_eq!(repository.trusted(), BTreeMap::new());
    let forged = String::from_utf8(root.to_vec()).unwrap();
    let forged = forged.replacen("\"version\": 1", "\"version\": 2", 1);
    assert_ne!(forged.as_bytes(), root.as_ref());
    let forged = repository.save(&Bytes::from(forged));
    let refused = repository.client(&["init", forged.to_str().unwrap()]);
    assert_eq!(code(&refused), 1, "{refused:?}");
    assert_eq!(repository.trusted(), BTreeMap::new());

    let given = repository.save(&root);
    let init = repository.client(&["init", given.to_str().unwrap()]);
    assert_eq!(code(&init), 0, "{init:?}");
    let only_root = BTreeMap::from([("root.json".to_owned(), root.to_vec())]);
    assert_eq!(repository.trusted(), only_root);
    let refreshed = repository.client(&["refresh"]);
    assert_eq!(code(&refreshed), 0, "{refreshed:?}");
    let kept = |version: u64| {
        let of = |role: &str| repository.served(&format!("/metadata/{version}.{role}.json"));
        BTreeMap::from([
            ("root.json".to_owned(), root.to_vec()),
            ("snapshot.json".to_owned(), of("snapshot")),
            ("targets.json".to_owned(), of("targets")),
            (
                "timestamp.json".to_owned(),
                repository.served("/metadata/timestamp.json"),
            ),
        ])
    };
    assert_eq!(repository.trusted(), kept(1));

    let targets = || {
        let asked = repository.asked.lock().unwrap();
        asked.iter().filter(|p| p.starts_with("/targets/")).count()
    };
    let file = repository.ours("targets").join(TARGET);
    assert_eq!(targets(), 0, "a refresh reads no target");
    for _ in 0..2 {
        let downloaded = repository.client(&["download"]);
        assert_eq!(code(&downloaded), 0, "{downloaded:?}");
        assert_eq!(std::fs::read(&file).unwrap(), b"one");
        assert_eq!(targets(), 1, "once only");
    }

    // One that is not what is signed is not taken, and what is there stays.
    repository.publish(2, &root, &keys, b"two").await;
    let sha256 = Sha256Digest::of(b"two");
    repository.put(
        &format!("targets/{sha256}.{TARGET}"),
        &Bytes::from_static(b"twx"),
    );
    let refused = repository.client(&["download"]);
    assert_eq!(code(&refused), 1, "{refused:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"one");
    assert_eq!(repository.trusted(), kept(2), "its metadata is good");
    // And metadata that is older than what is trusted.
    repository.publish(1, &root, &keys, b"one").await;
    let before = repository.trusted();
    let refused = repository.client(&["refresh"]);
    assert_eq!(code(&refused), 1, "{refused:?}");
    assert_eq!(repository.trusted(), before);
}

#[tokio::test]
async fn python_tuf_accepts_what_publish_uploads_for_each_group() {
    let Some(python) = tools::python_with("tuf.ngclient") else {
        return;
    };
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    for name in ["secure", "compute"] {
        let repository = Repository::serve();
        let prefix = format!("groups/{name}/");
        for key in bucket.keys() {
            if let Some(path) = key.strip_prefix(&prefix) {
                let bytes = std::fs::read(bucket.object(&key)).unwrap();
                repository.put(path, &Bytes::from(bytes));
            }
        }
        let published = operator.published(&group(name)).await.unwrap();
        let current = published.current().unwrap().clone();
        let root = operator.root(&group(name)).await.unwrap();
        let given = repository.save(&Bytes::from(root));
        let output = repository.download(&python, &current.name, Some(&given));
        assert!(output.status.success(), "{name}: {output:?}");
        let file = repository.client.path().join("targets").join(&current.name);
        let bytes = std::fs::read(file).unwrap();
        assert_eq!(Sha256Digest::of(&bytes), current.sha256, "{name}");
    }
}
