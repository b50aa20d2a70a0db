//! The newest targets document in the bucket, whether `timestamp.json` names it or not.
//!
//! A publish that crashed leaves one, and so does whoever removes or puts back `timestamp.json` and the keyring: a
//! machine that remembers nothing notices the latter only here.

use anyhow::Context as _;
use shared::limits;
use shared::names::{GroupName, ReleaseNumber};
use shared::store::{Backoff, Fetched, keys, with_retries};
use shared::trust::{ReleaseTarget, release_of_lone_targets};

use crate::context::Context;
use crate::keyring::Keyring;

/// How many documents that nobody of ours signed are passed over: whoever can write the bucket can put them there.
const PASSED_OVER: usize = 16;
const SUFFIX: &str = ".targets.json";

/// The newest targets document that the keyring's keys have signed.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    /// Its version; all numbers up to it are taken.
    pub(super) number: ReleaseNumber,
    /// The current release that it lists.
    pub(super) release: Option<ReleaseTarget>,
}

/// Looks for it; none where the group has none.
///
/// # Errors
/// A store that fails, or documents of other keys only.
pub(super) async fn newest(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
) -> anyhow::Result<Option<Newest>> {
    let prefix = keys::metadata_prefix(group);
    let listed = with_retries(Backoff::INTERACTIVE, || context.store.list(&prefix))
        .await
        .with_context(|| format!("cannot list {prefix}"))?;
    let mut numbers: Vec<ReleaseNumber> = listed
        .iter()
        .filter_map(|key| key.strip_prefix(&prefix)?.strip_suffix(SUFFIX))
        .filter_map(|number| ReleaseNumber::new(number.parse().ok()?))
        .collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let roots = &keyring.group(group)?.roots;
    let mut refused = None;
    for number in numbers.into_iter().take(PASSED_OVER) {
        let key = format!("{prefix}{number}{SUFFIX}");
        let get = || context.store.get(&key, limits::TARGETS_BYTES, None);
        let read = with_retries(Backoff::INTERACTIVE, get).await;
        let Fetched::Object { bytes, .. } = read.with_context(|| format!("cannot read {key}"))?
        else {
            anyhow::bail!("the store answered 304 to a plain read of {key}");
        };
        match release_of_lone_targets(roots.iter().map(String::as_str), &bytes) {
            Ok(release) => return Ok(Some(Newest { number, release })),
            Err(error) => {
                tracing::warn!(key, "passed over: {error}");
                refused = Some(anyhow::Error::new(error).context(format!("{key} is not ours")));
            }
        }
    }
    match refused {
        None => Ok(None),
        Some(error) => Err(error.context(format!(
            "group {group} has targets documents, and none that the keyring's keys have signed: the keyring is not the \
             one that they were published with"
        ))),
    }
}
