//! One backup: snapshot → its own digest checked → encrypted → parts → manifest → what is superfluous removed.
//!
//! Nothing of it is ever whole in memory: etcd's stream is read piece by piece, and a part is written before the next is
//! filled. What broke off leaves parts without a manifest, which are no backup and are removed after a day.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use shared::backup::{
    BACKUP_FORMAT, BackupManifest, BackupName, BackupSettings, PARTS, Sealer, Standing, superfluous,
};
use shared::bundle::SealError;
use shared::digest::{Sha256Digest, Sha256Writer};
use shared::documents::{GroupKey, seal_node_object};
use shared::names::ReleaseNumber;
use shared::store::{Backoff, ObjectStore, StoreError, keys, put_immutable};

use super::{EtcdClient, EtcdError, EtcdErrorKind, Member};
use crate::clock::Clock;
use crate::status::NodeIdentity;

/// The digest at the end of a snapshot, in bytes.
const DIGEST: usize = 32;
/// bbolt writes whole pages, which are multiples of this; a snapshot's length says so whether a digest follows them.
const SECTOR: u64 = 512;
/// How long parts without a manifest stay: longer than any backup takes.
const ORPHANS_STAY: SignedDuration = SignedDuration::from_hours(24);
/// Patience with the store for each part: a backup that began should not end for a hiccup.
const BACKOFF: Backoff = Backoff {
    attempts: 6,
    first: std::time::Duration::from_millis(500),
    cap: std::time::Duration::from_secs(15),
};

/// Everything that a backup takes.
#[derive(Debug, Clone)]
pub struct BackupContext {
    /// The bucket.
    pub store: Arc<dyn ObjectStore>,
    /// Which node it is.
    pub identity: NodeIdentity,
    /// The group's key.
    pub group_key: GroupKey,
    /// What the release says.
    pub settings: BackupSettings,
    /// The release on the disk.
    pub release: Option<ReleaseNumber>,
    /// The backup that the release has its members made from: it stays.
    pub restores: Option<BackupName>,
    /// The node's own member.
    pub client: EtcdClient,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// A backup that was not made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// etcd did not give a snapshot.
    #[error("etcd gave no snapshot")]
    Etcd(#[source] EtcdError),
    /// What it gave is not what it says it is.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// It is larger than a backup may be.
    #[error("the snapshot has more than {PARTS} parts")]
    TooLarge,
    /// It cannot be encrypted.
    #[error("the snapshot cannot be encrypted")]
    Seal(#[source] SealError),
    /// The store did not take it.
    #[error("the store did not take it")]
    Store(#[source] StoreError),
    /// The manifest cannot be encoded.
    #[error("the manifest cannot be encoded")]
    Encode(#[source] serde_json::Error),
}

/// Keeps back the last bytes of a stream, which are the digest of all before them.
#[derive(Debug, Default)]
struct Tail {
    hash: Sha256Writer,
    held: Vec<u8>,
    before: u64,
}

// === impl Tail ===

impl Tail {
    fn update(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
        let passed = self.held.len().saturating_sub(DIGEST);
        self.hash
            .update(self.held.get(..passed).unwrap_or_default());
        self.held.drain(..passed);
        self.before += passed as u64;
    }

    fn check(self) -> Result<(), BackupError> {
        if self.held.len() < DIGEST || self.before == 0 {
            return Err(BackupError::Damaged("it is shorter than its digest"));
        }
        if !self.before.is_multiple_of(SECTOR) {
            return Err(BackupError::Damaged("it does not end with a digest"));
        }
        match self.hash.finish().as_bytes()[..] == self.held[..] {
            true => Ok(()),
            false => Err(BackupError::Damaged(
                "the digest at its end is not that of what is before it",
            )),
        }
    }
}

// === impl BackupError ===

impl BackupError {
    /// A word for metrics and status.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Etcd(e) => e.kind.label(),
            Self::Damaged(_) => "damaged",
            Self::TooLarge => "too_large",
            Self::Seal(_) => "encrypt",
            Self::Store(e) => e.kind.label(),
            Self::Encode(_) => "internal",
        }
    }
}

/// What was sent of a backup so far.
#[derive(Debug)]
struct Sent<'a> {
    context: &'a BackupContext,
    name: &'a BackupName,
    parts: Vec<Sha256Digest>,
    bytes: u64,
}

impl Sent<'_> {
    async fn part(&mut self, part: Bytes) -> Result<(), BackupError> {
        if self.parts.len() >= PARTS {
            return Err(BackupError::TooLarge);
        }
        let generation = self.context.settings.generation;
        let key = keys::snapshot_part(generation, self.name, self.parts.len());
        put_immutable(self.context.store.as_ref(), BACKOFF, &key, &part)
            .await
            .map_err(BackupError::Store)?;
        self.parts.push(Sha256Digest::of(&part));
        self.bytes += part.len() as u64;
        Ok(())
    }
}

