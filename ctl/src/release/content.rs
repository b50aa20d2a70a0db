//! The files of a release and what goes with them, before it has a number.

use std::collections::BTreeMap;

use anyhow::Context as _;
use shared::bundle::{
    Artifact, EtcdSection, FileEntry, Index, Mode, Origin, Release, Restart, RolloutPolicy, Waiver,
};
use shared::check::secret_dir::SecretFile;
use shared::documents::GroupKeys;
use shared::etcd::Generation;
use shared::limits;
use shared::names::{EntryPath, EnvironmentName, GroupName, ReleaseNumber};
use shared::secret::SecretBytes;
use shared::trust::AgentTarget;

use super::order::write_order;

/// The files of a release in the order of writing.
#[derive(Debug, Clone)]
pub struct Content {
    pub(super) environment: EnvironmentName,
    pub(super) group: GroupName,
    pub(super) entries: Vec<FileEntry>,
    pub(super) bytes: BTreeMap<EntryPath, SecretBytes>,
    pub(super) stand_ins: bool,
    pub(super) restarts: Vec<Restart>,
    pub(super) artifacts: Vec<Artifact>,
    pub(super) rollout: Option<RolloutPolicy>,
    pub(super) etcd: Option<EtcdSection>,
    pub(super) unlisted: Vec<String>,
    pub(super) agent: Option<AgentTarget>,
    pub(super) brings_back: Option<ReleaseNumber>,
}

// === impl Content ===

impl Content {
    /// Without a file.
    pub(super) fn empty(environment: &EnvironmentName, group: &GroupName) -> Self {
        Self {
            environment: environment.clone(),
            group: group.clone(),
            entries: Vec::new(),
            bytes: BTreeMap::new(),
            stand_ins: false,
            restarts: Vec::new(),
            artifacts: Vec::new(),
            rollout: None,
            etcd: None,
            unlisted: Vec::new(),
            agent: None,
            brings_back: None,
        }
    }

    /// The files of a rollback, with what `then` asks of the host.
    ///
    /// # Errors
    /// A file whose path no release may have.
    pub(crate) fn bring_back(
        then: &Index,
        files: Vec<(String, SecretFile, Origin)>,
        agent: Option<AgentTarget>,
    ) -> anyhow::Result<Self> {
        let mut content = Self {
            restarts: then.restarts.clone(),
            artifacts: then.artifacts.clone(),
            // Whoever waived the probes then did not waive them for today.
            rollout: then.rollout.clone().map(|policy| RolloutPolicy {
                waiver: None,
                ..policy
            }),
            etcd: then.etcd.clone(),
            agent,
            brings_back: Some(then.release),
            ..Self::empty(&then.environment, &then.group)
        };
        for (path, file, origin) in &files {
            content.add_file(path, file, *origin)?;
        }
        content.entries.sort_by_cached_key(|e| write_order(&e.path));
        Ok(content)
    }

    /// What it says about etcd.
    pub(crate) fn etcd(&self) -> Option<&EtcdSection> {
        self.etcd.as_ref()
    }

    /// Sets which cluster of etcd it is for, where it says so: that of now, whatever the time of its files.
    pub(crate) fn set_etcd_generation(&mut self, generation: Generation) {
        if let Some(etcd) = &mut self.etcd {
            etcd.generation = generation;
        }
    }

    pub(super) fn add_file(
        &mut self,
        path: &str,
        file: &SecretFile,
        origin: Origin,
    ) -> anyhow::Result<()> {
        let path = EntryPath::new(path)
            .with_context(|| format!("a file of group {} cannot go into a release", self.group))?;
        let mode = Mode::new(file.mode);
        let mut entry = FileEntry::describe(path.clone(), file.bytes.expose(), mode, origin);
        (entry.uid, entry.gid) = file.owner;
        self.entries.push(entry);
        self.bytes.insert(path, file.bytes.clone());
        Ok(())
    }

    /// Whether stand-ins are in the place of what the keyring would give: then it must not be published.
    #[must_use]
    pub fn has_stand_ins(&self) -> bool {
        self.stand_ins
    }

