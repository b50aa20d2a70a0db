use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::sign::{
    Lives, RepositoryKeys, SignedDocuments, Versions, sign_documents, sign_root, yesterday,
};
use super::*;
use crate::store::{
    ETag, Fetched, ObjectStore, PutCondition, ServerTime, StoreError, StoreErrorKind,
};

/// A bucket in memory whose answers can be made to fail, key by key.
#[derive(Debug, Default)]
struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
    failing: Mutex<BTreeMap<String, StoreErrorKind>>,
}

impl MemoryStore {
    fn put_now(&self, name: &str, bytes: &Bytes) {
        let key = format!("groups/secure/metadata/{name}");
        self.objects.lock().unwrap().insert(key, bytes.clone());
    }

    fn publish(&self, documents: &SignedDocuments) {
        let v = documents.versions;
        self.put_now(&format!("{}.targets.json", v.targets), &documents.targets);
        self.put_now(
            &format!("{}.snapshot.json", v.snapshot),
            &documents.snapshot,
        );
        self.put_now("timestamp.json", &documents.timestamp);
    }

    fn fail(&self, name: &str, kind: StoreErrorKind) {
        let key = format!("groups/secure/metadata/{name}");
        self.failing.lock().unwrap().insert(key, kind);
    }

    fn mend(&self) {
        self.failing.lock().unwrap().clear();
    }
}

