//! Looking back: which releases there were, who published them, what they changed, and how their rollouts went.
//!
//! Everything is read from the immutable objects of the bucket: a release's number is the version of the targets document
//! that brought it. `documents` reads and verifies those, `chain` (pure) tells which of them were ever current and what
//! became of them, `changes` compares their bundles, once for each.

mod chain;
mod changes;
mod documents;

#[cfg(test)]
pub(crate) use chain::tests as testing;
pub use chain::{Entry, Fate, History};
pub use changes::changes;
pub use documents::{
    Documents, ReleaseError, document_numbers, read_document, read_documents, release_of,
};

use shared::names::GroupName;

use crate::context::Context;
use crate::keyring::Keyring;
use crate::publish::Published;

/// The newest `limit` releases of a group, or all of them; none where nothing is published.
///
/// # Errors
/// A store that fails, or a published group whose own document cannot be read.
pub async fn history(
    context: &Context,
    keyring: &Keyring,
    group: &GroupName,
    published: &Published,
    limit: Option<usize>,
) -> anyhow::Result<Option<History>> {
    let Some(current) = published.current() else {
        return Ok(None);
    };
    // One more than is shown: what became of a release is said by those after it, what it replaced by the one before.
    let wanted = limit.map(|limit| limit.saturating_add(1));
    let documents = read_documents(context, keyring, group, published, wanted).await?;
    Ok(Some(History::of(current.release(), &documents, limit)))
}
