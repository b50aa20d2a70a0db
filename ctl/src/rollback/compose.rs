//! The files of a rollback: those of templates from then, those of the keyring from now. Pure.

use std::collections::BTreeMap;

use anyhow::Context as _;
use shared::backup::{RESTORE_FILE, RESTORE_IDENTITY_FILE};
use shared::bundle::{FileEntry, Origin, Release};
use shared::check::secret_dir::{
    SECRETS_ROOT, SecretFile, digest_of, secret_dir_digest, secret_dir_path,
};
use shared::documents::KeyringContent;
use shared::names::{EntryPath, GroupName, Place};
use shared::rewrite::REWRITE_FILE;
use shared::secret::SecretBytes;
use shared::trust::AgentTarget;

use crate::context::Context;
use crate::etcd::{agent_files, runs_etcd};
use crate::pki::{Names, deliver};
use crate::release::Content;
use crate::render::Secrets;

/// What the keyring has for a group's nodes, whoever mounts it.
#[derive(Debug, Clone, Default)]
pub struct FromKeyring {
    /// By secret directory and name: what the platform makes, and operators' own.
    pub secrets: Secrets,
    /// Files at fixed paths.
    pub fixed: BTreeMap<String, SecretFile>,
    /// Files for the agent, where the release is of machines that run etcd.
    pub for_etcd: Vec<(String, SecretFile)>,
}

impl FromKeyring {
    /// Takes it out of the keyring.
    ///
    /// # Errors
    /// A keyring that was not completed.
    pub fn gather(
        context: &Context,
        group: &GroupName,
        keyring: &KeyringContent,
    ) -> anyhow::Result<Self> {
        let names = Names::of(&context.workspace.environment);
        let pki = keyring.pki.as_ref();
        let pki = pki.context("the keyring has no PKI yet; the next publish makes it")?;
        let delivery = deliver(group, pki, &names)?;
        let mut all = Self {
            secrets: delivery.pods,
            fixed: delivery.fixed,
            for_etcd: Vec::new(),
        };
        for (pod, files) in keyring.files.get(group).into_iter().flatten() {
            let of_pod = all.secrets.entry(pod.clone()).or_default();
            of_pod.extend(files.iter().map(|(name, file)| {
                let file = SecretFile {
                    bytes: file.bytes.clone(),
                    mode: file.mode.bits(),
                    owner: (file.uid, file.gid),
                };
                (name.clone(), file)
            }));
        }
        let keys = keyring.groups.get(group);
        let keys = keys.with_context(|| format!("the keyring has no keys for group {group}"))?;
        let key = SecretFile {
            bytes: keys.group_key.to_file(),
            mode: 0o600,
            owner: (0, 0),
        };
        all.fixed.insert("agent/group.key".to_owned(), key);
        all.for_etcd = match keys.backup_identity {
            Some(_) => agent_files(group, keyring)?,
            None => Vec::new(),
        };
        Ok(all)
    }
}

/// Puts a rollback's content together.
///
/// # Errors
/// Every file that `then` had from the keyring and that the keyring does not have any more: a pod would miss it.
pub fn compose(
    then: &Release,
    now: FromKeyring,
    agent: Option<AgentTarget>,
) -> Result<Content, Vec<String>> {
    let mut now = now;
    let missing: Vec<String> = then
        .index()
        .files
        .iter()
        .filter(|f| f.origin == Origin::Keyring && !now.has(&f.path) && !is_order(&f.path))
        .map(|f| {
            format!(
                "{} came from the keyring, which does not have it any more (`platformctl secrets put` stores a file of \
                 your own)",
                f.path
            )
        })
        .collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    let mounted = mounted(then);
    now.secrets.retain(|dir, _| mounted.contains(dir));
    let old_directories = directories(then);
    let mut secrets = Secrets::new();
    let mut others: Vec<(String, SecretFile)> = Vec::new();
    for (entry, bytes) in then.files() {
        if entry.origin == Origin::Keyring {
            continue;
        }
        let file = file_of(entry, bytes);
        match entry.path.place() {
            Place::Secret { pod, name } => {
                let files = secrets.entry(pod.to_owned()).or_default();
                files.insert(name.to_owned(), file);
            }
            _ => others.push((entry.path.to_string(), file)),
        }
    }
    let mut from_keyring = Vec::new();
    for (dir, files) in now.secrets {
        for (name, file) in files {
            from_keyring.push((dir.clone(), name.clone()));
            // As in a publish: what the keyring has stands in the place of a template's file.
            secrets.entry(dir.clone()).or_default().insert(name, file);
        }
    }
    let renamed = renamed(&old_directories, &secrets);
    let mut files: Vec<(String, SecretFile, Origin)> = Vec::new();
    for (path, file) in others {
        let file = match path.starts_with("manifests/") {
            true => with_paths(file, &renamed),
            false => file,
        };
        files.push((path, file, Origin::Template));
    }
    for (path, file) in now.fixed {
        files.retain(|(other, ..)| *other != path);
        files.push((path, file, Origin::Keyring));
    }
    for (dir, of_dir) in secrets {
        for (name, file) in of_dir {
            let origin = match from_keyring.contains(&(dir.clone(), name.clone())) {
                true => Origin::Keyring,
                false => Origin::Template,
            };
            files.push((format!("secrets/{dir}/{name}"), file, origin));
        }
    }
    if runs_etcd(files.iter().map(|(path, ..)| path.as_str())) {
        let for_etcd = now.for_etcd.into_iter();
        files.extend(for_etcd.map(|(path, file)| (path, file, Origin::Keyring)));
    }
    Content::bring_back(then.index(), files, agent).map_err(|e| vec![format!("{e:#}")])
}

