//! A bucket in memory, a publisher for it, a clock, and agents over them.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use shared::bundle::{
    Artifact, FileEntry, Index, Mode, Origin, Release, Restart, RolloutPolicy, new_identity, pack,
    seal,
};
use shared::digest::Sha256Digest;
use shared::documents::{GroupKey, NodeStatus};
use shared::limits;
use shared::names::{EntryPath, ReleaseNumber};
use shared::secret::{SecretBytes, SecretText};
use shared::store::{
    ETag, Fetched, ObjectStore, PutCondition, ServerTime, StoreError, StoreErrorKind, keys,
};
use shared::trust::sign::{
    ListedTarget, Lives, RepositoryKeys, Versions, sign_documents, sign_root,
};
use shared::trust::{BundleCustom, KeyringMark, TrustStore, bundle_name};
use shared::wrap::{KeyWrap, LocalWrap, WrapContext, WrapError, WrappedIdentity};

use crate::clock::Clock;
use crate::disk::{Disk, NodePaths};
use crate::drift::DriftWatch;
use crate::engine::{Agent, Host, Outcome, Parts};
use crate::metrics::Metrics;
use crate::rollout::BootTime;
use crate::status::NodeIdentity;
use crate::systemd::ServiceManager;

pub(super) const POLL: Duration = Duration::from_secs(10);
pub(super) const BUNDLE: &str = ".bundle";

#[derive(Debug, Default)]
pub(super) struct MemoryStore {
    objects: Mutex<BTreeMap<String, (Bytes, u64)>>,
    written: AtomicU64,
    /// Part of a key → what asking for such a key fails with.
    faults: Mutex<BTreeMap<String, StoreErrorKind>>,
    requests: Mutex<Vec<String>>,
    pub(super) server_time: Mutex<Option<ServerTime>>,
    pub(super) hangs: AtomicBool,
}

impl MemoryStore {
    pub(super) fn fail(&self, part: &str, kind: StoreErrorKind) {
        self.faults.lock().unwrap().insert(part.to_owned(), kind);
    }

    pub(super) fn mend(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// The requests since the last call, such as `get? …/timestamp.json` for a conditional one.
    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    pub(super) fn set(&self, key: &str, bytes: impl Into<Bytes>) {
        let etag = self.written.fetch_add(1, Ordering::Relaxed);
        let mut objects = self.objects.lock().unwrap();
        objects.insert(key.to_owned(), (bytes.into(), etag));
    }

    pub(super) fn remove(&self, key: &str) {
        self.objects.lock().unwrap().remove(key);
    }

    pub(super) fn object(&self, key: &str) -> Option<(Bytes, u64)> {
        self.objects.lock().unwrap().get(key).cloned()
    }

    /// Puts an object back with the tag it had.
    pub(super) fn put_back(&self, key: &str, object: (Bytes, u64)) {
        self.objects.lock().unwrap().insert(key.to_owned(), object);
    }

    pub(super) fn keys_with(&self, part: &str) -> Vec<String> {
        let objects = self.objects.lock().unwrap();
        objects
            .keys()
            .filter(|k| k.contains(part))
            .cloned()
            .collect()
    }

    async fn asked(&self, what: &'static str, key: &str) -> Result<(), StoreError> {
        self.requests.lock().unwrap().push(format!("{what} {key}"));
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let faults = self.faults.lock().unwrap();
        match faults.iter().find(|(part, _)| key.contains(*part)) {
            Some((_, kind)) => Err(failure(key, *kind)),
            None => Ok(()),
        }
    }
}

fn failure(key: &str, kind: StoreErrorKind) -> StoreError {
    StoreError {
        operation: "get",
        key: key.to_owned(),
        kind,
        source: None,
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(
        &self,
        key: &str,
        limit: u64,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let what = if unless.is_some() { "get?" } else { "get" };
        self.asked(what, key).await?;
        let Some((bytes, etag)) = self.object(key) else {
            return Err(failure(key, StoreErrorKind::NotFound));
        };
        let etag = ETag::new(format!("\"{etag}\""));
        if unless == Some(&etag) {
            return Ok(Fetched::NotModified);
        }
        if bytes.len() as u64 > limit {
            return Err(failure(key, StoreErrorKind::TooLarge));
        }
        Ok(Fetched::Object { bytes, etag })
    }

    async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: PutCondition,
    ) -> Result<ETag, StoreError> {
        self.asked("put", key).await?;
        let tag = |etag: u64| ETag::new(format!("\"{etag}\""));
        let there = self.object(key).map(|(_, etag)| tag(etag));
        let may = match condition {
            PutCondition::Always => true,
            PutCondition::Absent => there.is_none(),
            PutCondition::Matches(wanted) => there == Some(wanted),
        };
        if !may {
            return Err(failure(key, StoreErrorKind::Conflict));
        }
        self.set(key, bytes);
        let (_, etag) = self.object(key).unwrap();
        Ok(tag(etag))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        assert!(
            prefix.starts_with("nodes/"),
            "an agent lists the statuses of its group, and nothing else"
        );
        self.asked("list", prefix).await?;
        Ok(self.keys_with(prefix))
    }

    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        panic!("an agent never deletes")
    }

