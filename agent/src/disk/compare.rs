//! What is on the disk beside what has to be there.

use std::collections::BTreeMap;
use std::fmt;

use super::ledger::OwnedFile;
use super::observe::{DirectoryState, FileState, State};
use super::paths::{OwnedPlace, SecretDirectory};

/// How something differs from what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftKind {
    /// It is gone.
    Missing,
    /// It is no regular file, or no directory.
    Kind,
    /// Its bytes are others.
    Content,
    /// Its permission bits are others.
    Mode,
    /// Its owner is another.
    Owner,
    /// It is in a secret directory and does not belong there.
    Extra,
    /// It is a manifest that this node does not run for now.
    Held,
    /// The operating system does not give its bytes, or what is in it: a bad block, for one.
    Unreadable,
}

/// Mode and owner of a secret directory with these files: private to the one owner of them all. Where there are several,
/// each of them may go in, to files whose names it knows.
pub(crate) fn directory_attributes<'a>(
    files: impl IntoIterator<Item = &'a OwnedFile>,
) -> (u32, (u32, u32)) {
    let mut owners = files.into_iter().map(|file| (file.uid, file.gid));
    match owners.next() {
        Some(first) if owners.all(|other| other == first) => (0o700, first),
        None => (0o700, (0, 0)),
        Some(_) => (0o711, (0, 0)),
    }
}

/// The files of each secret directory among `files`, by name.
pub(crate) fn by_directory<'a>(
    files: impl IntoIterator<Item = &'a OwnedFile>,
) -> BTreeMap<SecretDirectory, BTreeMap<&'a str, &'a OwnedFile>> {
    let mut directories: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for file in files {
        if let OwnedPlace::Secret { directory, name } = file.path.place() {
            directories.entry(directory).or_default().insert(name, file);
        }
    }
    directories
}

/// How a file differs from what it has to be; `owners` says whether owners count.
pub(crate) fn compare_file(
    wanted: &OwnedFile,
    found: Option<&State>,
    owners: bool,
) -> Option<DriftKind> {
    match found {
        None | Some(State::BelowFile) => Some(DriftKind::Missing),
        Some(State::Directory | State::Special(_)) => Some(DriftKind::Kind),
        Some(State::Unreadable) => Some(DriftKind::Unreadable),
        Some(State::Regular(found)) if !same_content(wanted, found) => Some(DriftKind::Content),
        Some(State::Regular(found)) if found.mode != wanted.mode.bits() => Some(DriftKind::Mode),
        Some(State::Regular(found)) if owners && found.owner != (wanted.uid, wanted.gid) => {
            Some(DriftKind::Owner)
        }
        Some(State::Regular(_)) => None,
    }
}

/// Whether the bytes are those wanted.
pub(crate) fn same_content(wanted: &OwnedFile, found: &FileState) -> bool {
    found.sha256 == wanted.sha256 && found.bytes == wanted.bytes
}

/// How a secret directory differs from what it has to be: the name of the file, none for the directory itself.
pub(crate) fn compare_directory(
    wanted: &BTreeMap<&str, &OwnedFile>,
    found: Option<&DirectoryState>,
    owners: bool,
) -> Vec<(Option<String>, DriftKind)> {
    let (mode, owner, entries) = match found {
        None => return vec![(None, DriftKind::Missing)],
        Some(DirectoryState::NotADirectory) => return vec![(None, DriftKind::Kind)],
        Some(DirectoryState::Unreadable) => return vec![(None, DriftKind::Unreadable)],
        Some(DirectoryState::Directory {
            mode,
            owner,
            entries,
        }) => (*mode, *owner, entries),
    };
    let mut drift = Vec::new();
    let (wanted_mode, wanted_owner) = directory_attributes(wanted.values().copied());
    if mode != wanted_mode {
        drift.push((None, DriftKind::Mode));
    } else if owners && owner != wanted_owner {
        drift.push((None, DriftKind::Owner));
    }
    for (name, file) in wanted {
        if let Some(kind) = compare_file(file, entries.get(*name), owners) {
            drift.push((Some((*name).to_owned()), kind));
        }
    }
    let extra = entries
        .keys()
        .filter(|name| !wanted.contains_key(name.as_str()));
    drift.extend(extra.map(|name| (Some(name.clone()), DriftKind::Extra)));
    drift
}

impl fmt::Display for DriftKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Kind => "not a regular file",
            Self::Content => "changed",
            Self::Mode => "has another mode",
            Self::Owner => "has another owner",
            Self::Extra => "does not belong there",
            Self::Held => "is held back, and there",
            Self::Unreadable => "cannot be read",
        })
    }
}
