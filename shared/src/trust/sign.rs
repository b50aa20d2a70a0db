//! The signing side: the documents of a repository from keys in memory (§3.5).

use std::collections::HashMap;
use std::num::NonZeroU64;

use aws_lc_rs::rand::SystemRandom;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tough::TargetName;
use tough::editor::signed::SignedRole;
use tough::schema::{
    Hashes, KeyHolder, Metafile, Role, RoleKeys, RoleType, Root, Signed, Snapshot, Target, Targets,
    Timestamp as TimestampRole,
};
use tough::sign::Sign;

pub use super::role_keys::{RepositoryKeys, RoleKey};
use crate::digest::Sha256Digest;

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// How long a root is valid.
pub const ROOT_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3650);
/// How long targets, snapshot and timestamp are valid.
pub const METADATA_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// The version of the TUF specification that the documents follow.
const SPEC_VERSION: &str = "1.0.0";

/// Signing failed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key does not parse.
    #[error("a signing key of the keyring is damaged")]
    Key,
    /// A key could not be made.
    #[error("cannot make a signing key")]
    Generate,
    /// The document could not be signed.
    #[error("cannot sign the {role} metadata")]
    Role {
        /// Which role.
        role: &'static str,
        /// What tough said.
        #[source]
        source: Box<tough::error::Error>,
    },
    /// The key has no identifier.
    #[error("cannot compute the identifier of a signing key")]
    KeyId(#[source] tough::schema::Error),
    /// The root does not parse.
    #[error("the root of the keyring does not parse")]
    Root(#[source] serde_json::Error),
    /// A target's name is refused.
    #[error("the target name {0:?} is refused")]
    TargetName(String),
}

/// A target to list.
#[derive(Debug, Clone)]
pub struct ListedTarget {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its digest.
    pub sha256: Sha256Digest,
    /// Its signed facts.
    pub custom: HashMap<String, serde_json::Value>,
}

/// The versions of the three documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// Of targets.
    pub targets: NonZeroU64,
    /// Of snapshot.
    pub snapshot: NonZeroU64,
    /// Of timestamp.
    pub timestamp: NonZeroU64,
}

/// When the three documents expire.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    /// Of targets.
    pub targets: Timestamp,
    /// Of snapshot.
    pub snapshot: Timestamp,
    /// Of timestamp.
    pub timestamp: Timestamp,
}

/// The three documents, as they go into the bucket.
#[derive(Debug, Clone)]
pub struct SignedDocuments {
    /// `N.targets.json`.
    pub targets: Bytes,
    /// `N.snapshot.json`.
    pub snapshot: Bytes,
    /// `timestamp.json`.
    pub timestamp: Bytes,
    /// Their versions.
    pub versions: Versions,
}

// === impl Lives ===

impl Lives {
    /// A year for each, from `now`, in whole seconds.
    #[must_use]
    pub fn from(now: Timestamp) -> Self {
        let end = end_of(now, METADATA_LIFE);
        Self {
            targets: end,
            snapshot: end,
            timestamp: end,
        }
    }
}

fn end_of(now: Timestamp, life: SignedDuration) -> Timestamp {
    whole_seconds(now.checked_add(life).unwrap_or(now))
}

/// TUF writes times in whole seconds; other clients refuse a fraction.
fn whole_seconds(time: Timestamp) -> Timestamp {
    time.round(jiff::Unit::Second).unwrap_or(time)
}

/// Whether metadata that expires at `expires` has under a third of its life left.
#[must_use]
pub fn is_due(expires: Timestamp, now: Timestamp, life: SignedDuration) -> bool {
    expires.duration_since(now) < life / 3
}

/// A whole day before now, for documents that must have expired (tests).
#[must_use]
pub fn yesterday(now: Timestamp) -> Timestamp {
    now.checked_sub(DAY).unwrap_or(now)
}

/// Signs root version `version` with `keys`, and with `previous` too where it replaces a root of other keys.
///
/// # Errors
/// [`SignError`].
pub async fn sign_root(
    keys: &RepositoryKeys,
    previous: Option<&RepositoryKeys>,
    version: NonZeroU64,
    now: Timestamp,
) -> Result<Bytes, SignError> {
    let root = root_of(&[keys], version, now)?;
    let holder = KeyHolder::Root(root.clone());
    let mut signed = sign_role("root", root, &holder, &keys.root).await?;
    if let Some(previous) = previous {
        // A change of keys is signed by the old ones too: over the same document, held to the old root's key.
        let old_id = previous
            .root
            .key_pair()?
            .tuf_key()
            .key_id()
            .map_err(SignError::KeyId)?;
        let mut with_old = signed.signed().signed.clone();
        if let Some(role_keys) = with_old.roles.get_mut(&RoleType::Root) {
            role_keys.keyids.push(old_id.clone());
        }
        with_old
            .keys
            .insert(old_id, previous.root.key_pair()?.tuf_key());
        let holder = KeyHolder::Root(with_old);
        let document = signed.signed().signed.clone();
        let old = sign_role("root", document, &holder, &previous.root).await?;
        let signatures = old.signed().signatures.clone();
        signed = signed
            .add_old_signatures(signatures)
            .map_err(role_failed("root"))?;
    }
    Ok(Bytes::from(signed.buffer().clone()))
}

