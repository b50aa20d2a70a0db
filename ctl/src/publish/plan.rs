//! The checks of a publish, all of them before the first write: a mistake in the last group must not leave the first
//! one published.

use anyhow::Context as _;
use indicatif::ProgressBar;
use jiff::Timestamp;
use shared::bundle::{Waiver, pack};
use shared::names::{GroupName, ReleaseNumber};
use shared::store::{Backoff, keys, with_retries};
use shared::trust::ReleaseTarget;

use super::newest::newest;
use super::repository::remember;
use super::upload::{Uploaded, Uploader};
use super::{
    Choices, Publication, Published, after_burned, following, good, read_published, relist,
    relist_artifacts, renew_if_due, seal_release, targets_of,
};
use crate::artifact::{AGENT, ArtifactEntry, ArtifactList, FILE, ensure, join, upload_agent};
use crate::context::Context;
use crate::exit::mistake;
use crate::gc::CollectionWatch;
use crate::keyring::{self, Keyring};
use crate::lint::Finding;
use crate::release::{Content, prepare};
use crate::skew::KubeVersion;

/// A publish of several groups that was checked and not begun.
#[derive(Debug)]
pub struct Plans {
    /// The keyring, made if there was none.
    pub keyring: Keyring,
    /// What was missing or due in it and was made, a line each.
    pub made: Vec<String>,
    /// What lint warns of.
    pub warnings: Vec<Finding>,
    /// The groups in the order of publishing.
    pub groups: Vec<Planned>,
}

/// A publish of one group that was checked and not begun.
#[derive(Debug)]
pub struct Planned {
    group: GroupName,
    content: Content,
    digest: String,
    pub(crate) published: Published,
    /// The first number that may be free.
    number: ReleaseNumber,
    choices: Choices,
    /// A step of a rotation waits to be told apart from what is published.
    step_is_due: bool,
}

/// Renders and checks each group, and looks at what is published of each. The keyring is made, or brought up to date,
/// after all files were found to be right.
///
/// # Errors
/// As [`Planned::new`], [`prepare`], [`keyring::draft`] and [`keyring::Draft::commit`]; nothing is published then.
pub async fn plan(
    context: &Context,
    groups: &[GroupName],
    choices: Choices,
) -> anyhow::Result<Plans> {
    let (draft, prepared, keyring) = checked(context, groups).await?;
    let mut plans = Plans {
        keyring,
        made: draft,
        warnings: Vec::new(),
        groups: Vec::new(),
    };
    for (group, (mut content, warnings)) in groups.iter().zip(prepared) {
        if let Some(reason) = &choices.waiver {
            let (reason, by) = (reason.clone(), super::operator());
            content.waive(Waiver { reason, by });
        }
        let choices = choices.clone();
        let planned = Planned::new(context, &plans.keyring, group, content, choices)
            .await
            .with_context(|| format!("group {group} cannot be published"))?;
        plans.warnings.extend(warnings);
        plans.groups.push(planned);
    }
    Ok(plans)
}

type Prepared = (Content, Vec<Finding>);

/// Checks each group's files with the keyring as it will be, and writes that only then.
async fn checked(
    context: &Context,
    groups: &[GroupName],
) -> anyhow::Result<(Vec<String>, Vec<Prepared>, Keyring)> {
    let mut races = keyring::Races::default();
    loop {
        let now = Timestamp::now();
        let draft = keyring::draft(context, now).await?;
        let prepared = groups
            .iter()
            .map(|group| prepare(&context.workspace, group, Some(draft.content()), now))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let made = draft.changes().to_vec();
        if let Some(keyring) = races.after(draft.commit(context).await?).await? {
            return Ok((made, prepared, keyring));
        }
    }
}

/// Whether a step of a rotation that concerns the group came after what is published. Then there is a new release even
/// where no file differs, since its manifests leave out what the step changes: the next step waits for one.
fn step_is_due(keyring: &Keyring, group: &GroupName, current: Option<&ReleaseTarget>) -> bool {
    let steps = keyring
        .content
        .pki
        .iter()
        .flat_map(|p| p.rotations.values());
    let newest = steps
        .filter(|s| s.groups.contains(group))
        .map(|s| s.keyring);
    let published = current.map(|c| c.custom.keyring.version);
    newest.max() > published
}

