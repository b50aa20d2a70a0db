//! A publisher with throw-away keys, who can be told to do what no honest one does.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use jiff::Timestamp;
use shared::bundle::{new_identity, seal};
use shared::digest::Sha256Digest;
use shared::documents::{GroupKey, GroupKeys};
use shared::names::{EnvironmentName, GroupName};
use shared::secret::SecretText;
use shared::store::keys;
use shared::trust::sign::{
    ListedTarget, Lives, RepositoryKeys, SignedDocuments, Versions, sign_documents, sign_root,
};
use shared::trust::{BundleCustom, KeyringMark, bundle_name};
use shared::wrap::{KeyWrap, LocalWrap, WrapContext};

use crate::content::{Files, release_number};

/// The objects of a bucket.
#[derive(Clone, Default)]
pub struct Bucket(pub BTreeMap<String, Vec<u8>>);

/// One group's publisher.
#[derive(Clone)]
pub struct Publisher {
    pub environment: EnvironmentName,
    pub group: GroupName,
    pub keys: RepositoryKeys,
    /// Oldest first.
    pub roots: Vec<Bytes>,
    pub group_key: GroupKey,
    pub wrap: Arc<LocalWrap>,
}

/// An encrypted bundle and what is signed about it.
#[derive(Clone)]
pub struct Sealed {
    pub bytes: Vec<u8>,
    pub custom: BundleCustom,
    pub identity: SecretText,
}

/// When all was signed, as the fixtures say: so that nothing in them but a signature changes with the day.
pub fn published_at() -> anyhow::Result<Timestamp> {
    Ok("2026-01-01T00:00:00Z".parse()?)
}

/// The end of everything that must not expire.
pub fn far() -> anyhow::Result<Timestamp> {
    Ok("2099-01-01T00:00:00Z".parse()?)
}

/// A day that has passed.
pub fn past() -> anyhow::Result<Timestamp> {
    Ok("2020-01-01T00:00:00Z".parse()?)
}

/// Lives up to one day for all.
pub fn lives(until: Timestamp) -> Lives {
    Lives {
        targets: until,
        snapshot: until,
        timestamp: until,
    }
}

fn version(n: u64) -> anyhow::Result<NonZeroU64> {
    NonZeroU64::new(n).context("versions count from 1")
}

async fn root(
    keys: &RepositoryKeys,
    previous: Option<&RepositoryKeys>,
    n: u64,
) -> anyhow::Result<Bytes> {
    // A root lives ten years from the day that it is given.
    let signed = "2089-01-01T00:00:00Z".parse()?;
    Ok(sign_root(keys, previous, version(n)?, signed).await?)
}

impl Publisher {
    pub async fn new(
        environment: &str,
        group: &str,
        wrap: &Arc<LocalWrap>,
    ) -> anyhow::Result<Self> {
        let keys = RepositoryKeys::generate()?;
        Ok(Self {
            environment: environment.parse()?,
            group: group.parse()?,
            roots: vec![root(&keys, None, 1).await?],
            keys,
            group_key: GroupKey::generate(),
            wrap: Arc::clone(wrap),
        })
    }

    /// The same publisher after all its signing keys were replaced.
    pub async fn rotated(&self) -> anyhow::Result<Self> {
        let keys = RepositoryKeys::generate()?;
        let next = root(&keys, Some(&self.keys), self.roots.len() as u64 + 1).await?;
        let mut rotated = self.clone();
        rotated.roots.push(next);
        rotated.keys = keys;
        Ok(rotated)
    }

    /// Somebody else, who knows all but the signing keys.
    pub async fn impostor(&self) -> anyhow::Result<Self> {
        let mut other =
            Self::new(self.environment.as_str(), self.group.as_str(), &self.wrap).await?;
        other.group_key = self.group_key.clone();
        Ok(other)
    }

    /// An impostor's root over keys of which some were stolen.
    pub async fn with_keys(&self, keys: RepositoryKeys) -> anyhow::Result<Self> {
        let mut other = self.clone();
        other.roots = vec![root(&keys, None, 1).await?];
        other.keys = keys;
        Ok(other)
    }

