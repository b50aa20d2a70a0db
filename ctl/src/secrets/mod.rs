//! The operators' own secret files in the keyring: what `platformctl secrets` does, without its command line.
//!
//! `scratch` is where a file lies while an editor has it.

mod scratch;

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use serde::Serialize;
use shared::bundle::Mode;
use shared::documents::{KeyringContent, MAX_PLAIN_BYTES, OwnFile};
use shared::limits;
use shared::names::{EntryPath, GroupName};
use shared::secret::SecretBytes;

use crate::env::Environment;
use crate::exit::mistake;
use crate::pki::{Names, deliver};

pub use scratch::Scratch;

/// Which file: `GROUP/POD/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretName {
    /// The group whose releases carry it.
    pub group: GroupName,
    /// The pod that alone sees it.
    pub pod: String,
    /// Its name in the pod's secret directory.
    pub name: String,
}

/// Owner and group of a file on a node, as numbers: `UID:GID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Permission bits that a secret file may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub Mode);

/// One file, without what it holds. A digest is not shown either: that of a short secret is as good as the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The group whose releases carry it.
    pub group: GroupName,
    /// The pod that alone sees it.
    pub pod: String,
    /// Its name.
    pub name: String,
    /// How long it is.
    pub bytes: usize,
    /// Its permission bits on a node.
    pub mode: Mode,
    /// Its numeric owner.
    pub uid: u32,
    /// Its numeric group.
    pub gid: u32,
}

/// Somebody else changed the same file meanwhile.
#[derive(Debug, thiserror::Error)]
#[error("another operator changed {0} in the keyring meanwhile; nothing of theirs was overwritten")]
pub struct ChangedMeanwhile(pub SecretName);

/// Every file, by group, pod and name.
#[must_use]
pub fn list(content: &KeyringContent) -> Vec<Listed> {
    let mut all = Vec::new();
    for (group, pods) in &content.files {
        for (pod, files) in pods {
            all.extend(files.iter().map(|(name, file)| Listed {
                group: group.clone(),
                pod: pod.clone(),
                name: name.clone(),
                bytes: file.bytes.len(),
                mode: file.mode,
                uid: file.uid,
                gid: file.gid,
            }));
        }
    }
    all
}

/// One file.
///
/// # Errors
/// A [`crate::exit::Mistake`] where there is none.
pub fn get<'a>(content: &'a KeyringContent, of: &SecretName) -> anyhow::Result<&'a OwnFile> {
    find(content, of).ok_or_else(|| missing(of))
}

/// Puts a file into the keyring, in the place of the one that is there. Whether that changed anything.
///
/// # Errors
/// A [`crate::exit::Mistake`] for a file over the limits, or a name that the platform itself makes; nothing is changed.
pub fn put(
    content: &mut KeyringContent,
    environment: &Environment,
    of: &SecretName,
    file: &OwnFile,
) -> anyhow::Result<bool> {
    if find(content, of) == Some(file) {
        return Ok(false);
    }
    check_length(of, file.bytes.len() as u64)?;
    if let Some(pki) = &content.pki {
        let made = deliver(&of.group, pki, &Names::of(environment))?;
        let is_made = made.pods.get(&of.pod);
        if is_made.is_some_and(|files| files.contains_key(&of.name)) {
            return Err(mistake(format!(
                "{of} is made by the platform and kept in the keyring already; nothing was changed. Give the file \
                 another name"
            )));
        }
    }
    let pods = content.files.entry(of.group.clone()).or_default();
    let files = pods.entry(of.pod.clone()).or_default();
    files.insert(of.name.clone(), file.clone());
    check_total(content, of)?;
    Ok(true)
}

/// Removes a file.
///
/// # Errors
/// A [`crate::exit::Mistake`] where there is none.
pub fn remove(content: &mut KeyringContent, of: &SecretName) -> anyhow::Result<()> {
    let pods = content.files.get_mut(&of.group);
    let files = pods.and_then(|pods| pods.get_mut(&of.pod));
    files
        .and_then(|files| files.remove(&of.name))
        .ok_or_else(|| missing(of))?;
    for pods in content.files.values_mut() {
        pods.retain(|_, files| !files.is_empty());
    }
    content.files.retain(|_, pods| !pods.is_empty());
    Ok(())
}

