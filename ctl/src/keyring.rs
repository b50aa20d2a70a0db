//! The keyring in the bucket: made once, changed only by compare-and-swap.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use jiff::Timestamp;
use shared::digest::Sha256Digest;
use shared::documents::{GroupKey, GroupKeys, KeyringContent, open_keyring, seal_keyring};
use shared::limits;
use shared::names::{EnvironmentName, GroupName};
use shared::store::{
    Backoff, ETag, Fetched, ObjectStore, PutCondition, StoreError, StoreErrorKind, keys,
    with_retries,
};
use shared::trust::sign::{RepositoryKeys, sign_root};
use shared::trust::{KeyringMark, ReleaseTarget};
use shared::wrap::KeyWrap;

use crate::context::Context;
use crate::exit::mistake;

/// How often a lost race is tried again.
const RACES: u32 = 8;

/// The keyring as it was read or written.
#[derive(Debug, Clone)]
pub struct Keyring {
    /// What it holds.
    pub content: KeyringContent,
    /// What releases record of it.
    pub mark: KeyringMark,
    etag: ETag,
}

/// An old keyring was put back: publishing with it would bring old secrets back.
#[derive(Debug, thiserror::Error)]
#[error(
    "the keyring in the bucket is {found}, but release {release} of group {group} was made with {published}: an old \
     keyring was put back, or somebody publishes with a newer one at this moment. Try again; if it stays so, restore \
     the newer object version of {} (the bucket keeps versions)",
    keys::KEYRING
)]
pub struct KeyringRolledBack {
    found: String,
    published: String,
    release: u64,
    group: GroupName,
}

/// There is no keyring, though releases are published: a new one could sign nothing that their nodes trust.
#[derive(Debug, thiserror::Error)]
#[error(
    "the keyring is gone from the bucket, though it holds releases: restore {} (the bucket keeps versions), or empty the \
     bucket to begin again",
    keys::KEYRING
)]
pub struct KeyringGone;

impl Keyring {
    /// The keys of one group.
    ///
    /// # Errors
    /// A group that the keyring does not know.
    pub fn group(&self, group: &GroupName) -> anyhow::Result<&GroupKeys> {
        self.content
            .groups
            .get(group)
            .with_context(|| format!("the keyring has no keys for group {group}"))
    }

    /// Refuses a keyring that is older than the one a published release was made with.
    ///
    /// # Errors
    /// [`KeyringRolledBack`].
    pub fn check_against(&self, published: &ReleaseTarget) -> Result<(), KeyringRolledBack> {
        let mark = &published.custom.keyring;
        let older = self.mark.version < mark.version;
        let other = self.mark.version == mark.version && self.mark.sha256 != mark.sha256;
        if !older && !other {
            return Ok(());
        }
        let show = |m: &KeyringMark| format!("version {} ({})", m.version, m.sha256.short());
        Err(KeyringRolledBack {
            found: show(&self.mark),
            published: show(mark),
            release: published.release().get(),
            group: published.custom.group.clone(),
        })
    }
}

/// Reads the keyring; none where there is none yet.
///
/// # Errors
/// A store that fails, or a keyring that cannot be opened.
pub async fn read(context: &Context) -> anyhow::Result<Option<Keyring>> {
    let fetch = || {
        context
            .store
            .get(keys::KEYRING, limits::KEYRING_BYTES, None)
    };
    let (bytes, etag) = match with_retries(Backoff::INTERACTIVE, fetch).await {
        Ok(Fetched::Object { bytes, etag }) => (bytes, etag),
        Ok(Fetched::NotModified) => bail!("the store answered 304 to a plain read"),
        Err(e) if e.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).context("cannot read the keyring"),
    };
    let (content, version) = open_keyring(&bytes, &context.workspace.name, context.wrap.as_ref())
        .await
        .context("cannot open the keyring")?;
    Ok(Some(Keyring {
        content,
        mark: KeyringMark {
            version,
            sha256: Sha256Digest::of(&bytes),
        },
        etag,
    }))
}

/// Reads the keyring for a verb that makes nothing: none where nothing was ever published.
///
/// # Errors
/// [`KeyringGone`], and as [`read`].
pub async fn read_existing(context: &Context) -> anyhow::Result<Option<Keyring>> {
    let found = read(context).await?;
    if found.is_none() && holds_releases(context).await? {
        return Err(KeyringGone.into());
    }
    Ok(found)
}