    /// As the keyring has it.
    pub fn group_keys(&self) -> anyhow::Result<GroupKeys> {
        let text = |root: &Bytes| String::from_utf8(root.to_vec());
        Ok(GroupKeys {
            repository: self.keys.clone(),
            roots: self.roots.iter().map(text).collect::<Result<_, _>>()?,
            group_key: self.group_key.clone(),
            backup_identity: None,
            handover: false,
        })
    }

    pub fn context(&self, release: u64) -> WrapContext {
        WrapContext {
            environment: self.environment.clone(),
            group: self.group.to_string(),
            release,
        }
    }

    /// Encrypts a packed bundle as this release, whatever it holds.
    pub async fn seal(&self, release: u64, packed: &[u8]) -> anyhow::Result<Sealed> {
        let identity = new_identity();
        let wrapped = self.wrap.wrap(&identity, &self.context(release)).await?;
        let nothing = Sha256Digest::of(b"");
        Ok(Sealed {
            bytes: seal(packed, &identity, &[])?,
            custom: BundleCustom {
                environment: self.environment.clone(),
                group: self.group.clone(),
                release: release_number(release)?,
                identity: wrapped,
                content: self.group_key.authenticate(&[packed]),
                keyring: KeyringMark {
                    version: 1,
                    sha256: nothing,
                },
                published_at: published_at()?,
                published_by: "operator@example".to_owned(),
                agent: None,
                artifacts: Vec::new(),
                replaces: None,
                brings_back: None,
                content_unwaived: None,
            },
            identity,
        })
    }

    /// A genuine release of these files.
    pub async fn release(&self, number: u64, files: &Files) -> anyhow::Result<Sealed> {
        let packed = files.packed(self, number)?;
        self.seal(number, packed.expose()).await
    }

    /// Signs the three documents under one version.
    pub async fn sign(
        &self,
        n: u64,
        sealed: &[&Sealed],
        lives: Lives,
    ) -> anyhow::Result<SignedDocuments> {
        let version = version(n)?;
        let versions = Versions {
            targets: version,
            snapshot: version,
            timestamp: version,
        };
        let root = self.roots.last().context("no root")?;
        let listed = sealed
            .iter()
            .map(|s| s.listed())
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(sign_documents(root, &self.keys, &listed, versions, lives).await?)
    }

    /// The bucket of a publisher who has published just this.
    pub async fn publish(&self, n: u64, sealed: &[&Sealed]) -> anyhow::Result<Bucket> {
        let documents = self.sign(n, sealed, lives(far()?)).await?;
        let mut bucket = Bucket::default();
        bucket.put_repository(self, &documents, sealed);
        Ok(bucket)
    }
}

impl Sealed {
    pub fn name(&self) -> String {
        bundle_name(self.custom.release)
    }

    /// The object's key in a group's repository.
    pub fn key(&self, group: &GroupName) -> String {
        keys::target(group, &Sha256Digest::of(&self.bytes), &self.name())
    }

    fn listed(&self) -> anyhow::Result<ListedTarget> {
        Ok(ListedTarget {
            name: self.name(),
            length: self.bytes.len() as u64,
            sha256: Sha256Digest::of(&self.bytes),
            custom: self.custom.to_custom()?,
        })
    }
}

impl Bucket {
    pub fn put(&mut self, key: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.insert(key.into(), bytes.into());
    }

    /// Puts a metadata document of a publisher's group.
    pub fn put_metadata(&mut self, publisher: &Publisher, name: &str, bytes: &[u8]) {
        let prefix = keys::metadata_prefix(&publisher.group);
        self.put(format!("{prefix}{name}"), bytes);
    }

    /// Puts all that a publish writes.
    pub fn put_repository(
        &mut self,
        publisher: &Publisher,
        documents: &SignedDocuments,
        sealed: &[&Sealed],
    ) {
        for (at, root) in publisher.roots.iter().enumerate() {
            self.put_metadata(publisher, &format!("{}.root.json", at + 1), root);
        }
        let v = documents.versions;
        self.put_metadata(
            publisher,
            &format!("{}.targets.json", v.targets),
            &documents.targets,
        );
        let snapshot = format!("{}.snapshot.json", v.snapshot);
        self.put_metadata(publisher, &snapshot, &documents.snapshot);
        self.put_metadata(publisher, "timestamp.json", &documents.timestamp);
        for sealed in sealed {
            self.put(sealed.key(&publisher.group), sealed.bytes.clone());
        }
    }
}