    fn server_time(&self) -> Option<ServerTime> {
        *self.server_time.lock().unwrap()
    }
}

/// Goes with tokio's clock, and steps when told.
#[derive(Debug)]
pub(super) struct TestClock {
    base: Timestamp,
    began: tokio::time::Instant,
    step: Mutex<SignedDuration>,
    suspended: Mutex<Duration>,
    /// What happens in the next sleep that comes to its end.
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
}

/// Something that happens while an agent sleeps.
pub(super) struct Meanwhile(Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl TestClock {
    pub(super) fn step(&self, by: SignedDuration) {
        *self.step.lock().unwrap() += by;
    }

    /// The machine sleeps: only the clock that counts suspended time goes on.
    pub(super) fn suspend(&self, time: Duration) {
        *self.suspended.lock().unwrap() += time;
    }

    pub(super) fn in_next_sleep(&self, work: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Meanwhile(Box::new(work)));
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let gone = SignedDuration::try_from(self.began.elapsed()).unwrap();
        self.base + gone + *self.step.lock().unwrap()
    }

    fn boot_time(&self) -> BootTime {
        let gone = self.began.elapsed() + *self.suspended.lock().unwrap();
        BootTime {
            boot: "test".to_owned(),
            milliseconds: u64::try_from(gone.as_millis()).unwrap(),
        }
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let meanwhile = Arc::clone(&self.meanwhile);
        Box::pin(async move {
            tokio::time::sleep(time).await;
            let due = meanwhile.lock().unwrap().take();
            if let Some(Meanwhile(work)) = due {
                work();
            }
        })
    }
}

/// Counts, and fails when told.
#[derive(Debug)]
pub(super) struct CountingWrap {
    inner: LocalWrap,
    pub(super) unwrapped: AtomicU64,
    pub(super) fails: AtomicBool,
}

#[async_trait]
impl KeyWrap for CountingWrap {
    async fn wrap(
        &self,
        identity: &SecretText,
        context: &WrapContext,
    ) -> Result<WrappedIdentity, WrapError> {
        self.inner.wrap(identity, context).await
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedIdentity,
        context: &WrapContext,
    ) -> Result<SecretText, WrapError> {
        self.unwrapped.fetch_add(1, Ordering::Relaxed);
        if self.fails.load(Ordering::Relaxed) {
            return Err(WrapError::Kms {
                operation: "Decrypt",
                key: "k".into(),
                transient: true,
                source: "throttled".into(),
            });
        }
        self.inner.unwrap(wrapped, context).await
    }
}

pub(super) struct World {
    pub(super) store: Arc<MemoryStore>,
    pub(super) clock: Arc<TestClock>,
    pub(super) wrap: Arc<CountingWrap>,
    keys: RepositoryKeys,
    root: Bytes,
    pub(super) group_key: GroupKey,
    version: u64,
    /// What the next releases ask of the host.
    pub(super) artifacts: Vec<Artifact>,
    pub(super) restarts: Vec<Restart>,
    /// How they are rolled out.
    pub(super) rollout: Option<RolloutPolicy>,
    /// Targets that are signed with them.
    pub(super) listed: Vec<ListedTarget>,
    pub(super) dir: tempfile::TempDir,
}

