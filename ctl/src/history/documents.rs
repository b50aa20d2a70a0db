//! The targets documents of a group, newest first, each verified by itself.

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use shared::limits;
use shared::names::{GroupName, ReleaseNumber};
use shared::store::{Backoff, Fetched, StoreErrorKind, keys, with_retries};
use shared::trust::{LoneTargets, LoneTargetsError, ReleaseTarget, TargetError};

use crate::context::Context;
use crate::keyring::Keyring;
use crate::publish::Published;

/// Reads at once.
const PARALLEL: usize = 8;
const SUFFIX: &str = ".targets.json";

/// Why a release cannot be shown or brought back.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// No document of that number, or one that brought no release.
    #[error(
        "group {group} has no release {number} (any more): `platformctl history {group}` lists those that there are"
    )]
    NoSuch {
        /// The group.
        group: GroupName,
        /// The number asked for.
        number: ReleaseNumber,
    },
    /// Its document is not one of ours.
    #[error(
        "{key} is not what the keyring's keys have signed for this group: somebody else wrote it"
    )]
    Signature {
        /// The object.
        key: String,
        /// What is wrong.
        #[source]
        source: LoneTargetsError,
    },
    /// Its document is signed, and for something else.
    #[error("{key} is signed, but as version {version}")]
    Version {
        /// The object.
        key: String,
        /// The version in it.
        version: ReleaseNumber,
    },
    /// Its document is signed for another group or environment.
    #[error("{key} is signed for another group or environment")]
    Foreign {
        /// The object.
        key: String,
        /// Which.
        #[source]
        source: TargetError,
    },
}

/// What was read of a group's documents.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// Newest first; none is newer than what is current.
    pub read: Vec<LoneTargets>,
    /// Documents that are not believed, and why.
    pub refused: Vec<String>,
    /// Whether older ones were left unread.
    pub more: bool,
}

/// The numbers of the targets documents among `keys`, in no order. Anything else is passed over.
pub fn document_numbers<'a>(
    prefix: &str,
    keys: impl IntoIterator<Item = &'a str>,
) -> Vec<ReleaseNumber> {
    keys.into_iter()
        .filter_map(|key| key.strip_prefix(prefix)?.strip_suffix(SUFFIX))
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0'))
        .filter_map(|digits| ReleaseNumber::new(digits.parse().ok()?))
        .collect()
}

/// Reads one document and verifies it by itself.
///
/// # Errors
/// [`ReleaseError`]; a store that fails.
pub async fn read_document(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    number: ReleaseNumber,
) -> anyhow::Result<LoneTargets> {
    let key = format!("{}{number}{SUFFIX}", keys::metadata_prefix(group));
    let get = || context.store.get(&key, limits::TARGETS_BYTES, None);
    let bytes = match with_retries(Backoff::INTERACTIVE, get).await {
        Ok(Fetched::Object { bytes, .. }) => bytes,
        Ok(Fetched::NotModified) => {
            anyhow::bail!("the store answered 304 to a plain read of {key}")
        }
        Err(e) if e.kind == StoreErrorKind::NotFound => {
            let group = group.clone();
            return Err(ReleaseError::NoSuch { group, number }.into());
        }
        Err(e) => return Err(e).with_context(|| format!("cannot read {key}")),
    };
    let roots = keyring.group(group)?.roots.iter().map(String::as_str);
    let document = match LoneTargets::read(roots, &bytes) {
        Ok(document) => document,
        Err(source) => return Err(ReleaseError::Signature { key, source }.into()),
    };
    if document.version != number {
        let version = document.version;
        return Err(ReleaseError::Version { key, version }.into());
    }
    for release in &document.releases {
        if let Err(source) = release.belongs_to(&context.workspace.name, group) {
            return Err(ReleaseError::Foreign { key, source }.into());
        }
    }
    Ok(document)
}