/// Signs targets, snapshot and timestamp over one another.
///
/// # Errors
/// [`SignError`].
pub async fn sign_documents(
    root: &[u8],
    keys: &RepositoryKeys,
    listed: &[ListedTarget],
    versions: Versions,
    lives: Lives,
) -> Result<SignedDocuments, SignError> {
    let root: Signed<Root> = serde_json::from_slice(root).map_err(SignError::Root)?;
    let holder = KeyHolder::Root(root.signed);
    let spec = || SPEC_VERSION.to_owned();

    let mut targets = Targets::new(spec(), versions.targets, whole_seconds(lives.targets));
    for target in listed {
        let name = TargetName::new(&target.name)
            .map_err(|_| SignError::TargetName(target.name.clone()))?;
        targets.add_target(name, entry(target));
    }
    let targets = sign_role("targets", targets, &holder, &keys.targets).await?;

    let mut snapshot = Snapshot::new(spec(), versions.snapshot, whole_seconds(lives.snapshot));
    snapshot.meta.insert(
        "targets.json".to_owned(),
        metafile(&targets, versions.targets),
    );
    let snapshot = sign_role("snapshot", snapshot, &holder, &keys.snapshot).await?;

    let mut timestamp =
        TimestampRole::new(spec(), versions.timestamp, whole_seconds(lives.timestamp));
    timestamp.meta.insert(
        "snapshot.json".to_owned(),
        metafile(&snapshot, versions.snapshot),
    );
    let timestamp = sign_role("timestamp", timestamp, &holder, &keys.timestamp).await?;

    Ok(SignedDocuments {
        targets: Bytes::from(targets.buffer().clone()),
        snapshot: Bytes::from(snapshot.buffer().clone()),
        timestamp: Bytes::from(timestamp.buffer().clone()),
        versions,
    })
}

/// Signs root version `version`, under which what `old` and what `new` sign is acceptable: the first of the two roots
/// of a change of keys. Both root keys sign it: the old one, as whoever trusts the root before asks, and the new one,
/// to show that its holder has it.
///
/// # Errors
/// [`SignError`].
pub async fn sign_joint_root(
    old: &RepositoryKeys,
    new: &RepositoryKeys,
    version: NonZeroU64,
    now: Timestamp,
) -> Result<Bytes, SignError> {
    let root = root_of(&[old, new], version, now)?;
    let holder = KeyHolder::Root(root.clone());
    let sources = [old.root.source(), new.root.source()];
    let signed = SignedRole::new(root, &holder, &sources, &SystemRandom::new())
        .await
        .map_err(role_failed("root"))?;
    Ok(Bytes::from(signed.buffer().clone()))
}

/// A root in which each role may be signed by each of `owners`, one signature being enough.
fn root_of(
    owners: &[&RepositoryKeys],
    version: NonZeroU64,
    now: Timestamp,
) -> Result<Root, SignError> {
    let mut root = Root {
        spec_version: SPEC_VERSION.to_owned(),
        consistent_snapshot: true,
        version,
        expires: end_of(now, ROOT_LIFE),
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::new(),
    };
    for role in [
        RoleType::Root,
        RoleType::Targets,
        RoleType::Snapshot,
        RoleType::Timestamp,
    ] {
        let mut keyids = Vec::new();
        for key in owners.iter().filter_map(|keys| keys.role(role)) {
            let public = key.key_pair()?.tuf_key();
            let id = public.key_id().map_err(SignError::KeyId)?;
            root.keys.insert(id.clone(), public);
            keyids.push(id);
        }
        let role_keys = RoleKeys {
            keyids,
            threshold: NonZeroU64::MIN,
            _extra: HashMap::new(),
        };
        root.roles.insert(role, role_keys);
    }
    Ok(root)
}

fn entry(target: &ListedTarget) -> Target {
    Target {
        length: target.length,
        hashes: Hashes {
            sha256: target.sha256.as_bytes().to_vec().into(),
            _extra: HashMap::new(),
        },
        custom: target.custom.clone(),
        _extra: HashMap::new(),
    }
}

fn metafile<T: Role + Serialize>(signed: &SignedRole<T>, version: NonZeroU64) -> Metafile {
    Metafile {
        length: Some(*signed.length()),
        hashes: Some(Hashes {
            sha256: signed.sha256().to_vec().into(),
            _extra: HashMap::new(),
        }),
        version,
        _extra: HashMap::new(),
    }
}

fn role_failed(role: &'static str) -> impl FnOnce(tough::error::Error) -> SignError {
    move |source| SignError::Role {
        role,
        source: Box::new(source),
    }
}

async fn sign_role<T: Role + Serialize>(
    name: &'static str,
    role: T,
    holder: &KeyHolder,
    key: &RoleKey,
) -> Result<SignedRole<T>, SignError> {
    SignedRole::new(role, holder, &[key.source()], &SystemRandom::new())
        .await
        .map_err(role_failed(name))
}