pub(super) type Files = BTreeMap<EntryPath, Vec<u8>>;

/// A pod whose one argument is `text`.
pub(super) fn pod(text: &str) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "kube-system"},
        "spec": {"containers": [
            {"name": "web", "image": "registry.k8s.io/pause:3.10", "args": [text]}
        ]}
    }))
    .unwrap()
}

impl World {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("wrap.key");
        LocalWrap::create_file_if_needed(&key_file).unwrap();
        let keys = RepositoryKeys::generate().unwrap();
        let now = Timestamp::now();
        let root = sign_root(&keys, None, NonZeroU64::MIN, now).await.unwrap();
        Self {
            store: Arc::default(),
            clock: Arc::new(TestClock {
                base: now,
                began: tokio::time::Instant::now(),
                step: Mutex::default(),
                suspended: Mutex::default(),
                meanwhile: Arc::default(),
            }),
            wrap: Arc::new(CountingWrap {
                inner: LocalWrap::from_file(&key_file).unwrap(),
                unwrapped: AtomicU64::new(0),
                fails: AtomicBool::new(false),
            }),
            keys,
            root,
            group_key: GroupKey::generate(),
            version: 0,
            artifacts: Vec::new(),
            restarts: Vec::new(),
            rollout: None,
            listed: Vec::new(),
            dir,
        }
    }

    pub(super) fn group_key(&self) -> &GroupKey {
        &self.group_key
    }

    pub(super) fn paths(&self) -> NodePaths {
        NodePaths::new(
            &self.dir.path().join("root"),
            &self.dir.path().join("state"),
        )
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.paths().manifests().join("web.yaml")
    }

    pub(super) fn agent(&self) -> Agent {
        self.agent_with(DriftWatch::disabled())
    }

    pub(super) fn agent_with(&self, drift: DriftWatch) -> Agent {
        let identity = NodeIdentity {
            environment: "dev".parse().unwrap(),
            group: "secure".parse().unwrap(),
            node: "role:i-1".parse().unwrap(),
        };
        let (environment, group) = (identity.environment.clone(), identity.group.clone());
        let disk = Disk::open(self.paths(), environment, group).unwrap();
        let trust = TrustStore::open(&disk.paths().trust(), &self.root).unwrap();
        Agent::new(Parts {
            identity,
            poll_interval: POLL,
            store: self.store.clone(),
            key_wrap: self.wrap.clone(),
            clock: self.clock.clone(),
            disk,
            trust,
            drift,
            metrics: Metrics::new(POLL),
            service_manager: ServiceManager::none(),
            host: self.host(),
        })
    }

    pub(super) fn host(&self) -> Host {
        let (root, state) = (self.dir.path().join("root"), self.dir.path().join("state"));
        Host::plain(
            &root,
            &state,
            vec!["/opt/bin".into(), "/opt/cni/bin".into()],
        )
        .unwrap()
    }

    pub(super) fn files(&self, manifest: Vec<u8>) -> Files {
        let path = |p: &str| EntryPath::new(p).unwrap();
        BTreeMap::from([
            (path("manifests/web.yaml"), manifest),
            (path("host/kubelet.yaml"), b"{}\n".to_vec()),
            (
                path("agent/group.key"),
                self.group_key.to_file().expose().to_vec(),
            ),
        ])
    }

    /// Publishes release `number` with a pod that says so.
    pub(super) async fn publish(&mut self, number: u64) {
        let files = self.files(pod(&format!("release {number}")));
        self.publish_files(number, &files).await;
    }

    pub(super) async fn publish_files(&mut self, number: u64, files: &Files) {
        let target = self.upload(number, "secure", files).await;
        let listed = [vec![target], self.listed.clone()].concat();
        self.sign(&listed).await;
    }

    pub(super) async fn upload(&self, number: u64, group: &str, files: &Files) -> ListedTarget {
        let number = ReleaseNumber::new(number).unwrap();
        let index = Index {
            format: limits::INDEX_FORMAT,
            environment: "dev".parse().unwrap(),
            group: group.parse().unwrap(),
            release: number,
            files: files
                .iter()
                .map(|(p, b)| FileEntry::describe(p.clone(), b, Mode::new(0o600), Origin::Template))
                .collect(),
            restarts: self.restarts.clone(),
            artifacts: self.artifacts.clone(),
            rollout: self.rollout.clone(),
            etcd: None,
        };
        let contents = files
            .iter()
            .map(|(p, b)| (p.clone(), SecretBytes::new(b.clone())))
            .collect();
        let packed = pack(&Release::new(index, contents).unwrap()).unwrap();
        let identity = new_identity();
        let sealed = seal(packed.expose(), &identity, &[]).unwrap();
        let context = WrapContext {
            environment: "dev".parse().unwrap(),
            group: "secure".into(),
            release: number.get(),
        };
        let custom = BundleCustom {
            environment: "dev".parse().unwrap(),
            group: "secure".parse().unwrap(),
            release: number,
            identity: self.wrap.wrap(&identity, &context).await.unwrap(),
            content: String::new(),
            keyring: KeyringMark {
                version: 1,
                sha256: Sha256Digest::of(b"keyring"),
            },
            published_at: Timestamp::UNIX_EPOCH,
            published_by: "test".into(),
            agent: None,
            artifacts: Vec::new(),
            replaces: None,
            brings_back: None,
            content_unwaived: None,
        };
        let target = ListedTarget {
            name: bundle_name(number),
            length: sealed.len() as u64,
            sha256: Sha256Digest::of(&sealed),
            custom: custom.to_custom().unwrap(),
        };
        let secure = "secure".parse().unwrap();
        let key = keys::target(&secure, &target.sha256, &target.name);
        self.store.set(&key, sealed);
        target
    }

    /// Signs and publishes metadata that lists `targets`.
    pub(super) async fn sign(&mut self, targets: &[ListedTarget]) {
        self.version += 1;
        let n = NonZeroU64::new(self.version).unwrap();
        let versions = Versions {
            targets: n,
            snapshot: n,
            timestamp: n,
        };
        let lives = Lives::from(Timestamp::now());
        let documents = sign_documents(&self.root, &self.keys, targets, versions, lives)
            .await
            .unwrap();
        let put = |name: &str, bytes: Bytes| {
            self.store
                .set(&format!("groups/secure/metadata/{name}"), bytes);
        };
        put(&format!("{n}.targets.json"), documents.targets);
        put(&format!("{n}.snapshot.json"), documents.snapshot);
        put("timestamp.json", documents.timestamp);
    }

    /// What the node has last said about itself.
    pub(super) fn status(&self) -> NodeStatus {
        let (bytes, _) = self.store.object("nodes/secure/role:i-1.json").unwrap();
        let envelope: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        serde_json::from_str(envelope["body"].as_str().unwrap()).unwrap()
    }

    pub(super) fn error_kind(&self) -> Option<String> {
        self.status().error.map(|e| e.kind)
    }

    /// What the manifest on the node's disk says.
    pub(super) fn on_disk(&self) -> Option<String> {
        let bytes = std::fs::read(self.manifest()).ok()?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let text = value.pointer("/spec/containers/0/args/0")?.as_str()?;
        Some(text.to_owned())
    }
}

/// One poll of the daemon's loop, a poll period after the last.
pub(super) async fn tick(agent: &mut Agent) -> Outcome {
    tokio::time::advance(POLL).await;
    let outcome = agent.pass().await;
    agent.report().await;
    outcome
}

/// Only the kinds of request: `get?` for a conditional one.
pub(super) fn kinds(requests: &[String]) -> BTreeSet<&str> {
    requests
        .iter()
        .filter_map(|r| r.split(' ').next())
        .collect()
}