impl BackupContext {
    /// Takes a backup. There is one once this has returned; whatever fails before leaves none.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn take(&self) -> Result<BackupManifest, BackupError> {
        let status = self.client.status().await.map_err(BackupError::Etcd)?;
        let name = BackupName::new(self.clock.now(), status.revision);
        let mut stream = self.client.snapshot().await.map_err(BackupError::Etcd)?;
        let mut sealer = Sealer::new(&self.settings.recipients).map_err(BackupError::Seal)?;
        let (mut tail, mut all) = (Tail::default(), Sha256Writer::default());
        let mut sent = Sent {
            context: self,
            name: &name,
            parts: Vec::new(),
            bytes: 0,
        };
        let mut plain_bytes = 0;
        while let Some(piece) = stream.next().await.map_err(BackupError::Etcd)? {
            plain_bytes += piece.len() as u64;
            tail.update(&piece);
            all.update(&piece);
            if let Some(part) = sealer.write(&piece).map_err(BackupError::Seal)? {
                sent.part(part).await?;
            }
        }
        tail.check()?;
        for part in sealer.finish().map_err(BackupError::Seal)? {
            sent.part(part).await?;
        }
        let manifest = BackupManifest {
            format: BACKUP_FORMAT,
            environment: self.identity.environment.clone(),
            group: self.identity.group.clone(),
            generation: self.settings.generation,
            finished_at: self.clock.now(),
            node: self.identity.node.clone(),
            member_id: format!("{:x}", status.member_id),
            cluster_id: format!("{:x}", status.cluster_id),
            etcd_version: status.version,
            plain_bytes,
            plain_sha256: all.finish(),
            sealed_bytes: sent.bytes,
            parts: sent.parts,
            recipients: self.settings.recipients.clone(),
            encryption_keys: self.settings.encryption_keys.clone(),
            release: self.release,
            name: name.clone(),
        };
        self.put_manifest(&manifest).await?;
        tracing::info!(
            backup = %name, bytes = plain_bytes, parts = manifest.parts.len(), "backed etcd up"
        );
        Ok(manifest)
    }

    async fn put_manifest(&self, manifest: &BackupManifest) -> Result<(), BackupError> {
        let key = keys::backup_manifest(manifest.generation, &manifest.name);
        let bound = keys::bound_name(&self.identity.environment, &key);
        let sealed = seal_node_object(manifest, &bound, Some(&self.group_key));
        let sealed = Bytes::from(sealed.map_err(BackupError::Encode)?);
        put_immutable(self.store.as_ref(), BACKOFF, &key, &sealed)
            .await
            .map_err(BackupError::Store)
    }

    /// Removes what is superfluous now that there is `good`: of all generations together, and parts that never got a
    /// manifest. Gives how many backups went. What fails is left for the next time.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn prune(&self, good: &BackupName) -> Result<usize, StoreError> {
        let objects = self.store.list(keys::ETCD_PREFIX).await?;
        let mut generations: BTreeMap<BackupName, BTreeSet<u32>> = BTreeMap::new();
        for (generation, name) in objects.iter().filter_map(|key| keys::backup_of(key)) {
            generations.entry(name).or_default().insert(generation);
        }
        let names: BTreeSet<BackupName> = generations.keys().cloned().collect();
        let now = self.clock.now();
        let mut gone = superfluous(&self.settings, &names, good, now);
        // Some member may still be reading it.
        gone.retain(|name| Some(*name) != self.restores.as_ref());
        for name in &gone {
            // The manifest first: what is half removed is no backup.
            for generation in generations.get(*name).into_iter().flatten() {
                let key = keys::backup_manifest(*generation, name);
                self.store.delete(&key).await?;
            }
        }
        let stays = |name: &BackupName| names.contains(name) && !gone.contains(&name);
        for key in &objects {
            let Some(name) = part_of(key) else {
                continue;
            };
            let is_young = now.duration_since(name.at()) < ORPHANS_STAY;
            let is_orphan = !names.contains(&name);
            if !(stays(&name) || is_orphan && is_young) {
                self.store.delete(key).await?;
            }
        }
        Ok(gone.len())
    }

    /// Where the node's own member stands among its peers.
    ///
    /// # Errors
    /// [`EtcdError`]: it does not answer.
    pub async fn standing(&self) -> Result<Standing, EtcdError> {
        let status = self.client.status().await?;
        if status.is_learner {
            return Ok(Standing::Learner);
        }
        let corrupt = |error: &String| error.contains("CORRUPT");
        if status.leader.is_none() || status.errors.iter().any(corrupt) {
            return Ok(Standing::Unfit);
        }
        if status.leader == Some(status.member_id) {
            return Ok(Standing::Leader);
        }
        // Where nobody says who the others are, the member's number alone spreads them out.
        let rank = match self.client.member_list().await {
            Ok(members) => {
                let before = |m: &&Member| !m.is_learner && m.id < status.member_id;
                u32::try_from(members.iter().filter(before).count()).unwrap_or(u32::MAX)
            }
            Err(_) => u32::try_from(status.member_id % 4).unwrap_or_default(),
        };
        Ok(Standing::Follower { rank })
    }

    /// When the newest backup that can be believed was begun, and which it is.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be asked; a manifest that is not to be believed is passed over, and said.
    pub async fn newest(&self) -> Result<Option<BackupManifest>, StoreError> {
        newest_backup(
            self.store.as_ref(),
            &self.identity,
            self.settings.generation,
            &self.group_key,
        )
        .await
    }

    /// How long it has been since then.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Most manifests that are passed over in the search for one to be believed.
