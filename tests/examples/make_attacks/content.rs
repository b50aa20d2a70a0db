//! The files of a release: the genuine ones, to be made worse by the attacks.

use std::collections::BTreeMap;

use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};
use shared::bundle::{FileEntry, Index, Mode, Origin, Release, pack};
use shared::check::secret_dir::{secret_dir_digest, secret_dir_path};
use shared::limits;
use shared::names::{EntryPath, ReleaseNumber};
use shared::secret::SecretBytes;

use crate::publisher::Publisher;

/// The pod with a secret directory.
pub const POD: &str = "etcd";
/// A pod without one.
pub const OTHER_POD: &str = "kube-scheduler";

/// The files of a release, in the order of writing.
#[derive(Clone, Default)]
pub struct Files(Vec<(String, Vec<u8>)>);

/// A self-signed certificate and its key, in PEM.
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl Leaf {
    /// One that outlives us.
    pub fn valid() -> anyhow::Result<Self> {
        Self::until(2099)
    }

    /// One that expires at the beginning of a year.
    pub fn until(year: i32) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, POD);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        Ok(Self {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// A static pod's manifest with these volumes.
pub fn pod(name: &str, volumes: &Value) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {
            "hostNetwork": true,
            "automountServiceAccountToken": false,
            "containers": [{"name": name, "image": "registry.k8s.io/pause:3.10"}],
            "volumes": volumes,
        },
    })
    .to_string()
}

/// The volumes of a pod that mounts a directory of the host.
pub fn mount(path: &str) -> Value {
    json!([{"name": "secrets", "hostPath": {"path": path, "type": "Directory"}}])
}

impl Files {
    /// What an honest publisher would release.
    pub fn genuine(publisher: &Publisher) -> anyhow::Result<Self> {
        Self::with_leaf(publisher, &Leaf::valid()?)
    }

    /// The same with this certificate and key in the pod's secret directory.
    pub fn with_leaf(publisher: &Publisher, leaf: &Leaf) -> anyhow::Result<Self> {
        let mut files = Self::default();
        let directory = BTreeMap::from([
            (
                "server.crt".to_owned(),
                (0o600, leaf.certificate.as_bytes()),
            ),
            ("server.key".to_owned(), (0o600, leaf.key.as_bytes())),
        ]);
        let digest = secret_dir_digest(&directory);
        files.put("agent/group.key", publisher.group_key.to_file().expose());
        for (name, (_, bytes)) in &directory {
            files.put(&format!("secrets/{POD}/{name}"), bytes);
        }
        let mounted = pod(POD, &mount(&secret_dir_path(POD, &digest)));
        files.put(&format!("manifests/{POD}.yaml"), mounted.as_bytes());
        files.put(
            &format!("manifests/{OTHER_POD}.yaml"),
            pod(OTHER_POD, &json!([])).as_bytes(),
        );
        Ok(files)
    }

    /// Adds a file, or replaces it where it is.
    pub fn put(&mut self, path: &str, bytes: &[u8]) {
        match self.0.iter_mut().find(|(p, _)| p == path) {
            Some((_, old)) => *old = bytes.to_vec(),
            None => self.0.push((path.to_owned(), bytes.to_vec())),
        }
    }

    /// The same with one more file, or another content for it.
    pub fn with(&self, path: &str, bytes: &[u8]) -> Self {
        let mut files = self.clone();
        files.put(path, bytes);
        files
    }

    /// Path and bytes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(p, b)| (p.as_str(), b.as_slice()))
    }

    /// The index of the files as the release `number` of a publisher.
    pub fn index(&self, publisher: &Publisher, number: u64) -> anyhow::Result<Index> {
        let entry = |(path, bytes)| {
            let path = EntryPath::new(path)?;
            let mode = Mode::new(0o600);
            anyhow::Ok(FileEntry::describe(path, bytes, mode, Origin::Template))
        };
        Ok(Index {
            format: limits::INDEX_FORMAT,
            environment: publisher.environment.clone(),
            group: publisher.group.clone(),
            release: release_number(number)?,
            files: self.iter().map(entry).collect::<anyhow::Result<_>>()?,
            restarts: Vec::new(),
            artifacts: Vec::new(),
            rollout: None,
            etcd: None,
        })
    }

    /// Packed by the platform's own code, with all its checks.
    pub fn packed(&self, publisher: &Publisher, number: u64) -> anyhow::Result<SecretBytes> {
        let index = self.index(publisher, number)?;
        let mut contents = BTreeMap::new();
        for (path, bytes) in self.iter() {
            contents.insert(EntryPath::new(path)?, SecretBytes::new(bytes.to_vec()));
        }
        let release = Release::new(index, contents)
            .map_err(|problems| anyhow::anyhow!("no release: {problems:?}"))?;
        Ok(pack(&release)?)
    }
}

/// A release's number.
pub fn release_number(number: u64) -> anyhow::Result<ReleaseNumber> {
    ReleaseNumber::new(number).ok_or_else(|| anyhow::anyhow!("releases count from 1"))
}