impl Planned {
    /// Verifies what is published of a group, and whether `content` may follow it.
    ///
    /// # Errors
    /// [`crate::keyring::KeyringRolledBack`]; [`super::RepositoryError`]; a [`crate::exit::Mistake`] for content that
    /// may not be published; else what failed, on which object.
    pub async fn new(
        context: &Context,
        keyring: &Keyring,
        group: &GroupName,
        content: Content,
        choices: Choices,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            !content.has_stand_ins(),
            "group {group} was rendered without the keyring, which is never published"
        );
        let digest = content.digest(keyring.group(group)?, &keyring.content.recovery_recipients)?;
        let published = read_published(context, keyring, group).await?;
        let mut replaced = published.current().cloned();
        let mut number = published.next_number();
        if replaced.is_none() {
            // Without a timestamp and without a memory of one: what was ever published still counts.
            if let Some(newest) = newest(context, keyring, group).await? {
                number = following(newest.number)?;
                replaced = newest.release;
            }
        }
        if let Some(release) = &replaced {
            keyring.check_against(release)?;
        }
        let planned = Self {
            group: group.clone(),
            content,
            digest,
            published,
            number,
            choices,
            step_is_due: false,
        };
        let planned = Self {
            step_is_due: step_is_due(keyring, group, planned.published.current()),
            ..planned
        };
        if !planned.is_unchanged() {
            planned.check_etcd(context).await?;
            planned.check_artifacts(context.workspace.environment.on_aws())?;
            planned.check_not_empty(replaced.is_some())?;
            // The packed length is known only by packing.
            let release = planned.content.number(number)?;
            pack(&release).map_err(|e| mistake(format!("group {group}: {e}")))?;
        }
        Ok(planned)
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// The kubelet that nodes have, and the other one that this brings them; none where it brings none, or is their first.
    #[must_use]
    pub fn other_kubelet(&self) -> Option<(String, String)> {
        let current = self.published.current()?;
        let brings: Vec<String> = targets_of(&self.content)
            .into_iter()
            .map(|target| target.name)
            .collect();
        other_kubelet(&current.custom.artifacts, &brings)
    }

    /// The version of the API server that it brings, where it brings one.
    #[must_use]
    pub fn api_server(&self) -> Option<KubeVersion> {
        KubeVersion::of_api_server(self.content.manifests())
    }

    pub(crate) fn is_unchanged(&self) -> bool {
        let current = self.published.current();
        current.is_some_and(|c| {
            // A waiver is for a release, and stays with it: to publish the same files again takes it from nobody.
            let is_same = c.custom.content == self.digest
                || c.custom.content_unwaived.as_ref() == Some(&self.digest);
            !self.step_is_due && is_same && c.custom.agent.as_ref() == self.content.agent()
        })
    }

    /// Holds the etcd that it brings against the one that runs. Where the current release cannot be opened, nodes still do.
    async fn check_etcd(&self, context: &Context) -> anyhow::Result<()> {
        let (Some(next), Some(current)) = (self.content.etcd(), self.published.current()) else {
            return Ok(());
        };
        let Ok(current) = crate::diff::published_release(context, current).await else {
            return Ok(());
        };
        let running = current.index().etcd.as_ref();
        match crate::rollback::etcd_behind(Some(next), running) {
            Some(why) => Err(mistake(format!("group {}: {why}", self.group))),
            None => Ok(()),
        }
    }

    fn check_artifacts(&self, on_aws: bool) -> anyhow::Result<()> {
        // Nodes of the embedded default only play machines: no kubelet runs there.
        let unlisted = self.content.unlisted();
        if on_aws && !unlisted.is_empty() {
            return Err(mistake(crate::artifact::unlisted(&self.group, unlisted)));
        }
        let kept = self.published.releases();
        let of_kept = kept.flat_map(|r| relist_artifacts(r, &self.published));
        join(targets_of(&self.content).into_iter().chain(of_kept))?;
        Ok(())
    }

    fn check_not_empty(&self, replaces: bool) -> anyhow::Result<()> {
        let group = &self.group;
        if replaces && self.content.has_no_manifest() && !self.choices.allow_empty {
            return Err(mistake(format!(
                "group {group} would run nothing: no template of manifests/{group} renders to a manifest, and every \
                 static pod of its nodes would stop. Publish with --allow-empty if that is meant"
            )));
        }
        Ok(())
    }