/// Reads the documents from the current one on back, until `wanted` releases were found or there are no more. A few
/// requests at once, and no bundle.
///
/// A document whose keys had been replaced before an older document was signed is not believed: whoever holds an old key
/// can put one where a number was never used.
///
/// # Errors
/// A store that fails; a document that is not believed is named in the result instead.
pub async fn read_documents(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    published: &Published,
    wanted: Option<usize>,
) -> anyhow::Result<Documents> {
    let prefix = keys::metadata_prefix(group);
    let listed = with_retries(Backoff::INTERACTIVE, || context.store.list(&prefix))
        .await
        .with_context(|| format!("cannot list {prefix}"))?;
    let newest = published.version();
    let mut numbers = document_numbers(&prefix, listed.iter().map(String::as_str));
    numbers.retain(|number| Some(*number) <= newest);
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let mut found = Documents::default();
    let mut releases = 0;
    let mut reads = stream::iter(&numbers)
        .map(|number| read_document(context, keyring, group, *number))
        .buffered(PARALLEL);
    while let Some(read) = reads.next().await {
        if wanted.is_some_and(|wanted| releases >= wanted) {
            found.more = true;
            break;
        }
        match read {
            Ok(document) => {
                releases += usize::from(brought(&document).is_some());
                found.read.push(document);
            }
            Err(e) if matches!(e.downcast_ref(), Some(ReleaseError::NoSuch { .. })) => {}
            Err(e) if e.is::<ReleaseError>() => found.refused.push(format!("{e:#}")),
            Err(e) => return Err(e),
        }
    }
    drop(reads);
    refuse_replaced_keys(group, &mut found);
    Ok(found)
}

/// The release that a document brought: a renewal of signatures brings none.
pub(super) fn brought(document: &LoneTargets) -> Option<&ReleaseTarget> {
    let current = document.current()?;
    (current.release() == document.version).then_some(current)
}

/// Keys only ever get newer.
fn refuse_replaced_keys(group: &GroupName, found: &mut Documents) {
    let mut newest_of_older = 0;
    let mut refused = Vec::new();
    for document in found.read.iter().rev() {
        if document.newest_root < newest_of_older {
            refused.push(document.version);
        }
        newest_of_older = newest_of_older.max(document.newest_root);
    }
    found.read.retain(|d| !refused.contains(&d.version));
    found.refused.extend(refused.into_iter().map(|number| {
        format!(
            "{}{number}{SUFFIX} is signed by keys that had been replaced before",
            keys::metadata_prefix(group)
        )
    }));
}

/// The signed facts of one release.
///
/// # Errors
/// As [`read_document`]; [`ReleaseError::NoSuch`] for a number that brought no release, or is newer than what is current.
pub async fn release_of(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    number: ReleaseNumber,
) -> anyhow::Result<ReleaseTarget> {
    let document = read_document(context, keyring, group, number).await?;
    brought(&document).cloned().ok_or_else(|| {
        let group = group.clone();
        ReleaseError::NoSuch { group, number }.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn only_targets_documents_have_a_number() {
        let keys = [
            "groups/secure/metadata/1.root.json",
            "groups/secure/metadata/12.targets.json",
            "groups/secure/metadata/012.targets.json",
            "groups/secure/metadata/0.targets.json",
            "groups/secure/metadata/.targets.json",
            "groups/secure/metadata/+3.targets.json",
            "groups/secure/metadata/timestamp.json",
            "groups/compute/metadata/7.targets.json",
        ];
        let numbers = document_numbers("groups/secure/metadata/", keys);
        assert_eq!(numbers, [ReleaseNumber::new(12).unwrap()]);
    }

    #[test]
    fn keys_only_get_newer() {
        let document = |version: u64, newest_root| LoneTargets {
            version: ReleaseNumber::new(version).unwrap(),
            newest_root,
            releases: Vec::new(),
            artifacts: Vec::new(),
            expires: Timestamp::UNIX_EPOCH,
        };
        let mut found = Documents {
            // Keys changed by the roots 2 and 3: the old ones are good under 1 and 2, the new ones under 2 and 3.
            read: vec![
                document(9, 3),
                document(8, 2),
                document(6, 3),
                document(5, 2),
            ],
            ..Documents::default()
        };
        refuse_replaced_keys(&"secure".parse().unwrap(), &mut found);
        let left: Vec<u64> = found.read.iter().map(|d| d.version.get()).collect();
        assert_eq!(left, [9, 6, 5]);
        assert!(found.refused[0].contains("/8.targets.json"), "{found:?}");
    }
}