/// A refresh only reads.
fn unused(operation: &'static str, key: &str) -> StoreError {
    StoreError {
        operation,
        key: key.to_owned(),
        kind: StoreErrorKind::Other,
        source: None,
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(&self, key: &str, _: u64, _: Option<&ETag>) -> Result<Fetched, StoreError> {
        let failed = |kind| StoreError {
            operation: "get",
            key: key.to_owned(),
            kind,
            source: None,
        };
        if let Some(kind) = self.failing.lock().unwrap().get(key) {
            return Err(failed(*kind));
        }
        match self.objects.lock().unwrap().get(key) {
            Some(bytes) => Ok(Fetched::Object {
                bytes: bytes.clone(),
                etag: ETag::new("x"),
            }),
            None => Err(failed(StoreErrorKind::NotFound)),
        }
    }

    async fn put(&self, key: &str, _: Bytes, _: PutCondition) -> Result<ETag, StoreError> {
        Err(unused("put", key))
    }

    async fn list(&self, key: &str) -> Result<Vec<String>, StoreError> {
        Err(unused("list", key))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        Err(unused("delete", key))
    }

    fn server_time(&self) -> Option<ServerTime> {
        None
    }
}

struct Fixture {
    bucket: Arc<MemoryStore>,
    keys: RepositoryKeys,
    root: Bytes,
    dir: tempfile::TempDir,
}

fn version(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

fn versions(n: u64) -> Versions {
    Versions {
        targets: version(n),
        snapshot: version(n),
        timestamp: version(n),
    }
}

impl Fixture {
    async fn new() -> Self {
        let keys = RepositoryKeys::generate().unwrap();
        let root = sign_root(&keys, None, version(1), Timestamp::now())
            .await
            .unwrap();
        Self {
            bucket: Arc::default(),
            keys,
            root,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    async fn documents(&self, n: u64) -> SignedDocuments {
        let lives = Lives::from(Timestamp::now());
        sign_documents(&self.root, &self.keys, &[], versions(n), lives)
            .await
            .unwrap()
    }

    fn store(&self) -> TrustStore {
        TrustStore::open(&self.trust(), &self.root).unwrap()
    }

    fn trust(&self) -> std::path::PathBuf {
        self.dir.path().join("trust")
    }

    async fn refresh(&self) -> Result<Trusted, TrustError> {
        refresh_at(&self.bucket, &self.trust(), self.dir.path()).await
    }

    async fn refresh_to_sign_again(&self) -> Result<Trusted, TrustError> {
        let transport =
            StoreTransport::new(Arc::<MemoryStore>::clone(&self.bucket), "groups/secure");
        let (m, t) = (metadata_url().unwrap(), targets_url().unwrap());
        let (store, work) = (self.store(), self.dir.path());
        refresh_with(&store, transport, m, t, work, Expiration::Ignore).await
    }

    async fn refused(&self, kind: TrustErrorKind) {
        let error = self.refresh().await.expect_err("refused");
        assert_eq!(error.kind(), kind, "{error:?}");
    }
}

async fn refresh_at(
    bucket: &Arc<MemoryStore>,
    trust: &Path,
    work: &Path,
) -> Result<Trusted, TrustError> {
    let store = TrustStore::open_existing(trust).map_err(TrustError::Store)?;
    let transport = StoreTransport::new(Arc::<MemoryStore>::clone(bucket), "groups/secure");
    let (m, t) = (metadata_url().unwrap(), targets_url().unwrap());
    refresh(&store, transport, m, t, work).await
}

#[tokio::test]
async fn keeps_what_it_verified_byte_for_byte() {
    let f = Fixture::new().await;
    let store = f.store();
    let documents = f.documents(1).await;
    f.bucket.publish(&documents);
    let trusted = f.refresh().await.unwrap();
    assert_eq!(trusted.timestamp_version(), 1);
    assert_eq!(
        store.document("timestamp.json").unwrap().unwrap(),
        documents.timestamp
    );
    assert_eq!(
        store.document("snapshot.json").unwrap().unwrap(),
        documents.snapshot
    );
    assert_eq!(
        store.document("targets.json").unwrap().unwrap(),
        documents.targets
    );
    let files = std::fs::read_dir(f.trust()).unwrap().count();
    assert_eq!(files, 4, "nothing else lies there");
    f.refresh().await.unwrap();
}

#[tokio::test]
async fn a_store_without_its_root_is_damaged_and_not_seeded_anew() {
    let f = Fixture::new().await;
    let store = f.store();
    f.bucket.publish(&f.documents(1).await);
    f.refresh().await.unwrap();
    for left in ["timestamp.json", "snapshot.json", "targets.json"] {
        let kept = store.document(left).unwrap().unwrap();
        std::fs::remove_dir_all(f.trust()).unwrap();
        f.store();
        std::fs::write(f.trust().join(left), &kept).unwrap();
        std::fs::remove_file(f.trust().join("root.json")).unwrap();
        let error = TrustStore::open(&f.trust(), &f.root).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("root.json is missing although {left} is there")),
            "{text}"
        );
        assert!(text.contains("remove the directory"), "{text}");
        assert!(!f.trust().join("root.json").exists(), "it was seeded anew");
        // Begun again, and filled for the next.
        std::fs::remove_dir_all(f.trust()).unwrap();
        f.store();
        f.refresh().await.unwrap();
    }
}

#[tokio::test]
async fn every_document_that_was_cut_off_is_named() {
    let f = Fixture::new().await;
    let store = f.store();
    f.bucket.publish(&f.documents(1).await);
    f.refresh().await.unwrap();
    for name in [
        "root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
    ] {
        let whole = store.document(name).unwrap().unwrap();
        let path = f.trust().join(name);
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = f.refresh().await.unwrap_err();
        assert_eq!(error.kind(), TrustErrorKind::LocalState, "{name}");
        let text = format!("{error:?}");
        assert!(text.contains(name), "{text}");
        std::fs::write(&path, &whole).unwrap();
    }
    f.refresh().await.unwrap();
}

#[tokio::test]
async fn refuses_an_older_release() {
    let f = Fixture::new().await;
    f.store();
    let old = f.documents(1).await;
    f.bucket.publish(&f.documents(2).await);
    f.refresh().await.unwrap();
    f.bucket.publish(&old);
    f.refused(TrustErrorKind::Rollback).await;
}

#[tokio::test]
async fn refuses_expired_wrong_key_and_mixed_metadata() {
    let f = Fixture::new().await;
    f.store();
    let past = yesterday(Timestamp::now());
    let lives = Lives {
        targets: past,
        snapshot: past,
        timestamp: past,
    };
    let expired = sign_documents(&f.root, &f.keys, &[], versions(1), lives)
        .await
        .unwrap();
    f.bucket.publish(&expired);
    f.refused(TrustErrorKind::Expired).await;
    let trusted = f.refresh_to_sign_again().await.unwrap();
    assert_eq!(trusted.timestamp_version(), 1);
    assert!(trusted.expiry().earliest() < Timestamp::now());
    // What the signer took is no licence for anybody else.
    f.refused(TrustErrorKind::Expired).await;

    let other = RepositoryKeys::generate().unwrap();
    let other_root = sign_root(&other, None, version(1), Timestamp::now())
        .await
        .unwrap();
    let lives = Lives::from(Timestamp::now());
    let forged = sign_documents(&other_root, &other, &[], versions(2), lives)
        .await
        .unwrap();
    f.bucket.publish(&forged);
    f.refused(TrustErrorKind::Signature).await;
    let error = f.refresh_to_sign_again().await.expect_err("forged");
    assert_eq!(error.kind(), TrustErrorKind::Signature, "{error:?}");

    let genuine = f.documents(3).await;
    f.bucket.publish(&genuine);
    f.bucket
        .put_now("3.snapshot.json", &f.documents(2).await.snapshot);
    let error = f.refresh().await.expect_err("mixed");
    assert!(
        matches!(
            error.kind(),
            TrustErrorKind::Mismatch | TrustErrorKind::TooLarge
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_fault_at_the_next_root_is_no_end_of_the_walk() {
    let f = Fixture::new().await;
    f.store();
    f.bucket.publish(&f.documents(1).await);
    for kind in [
        StoreErrorKind::Unavailable,
        StoreErrorKind::Timeout,
        StoreErrorKind::Throttled,
        StoreErrorKind::Connection,
    ] {
        f.bucket.fail("2.root.json", kind);
        f.refused(TrustErrorKind::Store(kind)).await;
    }
    for kind in [StoreErrorKind::NotFound, StoreErrorKind::Forbidden] {
        f.bucket.fail("2.root.json", kind);
        f.refresh().await.unwrap();
    }
}

#[tokio::test]
async fn a_rotation_holds_when_the_new_root_is_withheld() {
    let mut f = Fixture::new().await;
    let store = f.store();
    let old = f.documents(7).await;
    f.bucket.publish(&old);
    f.refresh().await.unwrap();

    let new_keys = RepositoryKeys::generate().unwrap();
    let root = sign_root(&new_keys, Some(&f.keys), version(2), Timestamp::now())
        .await
        .unwrap();
    f.bucket.put_now("2.root.json", &root);
    let lives = Lives::from(Timestamp::now());
    let fresh = sign_documents(&root, &new_keys, &[], versions(8), lives)
        .await
        .unwrap();
    f.bucket.publish(&fresh);
    f.refresh().await.unwrap();
    assert_eq!(
        store.root().unwrap(),
        root,
        "the newest verified root is kept"
    );

    // The attacker takes the new root away and puts the old release back, signed by revoked keys.
    f.bucket
        .objects
        .lock()
        .unwrap()
        .remove("groups/secure/metadata/2.root.json");
    f.bucket.publish(&old);
    f.refused(TrustErrorKind::Signature).await;
    f.root = root;
}

#[tokio::test]
async fn verified_metadata_outlives_a_failure_further_down() {
    let f = Fixture::new().await;
    let store = f.store();
    f.bucket.publish(&f.documents(1).await);
    f.refresh().await.unwrap();
    f.bucket.publish(&f.documents(2).await);
    f.bucket
        .fail("2.snapshot.json", StoreErrorKind::Unavailable);
    f.refused(TrustErrorKind::Store(StoreErrorKind::Unavailable))
        .await;
    assert_eq!(store.version("timestamp.json").unwrap(), Some(2));
    assert_eq!(store.version("snapshot.json").unwrap(), Some(1));
    f.bucket.mend();
    f.refresh().await.unwrap();
    assert_eq!(store.version("snapshot.json").unwrap(), Some(2));
}

#[tokio::test]
#[allow(clippy::disallowed_methods)]
async fn a_trust_store_cut_off_fails_closed() {
    let f = Fixture::new().await;
    f.store();
    f.bucket.publish(&f.documents(2).await);
    f.refresh().await.unwrap();
    for name in ["timestamp.json", "snapshot.json", "root.json"] {
        let path = f.trust().join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        f.refused(TrustErrorKind::LocalState).await;
        std::fs::write(&path, &whole).unwrap();
    }
    f.refresh().await.unwrap();
}

#[tokio::test]
async fn targets_list_the_releases() {
    let f = Fixture::new().await;
    f.store();
    let custom = BundleCustom {
        environment: "dev".parse().unwrap(),
        group: "secure".parse().unwrap(),
        release: crate::names::ReleaseNumber::new(5).unwrap(),
        identity: crate::wrap::WrappedIdentity {
            method: crate::wrap::WrapMethod::LocalFile,
            key: "k".into(),
            ciphertext: "c".into(),
        },
        content: "00".into(),
        keyring: KeyringMark {
            version: 1,
            sha256: crate::digest::Sha256Digest::of(b"k"),
        },
        published_at: Timestamp::UNIX_EPOCH,
        published_by: "me".into(),
        agent: None,
        artifacts: Vec::new(),
        replaces: None,
        brings_back: None,
        content_unwaived: None,
    };
    let listed = [
        sign::ListedTarget {
            name: "release-5.bundle".into(),
            length: 10,
            sha256: crate::digest::Sha256Digest::of(b"b"),
            custom: custom.to_custom().unwrap(),
        },
        sign::ListedTarget {
            name: "kubelet".into(),
            length: 10,
            sha256: crate::digest::Sha256Digest::of(b"a"),
            custom: HashMap::new(),
        },
    ];
    let lives = Lives::from(Timestamp::now());
    let documents = sign_documents(&f.root, &f.keys, &listed, versions(5), lives)
        .await
        .unwrap();
    f.bucket.publish(&documents);
    let trusted = f.refresh().await.unwrap();
    let current = trusted.current().unwrap();
    assert_eq!(current.custom, custom);
    assert_eq!(current.sha256, crate::digest::Sha256Digest::of(b"b"));
    current
        .belongs_to(&"dev".parse().unwrap(), &"secure".parse().unwrap())
        .unwrap();
    assert!(
        current
            .belongs_to(&"dev".parse().unwrap(), &"compute".parse().unwrap())
            .is_err()
    );
}

#[tokio::test]
async fn a_target_is_read_through_what_was_verified_at_a_base_without_a_slash() {
    use tough::IntoVec as _;
    let f = Fixture::new().await;
    let store = f.store();
    let listed = sign::ListedTarget {
        name: "kubelet".into(),
        length: 1,
        sha256: crate::digest::Sha256Digest::of(b"k"),
        custom: HashMap::new(),
    };
    let key = format!("groups/secure/targets/{}.kubelet", listed.sha256);
    let lives = Lives::from(Timestamp::now());
    let documents = sign_documents(&f.root, &f.keys, &[listed], versions(1), lives)
        .await
        .unwrap();
    f.bucket.publish(&documents);
    let content = Bytes::from_static(b"k");
    f.bucket.objects.lock().unwrap().insert(key, content);

    let transport = StoreTransport::new(Arc::<MemoryStore>::clone(&f.bucket), "groups/secure");
    let bare = |url: url::Url| url::Url::parse(url.as_str().trim_end_matches('/')).unwrap();
    let (m, t) = (bare(metadata_url().unwrap()), bare(targets_url().unwrap()));
    let trusted = refresh(&store, transport, m, t, f.dir.path())
        .await
        .unwrap();
    assert_eq!(store.version("targets.json").unwrap(), Some(1));
    let name = tough::TargetName::new("kubelet").unwrap();
    let stream = trusted.repository().read_target(&name).await.unwrap();
    assert_eq!(stream.unwrap().into_vec().await.unwrap(), b"k");
    drop(trusted);
    let left = std::fs::read_dir(f.dir.path()).unwrap().count();
    assert_eq!(left, 1, "the working copy is gone, the trust store is not");
}