    /// The content as release `number`.
    ///
    /// # Errors
    /// Every limit that it breaks.
    pub fn number(&self, number: ReleaseNumber) -> anyhow::Result<Release> {
        Release::new(self.index(number), self.bytes.clone()).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(|p| format!("  {p}")).collect();
            crate::exit::mistake(format!(
                "group {} cannot become a release:\n{}",
                self.group,
                lines.join("\n")
            ))
        })
    }

    /// The table of the content as release `number`.
    #[must_use]
    pub fn index(&self, number: ReleaseNumber) -> Index {
        Index {
            format: limits::INDEX_FORMAT,
            environment: self.environment.clone(),
            group: self.group.clone(),
            release: number,
            files: self.entries.clone(),
            restarts: self.restarts.clone(),
            artifacts: self.artifacts.clone(),
            rollout: self.rollout.clone(),
            etcd: self.etcd.clone(),
        }
    }

    /// The keyed digest over which two releases are compared; see [`shared::trust::BundleCustom::content`].
    ///
    /// # Errors
    /// Never for an index made here; the encoder's own error otherwise.
    pub fn digest(&self, keys: &GroupKeys, recipients: &[String]) -> anyhow::Result<String> {
        let any = ReleaseNumber::from(std::num::NonZeroU64::MIN);
        let bytes = self.index(any).content_bytes()?;
        // Who else can open a bundle is part of it: it is encrypted anew when that changes.
        let recipients = recipients.join("\n");
        Ok(keys
            .group_key
            .authenticate(&[&bytes, recipients.as_bytes()]))
    }

    /// The units that it restarts.
    #[must_use]
    pub fn restarts(&self) -> &[Restart] {
        &self.restarts
    }

    /// The artifacts that it asks for.
    #[must_use]
    pub fn artifacts(&self) -> &[Artifact] {
        &self.artifacts
    }

    /// What `node.yaml` asks for and no artifact is listed for.
    #[must_use]
    pub fn unlisted(&self) -> &[String] {
        &self.unlisted
    }

    /// The agent that is to adopt it.
    #[must_use]
    pub fn agent(&self) -> Option<&AgentTarget> {
        self.agent.as_ref()
    }

    /// The release whose templates' files these are, where they are those of another time.
    #[must_use]
    pub fn brings_back(&self) -> Option<ReleaseNumber> {
        self.brings_back
    }

    /// How many files there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How it is rolled out; none means by every node at once.
    #[must_use]
    pub fn rollout(&self) -> Option<&RolloutPolicy> {
        self.rollout.as_ref()
    }

    /// Gives a rollback of a release without a policy the one of the release that it replaces: nodes would adopt it all at
    /// once.
    pub(crate) fn set_rollout_if_none(&mut self, policy: Option<&RolloutPolicy>) {
        let waived = |policy: &RolloutPolicy| RolloutPolicy {
            waiver: None,
            ..policy.clone()
        };
        if self.rollout.is_none() {
            self.rollout = policy.map(waived);
        }
    }

    /// Whether its probes only warn.
    #[must_use]
    pub fn is_waived(&self) -> bool {
        let policy = self.rollout.as_ref();
        policy.is_some_and(|policy| policy.waiver.is_some())
    }

    /// The same, with probes that decide.
    #[must_use]
    pub fn unwaived(&self) -> Self {
        let mut same = self.clone();
        if let Some(policy) = &mut same.rollout {
            policy.waiver = None;
        }
        same
    }

    /// Lets the probes only warn. Without a policy there is nothing to waive.
    pub fn waive(&mut self, waiver: Waiver) {
        if let Some(policy) = &mut self.rollout {
            policy.waiver = Some(waiver);
        }
    }

    /// The bytes of its manifests.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = &[u8]> {
        let manifests = self.bytes.iter();
        manifests
            .filter(|(path, _)| path.as_str().starts_with("manifests/"))
            .map(|(_, bytes)| bytes.expose())
    }

    /// Whether the group would run nothing.
    #[must_use]
    pub fn has_no_manifest(&self) -> bool {
        !self
            .entries
            .iter()
            .any(|e| e.path.as_str().starts_with("manifests/"))
    }
}
