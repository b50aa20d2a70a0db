//! What the release on the disk has for dealing with etcd.

use std::sync::Arc;

use serde_json::Value;
use shared::backup::{BackupName, BackupSettings, RESTORE_FILE, RestoreOrder, SETTINGS_FILE};
use shared::check::yaml::parse_document;
use shared::documents::GroupKey;
use shared::names::ReleaseNumber;
use shared::secret::SecretBytes;
use shared::store::ObjectStore;

use super::identity::FILES;
use super::{BackupContext, EtcdClient, EtcdIdentity};
use crate::clock::Clock;
use crate::disk::{self, Disk, DiskError, Ledger, NodePaths};
use crate::status::NodeIdentity;
use crate::trouble::chain;

/// Where the node's member is, unless its configuration says otherwise.
const LOCAL: &str = "https://127.0.0.1:2379";
/// The member's configuration, below /etc/kubernetes.
const CONFIGURATION: &str = "etcd/etcd.conf.yaml";
/// Larger than such a file ever is, in bytes.
const CONFIGURATION_BYTES: u64 = 256 * 1024;

/// Everything there is on the disk.
#[derive(Debug)]
pub struct Material {
    /// What to come to etcd with.
    pub etcd: EtcdIdentity,
    /// Where the node's own member is.
    pub endpoint: String,
    /// The group's key.
    pub group_key: GroupKey,
    /// What the release says about backups.
    pub settings: BackupSettings,
    /// The release.
    pub release: Option<ReleaseNumber>,
    /// The backup that the release has its members made from.
    pub restores: Option<BackupName>,
}

impl Material {
    /// From a disk that is open.
    ///
    /// # Errors
    /// What is missing or cannot be used, in one line.
    pub fn of_disk(disk: &Disk) -> Result<Self, String> {
        Self::gather(disk.paths(), disk.ledger())
    }

    /// From a disk that another process has open; only read.
    ///
    /// # Errors
    /// As [`Material::of_disk`].
    pub fn of_paths(paths: &NodePaths) -> Result<Self, String> {
        let ledger = Ledger::load(paths).map_err(|e| chain(&e))?;
        let ledger = ledger.ok_or("no release has been adopted yet")?;
        Self::gather(paths, &ledger)
    }

    fn gather(paths: &NodePaths, ledger: &Ledger) -> Result<Self, String> {
        let told = |e: DiskError| chain(&e);
        let bytes = |entry: &str| -> Result<SecretBytes, String> {
            let found = disk::owned_bytes(paths, ledger, entry).map_err(told)?;
            found.ok_or_else(|| format!("the release has no {entry}, or it was changed"))
        };
        let [ca, certificate, key] = FILES;
        let settings = BackupSettings::from_file(bytes(SETTINGS_FILE)?.expose())
            .map_err(|e| format!("{SETTINGS_FILE}: {e}"))?;
        let etcd = EtcdIdentity::from_pem(
            bytes(ca)?.expose(),
            bytes(certificate)?.expose(),
            bytes(key)?.expose(),
        )?;
        let group_key = disk::read_group_key(paths).map_err(told)?;
        Ok(Self {
            etcd,
            endpoint: endpoint(paths),
            group_key: group_key.ok_or("the release has no group key")?,
            settings,
            release: ledger.release.as_ref().map(|r| r.release),
            restores: disk::owned_bytes(paths, ledger, RESTORE_FILE)
                .ok()
                .flatten()
                .and_then(|bytes| serde_json::from_slice::<RestoreOrder>(bytes.expose()).ok())
                .map(|order| order.backup.name),
        })
    }

    /// A client of the node's own member.
    ///
    /// # Errors
    /// What is wrong with its URL.
    pub fn client(&self) -> Result<EtcdClient, String> {
        EtcdClient::new(&self.etcd, &self.endpoint).map_err(|e| chain(&e))
    }

    /// What a backup takes.
    ///
    /// # Errors
    /// As [`Material::client`].
    pub fn context(
        self,
        store: Arc<dyn ObjectStore>,
        identity: NodeIdentity,
        clock: Arc<dyn Clock>,
    ) -> Result<BackupContext, String> {
        Ok(BackupContext {
            client: self.client()?,
            store,
            identity,
            group_key: self.group_key,
            settings: self.settings,
            release: self.release,
            restores: self.restores,
            clock,
        })
    }
}

/// The first loopback URL at which the member listens for clients, by its own configuration; as usual where it has none.
fn endpoint(paths: &NodePaths) -> String {
    let file = paths.kubernetes().join(CONFIGURATION);
    let read = disk::read_bounded(&file, CONFIGURATION_BYTES)
        .ok()
        .flatten();
    let parsed = read.and_then(|bytes| parse_document(bytes.expose()).ok());
    let listens = parsed.as_ref().and_then(|v| v.get("listen-client-urls"));
    let urls = listens.and_then(Value::as_str).unwrap_or(LOCAL);
    let loopback = |url: &&str| url.starts_with("https://127.") || url.contains("localhost");
    let mut urls = urls.split(',');
    urls.find(loopback).unwrap_or(LOCAL).to_owned()
}