const PASSED_OVER: usize = 8;

/// The newest backup of a generation that can be believed.
///
/// # Errors
/// [`StoreError`].
pub async fn newest_backup(
    store: &dyn ObjectStore,
    identity: &NodeIdentity,
    generation: u32,
    key: &GroupKey,
) -> Result<Option<BackupManifest>, StoreError> {
    let listed = store.list(&keys::backups_prefix(generation)).await?;
    let mut names: Vec<BackupName> = listed
        .iter()
        .filter_map(|key| keys::backup_of(key))
        .map(|(_, name)| name)
        .collect();
    names.sort();
    for name in names.iter().rev().take(PASSED_OVER) {
        let (environment, group) = (&identity.environment, &identity.group);
        match shared::backup::read_manifest(store, environment, group, generation, name, key).await
        {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(shared::backup::ManifestError::Store(error)) => return Err(error),
            Err(error) => {
                tracing::warn!(backup = %name, error = crate::trouble::chain(&error), "passed over");
            }
        }
    }
    Ok(None)
}

fn part_of(key: &str) -> Option<BackupName> {
    let (_, rest) = key.strip_prefix(keys::ETCD_PREFIX)?.split_once('/')?;
    let (name, _) = rest.strip_prefix("snapshots/")?.split_once('/')?;
    name.parse().ok()
}

/// Whether an etcd that did not answer is one that is not there: then nothing is wrong with backups.
#[must_use]
pub fn is_absent(error: &BackupError) -> bool {
    matches!(error, BackupError::Etcd(e) if e.kind == EtcdErrorKind::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(bytes: &[u8], step: usize) -> Result<(), BackupError> {
        let mut tail = Tail::default();
        for piece in bytes.chunks(step) {
            tail.update(piece);
        }
        tail.check()
    }

    #[test]
    fn a_snapshot_ends_with_its_own_digest() {
        let database: Vec<u8> = (0..4096_u32).map(|n| n.to_le_bytes()[0]).collect();
        let digest = *Sha256Digest::of(&database).as_bytes();
        let whole = [&database[..], &digest].concat();
        for step in [1, 7, 31, 32, 33, 4096, 5000] {
            assert!(tail(&whole, step).is_ok(), "{step}");
        }
        let mut changed = whole.clone();
        changed[17] ^= 1;
        assert!(tail(&changed, 100).is_err());
        assert!(tail(&whole[..whole.len() - 1], 100).is_err());
        assert!(tail(&database, 100).is_err(), "without a digest");
        assert!(tail(&digest, 100).is_err(), "nothing but a digest");
        assert!(tail(&[], 100).is_err());
        let twice = [&database[..], &digest, &digest].concat();
        assert!(tail(&twice, 100).is_err());
    }

    #[test]
    fn parts_are_known_by_their_key() {
        let name: BackupName = "20261123T024942Z-7".parse().unwrap();
        assert_eq!(
            part_of(&keys::snapshot_part(3, &name, 0)),
            Some(name.clone())
        );
        let manifest = keys::backup_manifest(3, &name);
        assert_eq!(keys::backup_of(&manifest), Some((3, name)));
        for other in ["etcd/1/cluster.json", &manifest, "etcd/x/snapshots/y/0"] {
            assert_eq!(part_of(other), None, "{other}");
        }
        for other in [
            "etcd/01/backups/20261123T024942Z-7.json",
            "etcd/1/cluster.json",
        ] {
            assert_eq!(keys::backup_of(other), None, "{other}");
        }
    }
}