    /// Every artifact that will be signed is in the bucket before anything names it. What is missing there is looked for
    /// by the working directory's list.
    async fn upload_artifacts(&self, context: &Context) -> anyhow::Result<()> {
        let store = context.store.as_ref();
        let mut missing = Vec::new();
        for target in targets_of(&self.content) {
            let key = keys::target(&self.group, &target.sha256, &target.name);
            let there = with_retries(Backoff::INTERACTIVE, || store.list(&key)).await;
            if !there
                .with_context(|| format!("cannot list {key}"))?
                .contains(&key)
            {
                missing.push(target);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let list = ArtifactList::load(&context.workspace.directory)?;
        for target in missing {
            let is_it = |e: &&ArtifactEntry| e.sha256 == target.sha256 && e.target() == target.name;
            let entry = list.iter().find(is_it);
            let entry = entry.with_context(|| {
                format!(
                    "artifact {} ({}) is not in the bucket, and not in {FILE}: add it again with `platformctl artifacts \
                     add`",
                    target.name,
                    target.sha256.short()
                )
            })?;
            ensure(context, std::slice::from_ref(&self.group), entry).await?;
            // New machines may install the same, rather than begin with an update.
            if entry.name == AGENT {
                upload_agent(context, entry).await?;
            }
        }
        Ok(())
    }

    /// Publishes what was planned; renews signatures that are due where nothing has changed.
    ///
    /// # Errors
    /// [`super::PublishRace`] where somebody else published meanwhile; else what failed, on which object.
    pub async fn publish(
        self,
        context: &Context,
        keyring: &Keyring,
        bar: &ProgressBar,
    ) -> anyhow::Result<Publication> {
        let (group, published) = (&self.group, &self.published);
        if self.is_unchanged() {
            return renew_if_due(context, keyring, group, published).await;
        }
        bar.set_message("looking for the artifacts");
        let mut watch = CollectionWatch::begin(context).await?;
        self.upload_artifacts(context).await?;
        bar.set_message("asking the nodes which release is good");
        let good = good::good_release(context, keyring, group, published).await?;
        bar.inc(1);
        let uploader = Uploader::new(context, keyring.group(group)?, group, published);
        let mut number = self.number;
        let replaces = published.current().map(ReleaseTarget::release);
        loop {
            bar.set_message("encrypting and signing");
            let (content, digest) = (&self.content, &self.digest);
            let sealed = seal_release(context, keyring, content, digest, number, replaces).await?;
            let mut listed = vec![sealed.target.clone()];
            listed.extend(targets_of(&self.content));
            if let Some(good) = &good {
                listed.push(relist(good)?);
                listed.extend(relist_artifacts(good, published));
            }
            let listed = join(listed)?;
            bar.set_message("uploading");
            bar.set_position(2);
            let mut before_last = async || {
                match watch.is_crossed(context).await? {
                    // What was there may have been collected; our document is there now, so it is no more.
                    true => self.upload_artifacts(context).await,
                    false => Ok(()),
                }
            };
            match uploader
                .upload(number, Some(&sealed.object), &listed, &mut before_last)
                .await?
            {
                Uploaded::Done => {
                    remember(context, keyring, group).await;
                    bar.inc(1);
                    return Ok(Publication::Released {
                        release: number,
                        files: self.content.len(),
                        bytes: sealed.target.length,
                    });
                }
                Uploaded::Burned => {
                    let (next, release) = after_burned(context, keyring, group, number).await?;
                    self.check_not_empty(release.is_some())?;
                    number = next;
                }
            }
        }
    }
}

/// The targets of both that are the kubelet, where they differ.
fn other_kubelet(has: &[String], brings: &[String]) -> Option<(String, String)> {
    let kubelet = |all: &[String]| {
        all.iter()
            .find(|name| name.starts_with("kubelet-"))
            .cloned()
    };
    let (has, brings) = (kubelet(has)?, kubelet(brings)?);
    (has != brings).then_some((has, brings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kubelet_is_noticed_and_nothing_else() {
        let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let old = names(&["cni-1.7", "kubelet-1.36.2"]);
        let new = names(&["kubelet-1.36.3", "cni-1.8"]);
        let both = ("kubelet-1.36.2".to_owned(), "kubelet-1.36.3".to_owned());
        assert_eq!(other_kubelet(&old, &new), Some(both));
        assert_eq!(
            other_kubelet(&old, &names(&["cni-1.8", "kubelet-1.36.2"])),
            None
        );
        assert_eq!(other_kubelet(&names(&[]), &new), None, "the first");
        assert_eq!(other_kubelet(&old, &names(&["kubelets-1"])), None);
    }
}
