//! What a release of a group that runs etcd brings for the agent.

use anyhow::Context as _;
use shared::backup::{
    BackupSettings, RESTORE_FILE, RESTORE_IDENTITY_FILE, SETTINGS_FILE, recipient_of,
};
use shared::check::secret_dir::SecretFile;
use shared::documents::{AuthorityName, KeyringContent};
use shared::names::GroupName;
use shared::rewrite::{REWRITE_FILE, RewriteOrder};
use shared::secret::SecretBytes;

use crate::pki::Names;

/// The file without which an agent cannot speak to etcd; a release that has it is of machines that run it.
const CLIENT: &str = "secrets/kube-apiserver/etcd-client.key";

/// Whether a release with these files is of machines that run etcd.
pub fn runs_etcd<'a>(paths: impl IntoIterator<Item = &'a str>) -> bool {
    paths.into_iter().any(|path| path == CLIENT)
}

/// The files, by their paths in the release.
///
/// # Errors
/// A keyring that was not completed.
pub fn agent_files(
    group: &GroupName,
    keyring: &KeyringContent,
) -> anyhow::Result<Vec<(String, SecretFile)>> {
    let keys = keyring.groups.get(group);
    let identity = keys.and_then(|k| k.backup_identity.as_ref());
    let identity =
        identity.context("the keyring has no key for backups yet; the next publish makes it")?;
    let mut recipients = vec![recipient_of(identity)?];
    recipients.extend(keyring.recovery_recipients.iter().cloned());
    let pki = keyring.pki.iter();
    let names = pki.flat_map(|p| p.encryption_keys().map(|key| key.name.clone()));
    let settings =
        BackupSettings::usual(keyring.etcd_generation.get(), recipients, names.collect());
    let mut files = vec![(SETTINGS_FILE.to_owned(), private(settings.to_file()?))];
    if let Some(order) = &keyring.etcd_restore {
        files.push((RESTORE_FILE.to_owned(), private(order.to_file()?)));
        if keyring.etcd_restoring {
            // The one time that nodes have what opens a backup.
            let identity = identity.expose().as_bytes().to_vec();
            files.push((RESTORE_IDENTITY_FILE.to_owned(), private(identity)));
        }
    }
    if let Some(order) = rewrite_order(keyring)? {
        files.push((REWRITE_FILE.to_owned(), private(order.to_file()?)));
    }
    Ok(files)
}

/// The order to rewrite what is stored, where one stands.
fn rewrite_order(keyring: &KeyringContent) -> anyhow::Result<Option<RewriteOrder>> {
    let Some(pki) = &keyring.pki else {
        return Ok(None);
    };
    let Some(mark) = &pki.at_rest.rewrite else {
        return Ok(None);
    };
    let authority = pki.authorities.get(&AuthorityName::Cluster);
    let authority = authority.context("the keyring has no cluster authority")?;
    Ok(Some(RewriteOrder {
        number: mark.number,
        generation: keyring.etcd_generation.get(),
        key: pki.encryption.current.name.clone(),
        server: Names::local_api_url(),
        authority: authority.trust_bundle(),
        certificate: mark.client.certificate.clone(),
        private_key: mark.client.key.clone(),
    }))
}

/// A file of root's alone.
fn private(bytes: Vec<u8>) -> SecretFile {
    SecretFile {
        bytes: SecretBytes::new(bytes),
        mode: 0o600,
        owner: (0, 0),
    }
}