/// Puts an edited file in the place of `before`, which the editor was given.
///
/// # Errors
/// [`ChangedMeanwhile`] where another stands there now; those of [`put`].
pub fn replace(
    content: &mut KeyringContent,
    environment: &Environment,
    of: &SecretName,
    before: &OwnFile,
    after: &OwnFile,
) -> anyhow::Result<bool> {
    match find(content, of) {
        // The answer to an earlier write was lost.
        Some(found) if found == after => Ok(false),
        Some(found) if found == before => put(content, environment, of, after),
        _ => Err(ChangedMeanwhile(of.clone()).into()),
    }
}

/// Reads what is to become a file, up to the limit.
///
/// # Errors
/// A source that fails; a [`crate::exit::Mistake`] for more than a release's file may hold.
pub fn read_value(of: &SecretName, source: impl Read) -> anyhow::Result<SecretBytes> {
    // Room for all of it at once: a growing buffer would leave copies behind.
    let mut bytes = Vec::with_capacity(usize::try_from(limits::FILE_BYTES)? + 1);
    source
        .take(limits::FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    let bytes = SecretBytes::new(bytes);
    check_length(of, bytes.len() as u64)?;
    Ok(bytes)
}

fn check_length(of: &SecretName, length: u64) -> anyhow::Result<()> {
    if length <= limits::FILE_BYTES {
        return Ok(());
    }
    Err(mistake(format!(
        "{of} has more than the {} bytes that a file of a release may have; nothing was changed",
        limits::FILE_BYTES
    )))
}

fn check_total(content: &KeyringContent, of: &SecretName) -> anyhow::Result<()> {
    let encoded = serde_json::to_vec(content).map(SecretBytes::new)?;
    if encoded.len() as u64 <= MAX_PLAIN_BYTES {
        return Ok(());
    }
    Err(mistake(format!(
        "with {of} the keyring would hold {} bytes, more than the {MAX_PLAIN_BYTES} that it may; nothing was changed. \
         `platformctl secrets list` shows what is in it, `secrets rm` makes room",
        encoded.len()
    )))
}

fn find<'a>(content: &'a KeyringContent, of: &SecretName) -> Option<&'a OwnFile> {
    content.files.get(&of.group)?.get(&of.pod)?.get(&of.name)
}

fn missing(of: &SecretName) -> anyhow::Error {
    mistake(format!(
        "the keyring has no file {of}; `platformctl secrets list` shows those it has"
    ))
}

// === impl SecretName ===

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.group, self.pod, self.name)
    }
}

impl FromStr for SecretName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let [group, pod, name] = text.split('/').collect::<Vec<_>>()[..] else {
            return Err("a secret file is named GROUP/POD/NAME".to_owned());
        };
        let group = GroupName::new(group).map_err(|e| e.to_string())?;
        EntryPath::new(format!("secrets/{pod}/{name}")).map_err(|e| e.to_string())?;
        Ok(Self {
            group,
            pod: pod.to_owned(),
            name: name.to_owned(),
        })
    }
}

// === impl Owner ===

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once(':')
            .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        let (uid, gid) =
            parsed.ok_or("an owner is two numbers, UID:GID: names differ between machines")?;
        // chown takes this value for "leave it as it is".
        if uid == u32::MAX || gid == u32::MAX {
            return Err(format!("{} is nobody's number", u32::MAX));
        }
        Ok(Self { uid, gid })
    }
}

// === impl FileMode ===

impl FromStr for FileMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let octal = text.len() <= 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(text, 8) {
            Ok(bits) if octal && bits & !0o644 == 0 && bits & 0o400 != 0 => {
                Ok(Self(Mode::new(bits)))
            }
            _ => Err("a secret's mode is octal and lies between 0400 and 0644".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
