//! The keyring in the bucket: made once, changed only by compare-and-swap, and never on top of an old one put back.

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use jiff::Timestamp;
use shared::bundle::new_identity;
use shared::digest::Sha256Digest;
use shared::documents::{GroupKey, GroupKeys, KeyringContent, open_keyring, seal_keyring};
use shared::limits;
use shared::names::GroupName;
use shared::store::{
    Backoff, ETag, Fetched, ObjectStore, PutCondition, StoreError, StoreErrorKind, keys,
    with_retries,
};
use shared::trust::sign::{RepositoryKeys, sign_root};
use shared::trust::{KeyringMark, ReleaseTarget};
use shared::wrap::KeyWrap;

use crate::context::Context;
use crate::env::SECURE;
use crate::exit::mistake;
use crate::pki::{Names, complete};
use crate::publish::last_signed;

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
    let mut found = read(context).await?;
    if found.is_none() && holds_releases(context).await? {
        // Another operator may have made it, and published, between the two looks.
        found = Some(read(context).await?.ok_or(KeyringGone)?);
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

/// The keyring as it is in the bucket, with what is missing made and what is due made again; not written yet.
#[derive(Debug, Clone)]
pub struct Draft {
    content: KeyringContent,
    found: Option<Keyring>,
    changes: Vec<String>,
}

/// Reads the keyring and brings it up to date, in memory.
///
/// # Errors
/// [`KeyringGone`]; a store that fails, a keyring that cannot be opened, or something that could not be made.
pub async fn draft(context: &Context, now: Timestamp) -> anyhow::Result<Draft> {
    let found = read_existing(context).await?;
    let workspace = &context.workspace;
    let mut content = match &found {
        Some(keyring) => keyring.content.clone(),
        None => KeyringContent::new(workspace.name.clone()),
    };
    let mut changes = Vec::new();
    for group in &workspace.groups {
        if !content.groups.contains_key(group) {
            content.groups.insert(group.clone(), new_group(now).await?);
            changes.push(format!("made the keys of group {group}"));
        }
    }
    // Backups are made where etcd runs.
    if let Some(keys) = content
        .groups
        .iter_mut()
        .find_map(|(name, keys)| (name.as_str() == SECURE).then_some(keys))
        && keys.backup_identity.is_none()
    {
        keys.backup_identity = Some(new_identity());
        if found.is_some() {
            changes.push("made the key of etcd's backups".to_owned());
        }
    }
    let names = Names::of(&workspace.environment);
    changes.extend(complete(&mut content.pki, &names, now)?);
    let recipients = context.recovery_recipients();
    if content.recovery_recipients != recipients {
        changes.push(format!(
            "encrypted the keyring to {} recovery recipients instead of {}",
            recipients.len(),
            content.recovery_recipients.len()
        ));
        content.recovery_recipients = recipients;
    }
    Ok(Draft {
        content,
        found,
        changes,
    })
}

/// Reads the keyring, making what is missing and what is due. Losing a race against another operator loses nothing:
/// what the other wrote is read and completed.
///
/// # Errors
/// As [`draft`] and [`Draft::commit`]; a race lost again and again.
pub async fn read_or_create(context: &Context) -> anyhow::Result<Keyring> {
    let mut races = Races::default();
    loop {
        let draft = draft(context, Timestamp::now()).await?;
        if let Some(keyring) = races.after(draft.commit(context).await?).await? {
            return Ok(keyring);
        }
    }
}

/// Changes the keyring that is there: `change` is called on what was read, again after each lost race, and says
/// whether it changed anything. Gives the keyring as it is afterwards.
///
/// # Errors
/// No keyring; those of [`read`] and of `change`, with which nothing is written; [`KeyringRolledBack`]; a race lost
/// again and again.
pub async fn modify(
    context: &Context,
    mut change: impl FnMut(&mut KeyringContent) -> anyhow::Result<bool>,
) -> anyhow::Result<Keyring> {
    modify_numbered(context, |content, _| change(content)).await
}

/// As [`modify`]; `change` is told the version that the keyring will have with the change in it.
///
/// # Errors
/// As [`modify`].
pub async fn modify_numbered(
    context: &Context,
    mut change: impl FnMut(&mut KeyringContent, u64) -> anyhow::Result<bool>,
) -> anyhow::Result<Keyring> {
    let mut races = Races::default();
    loop {
        let found = read_required(context).await?;
        let mut content = found.content.clone();
        if !change(&mut content, found.mark.version + 1)? {
            return Ok(found);
        }
        let draft = Draft {
            content,
            found: Some(found),
            changes: vec!["changed by an operator".to_owned()],
        };
        if let Some(keyring) = races.after(draft.commit(context).await?).await? {
            return Ok(keyring);
        }
    }
}

// === impl Draft ===

impl Draft {
    /// What the keyring will hold.
    #[must_use]
    pub fn content(&self) -> &KeyringContent {
        &self.content
    }

    /// The keyring that is in the bucket.
    #[must_use]
    pub fn found(&self) -> Option<&Keyring> {
        self.found.as_ref()
    }

    /// What will be made, a line each for people to read; empty where the bucket's keyring is as it should be.
    #[must_use]
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    /// Writes it, where anything changed.
    ///
    /// # Errors
    /// [`KeyringRolledBack`]; a keyring that is too large, or a store that fails.
    pub(crate) async fn commit(self, context: &Context) -> anyhow::Result<Written> {
        if let Some(found) = &self.found {
            if self.changes.is_empty() {
                return Ok(Written::Done(Box::new(found.clone())));
            }
            // Before it gets a newer version: with that, an old one put back could not be told any more.
            check_against_releases(context, found).await?;
        }
        let (version, condition) = match &self.found {
            Some(found) => (
                found.mark.version + 1,
                PutCondition::Matches(found.etag.clone()),
            ),
            None => (1, PutCondition::Absent),
        };
        write(
            context.store.as_ref(),
            context.wrap.as_ref(),
            &self.content,
            version,
            condition,
        )
        .await
    }
}

/// Holds the keyring against the current release of every group.
async fn check_against_releases(context: &Context, keyring: &Keyring) -> anyhow::Result<()> {
    for group in keyring.content.groups.keys() {
        if let Some(release) = last_signed(context, keyring, group).await? {
            keyring.check_against(&release)?;
        }
    }
    Ok(())
}

/// How a write of the keyring ended.
#[derive(Debug)]
pub(crate) enum Written {
    /// The keyring is as it should be.
    Done(Box<Keyring>),
    /// Somebody else wrote first.
    Lost,
    /// It may have happened: the next read tells.
    Unanswered(StoreError),
}

/// A compare-and-swap that is tried again, from reading on, until it is done or has failed too often.
#[derive(Debug, Default)]
pub(crate) struct Races(u32);

impl Races {
    /// The keyring, or none where to read and try again.
    ///
    /// # Errors
    /// The last time: why.
    pub(crate) async fn after(&mut self, written: Written) -> anyhow::Result<Option<Keyring>> {
        self.0 += 1;
        match written {
            Written::Done(keyring) => Ok(Some(*keyring)),
            Written::Unanswered(error) if self.0 >= RACES => {
                Err(error).context("cannot write the keyring")
            }
            Written::Lost if self.0 >= RACES => Err(anyhow!(
                "other operators changed the keyring {RACES} times in a row; try again"
            )),
            Written::Unanswered(_) => {
                tokio::time::sleep(Backoff::INTERACTIVE.pause(self.0)).await;
                Ok(None)
            }
            Written::Lost => Ok(None),
        }
    }
}

/// Writes the keyring.
async fn write(
    store: &dyn ObjectStore,
    wrap: &dyn KeyWrap,
    content: &KeyringContent,
    version: u64,
    condition: PutCondition,
) -> anyhow::Result<Written> {
    let bytes = seal_keyring(content, version, wrap, &content.recovery_recipients)
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

async fn new_group(now: Timestamp) -> anyhow::Result<GroupKeys> {
    let repository = RepositoryKeys::generate()?;
    let root = sign_root(&repository, None, std::num::NonZeroU64::MIN, now).await?;
    Ok(GroupKeys {
        repository,
        roots: vec![String::from_utf8(root.to_vec()).context("a root is text")?],
        group_key: GroupKey::generate(),
        backup_identity: None,
        handover: false,
    })
}