/// Whether the file is an order of its time to the agents, or what came with one: no pod reads it, and what the keyring
/// orders now is what counts.
fn is_order(path: &EntryPath) -> bool {
    matches!(
        path.as_str(),
        REWRITE_FILE | RESTORE_FILE | RESTORE_IDENTITY_FILE
    )
}

impl FromKeyring {
    fn has(&self, path: &EntryPath) -> bool {
        match path.place() {
            Place::Secret { pod, name } => {
                self.secrets.get(pod).is_some_and(|f| f.contains_key(name))
            }
            _ => {
                let path = path.as_str();
                self.fixed.contains_key(path) || self.for_etcd.iter().any(|(p, _)| p == path)
            }
        }
    }
}

fn file_of(entry: &FileEntry, bytes: &SecretBytes) -> SecretFile {
    SecretFile {
        bytes: bytes.clone(),
        mode: entry.mode.bits(),
        owner: (entry.uid, entry.gid),
    }
}

/// The path of each secret directory of a release.
fn directories(release: &Release) -> BTreeMap<String, String> {
    let all = release.secret_directories().into_iter();
    all.map(|(dir, files)| {
        let files = files
            .into_iter()
            .map(|(name, file)| (name.to_owned(), file));
        let digest = secret_dir_digest(&files.collect());
        (dir.to_owned(), secret_dir_path(dir, &digest))
    })
    .collect()
}

/// The secret directories that the manifests name.
fn mounted(release: &Release) -> Vec<String> {
    let texts: Vec<String> = manifests(release).collect();
    let named = |dir: &str| {
        let path = format!("{SECRETS_ROOT}/{dir}/");
        texts.iter().any(|text| text.contains(&path))
    };
    let all = release.secret_directories().into_keys();
    all.filter(|dir| named(dir)).map(str::to_owned).collect()
}

/// The text of each manifest.
pub(super) fn manifests(release: &Release) -> impl Iterator<Item = String> {
    let is_manifest = |e: &FileEntry| matches!(e.path.place(), Place::Manifest(_));
    let files = release.files().filter(move |(entry, _)| is_manifest(entry));
    files.map(|(_, bytes)| String::from_utf8_lossy(bytes.expose()).into_owned())
}

/// What each directory is called now, where that is another name than then.
fn renamed(old: &BTreeMap<String, String>, now: &Secrets) -> Vec<(String, String)> {
    let of = |(dir, path): (&String, &String)| {
        let new = secret_dir_path(dir, &digest_of(now.get(dir)?));
        (new != *path).then(|| (path.clone(), new))
    };
    old.iter().filter_map(of).collect()
}

fn with_paths(file: SecretFile, renamed: &[(String, String)]) -> SecretFile {
    let Ok(text) = std::str::from_utf8(file.bytes.expose()) else {
        return file;
    };
    let text = renamed.iter().fold(text.to_owned(), |text, (old, new)| {
        text.replace(old.as_str(), new)
    });
    SecretFile {
        bytes: SecretBytes::new(text.into_bytes()),
        ..file
    }
}