/// As [`read_existing`], for a verb that has nothing to do without one.
///
/// # Errors
/// A [`crate::exit::Mistake`] where nothing was ever published, and as [`read_existing`].
pub async fn read_required(context: &Context) -> anyhow::Result<Keyring> {
    read_existing(context).await?.ok_or_else(|| {
        mistake("there is no keyring, so nothing is published yet: `platformctl publish` first")
    })
}

/// Reads the keyring, making it, or the keys of a new group, where they are missing. Losing a race against another
/// operator loses nothing: what the other wrote is read and completed.
///
/// # Errors
/// [`KeyringGone`]; a store that fails, a keyring that cannot be opened, or a race lost again and again.
pub async fn read_or_create(context: &Context) -> anyhow::Result<Keyring> {
    let mut last: Option<StoreError> = None;
    for race in 1..=RACES {
        let mut found = read(context).await?;
        if found.is_none() && holds_releases(context).await? {
            // Another operator may have made it, and published, between the two looks.
            found = Some(read(context).await?.ok_or(KeyringGone)?);
        }
        let missing: Vec<&GroupName> = context
            .workspace
            .groups
            .iter()
            .filter(|g| {
                found
                    .as_ref()
                    .is_none_or(|k| !k.content.groups.contains_key(*g))
            })
            .collect();
        let (mut content, version, condition) = match found {
            Some(keyring) if missing.is_empty() => return Ok(keyring),
            Some(k) => (k.content, k.mark.version + 1, PutCondition::Matches(k.etag)),
            None => (empty(&context.workspace.name), 1, PutCondition::Absent),
        };
        for group in missing {
            content.groups.insert(group.clone(), new_group().await?);
        }
        let recovery = context.recovery_recipients();
        let sealed = write(
            context.store.as_ref(),
            context.wrap.as_ref(),
            &content,
            version,
            &recovery,
            condition,
        );
        match sealed.await? {
            Written::Done(keyring) => return Ok(*keyring),
            Written::Lost => last = None,
            Written::Unanswered(error) => {
                last = Some(error);
                tokio::time::sleep(Backoff::INTERACTIVE.pause(race)).await;
            }
        }
    }
    match last {
        Some(error) => Err(error).context("cannot write the keyring"),
        None => bail!("other operators changed the keyring {RACES} times in a row; try again"),
    }
}

/// How a write of the keyring ended.
enum Written {
    Done(Box<Keyring>),
    /// Somebody else wrote first.
    Lost,
    /// It may have happened: the next read tells.
    Unanswered(StoreError),
}

/// Writes the keyring.
async fn write(
    store: &dyn ObjectStore,
    wrap: &dyn KeyWrap,
    content: &KeyringContent,
    version: u64,
    recovery_recipients: &[String],
    condition: PutCondition,
) -> anyhow::Result<Written> {
    let bytes = seal_keyring(content, version, wrap, recovery_recipients)
        .await
        .context("cannot encrypt the keyring")?;
    let sha256 = Sha256Digest::of(&bytes);
    match store
        .put(keys::KEYRING, Bytes::from(bytes), condition)
        .await
    {
        Ok(etag) => Ok(Written::Done(Box::new(Keyring {
            content: content.clone(),
            mark: KeyringMark { version, sha256 },
            etag,
        }))),
        Err(e) if e.kind == StoreErrorKind::Conflict => Ok(Written::Lost),
        Err(e) if e.kind.is_transient() => Ok(Written::Unanswered(e)),
        Err(e) => Err(e).context("cannot write the keyring"),
    }
}

async fn holds_releases(context: &Context) -> anyhow::Result<bool> {
    for group in &context.workspace.groups {
        let prefix = keys::metadata_prefix(group);
        let listed = with_retries(Backoff::INTERACTIVE, || context.store.list(&prefix)).await;
        if !listed
            .with_context(|| format!("cannot list {prefix}"))?
            .is_empty()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn empty(environment: &EnvironmentName) -> KeyringContent {
    KeyringContent {
        environment: environment.clone(),
        groups: std::collections::BTreeMap::new(),
    }
}

async fn new_group() -> anyhow::Result<GroupKeys> {
    let repository = RepositoryKeys::generate()?;
    let root = sign_root(
        &repository,
        None,
        std::num::NonZeroU64::MIN,
        Timestamp::now(),
    )
    .await?;
    Ok(GroupKeys {
        repository,
        roots: vec![String::from_utf8(root.to_vec()).context("a root is text")?],
        group_key: GroupKey::generate(),
    })
}
