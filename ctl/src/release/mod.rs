//! What a group's next release holds, before it has a number.

mod order;
mod sources;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use shared::backup::RESTORE_IDENTITY_FILE;
use shared::bundle::{
    Artifact, EtcdSection, FileEntry, Index, Mode, Origin, Release, Restart, RolloutPolicy, Waiver,
};
use shared::check::manifest::check_manifest;
use shared::check::secret_dir::SecretFile;
use shared::documents::{GroupKeys, KeyringContent};
use shared::etcd::{Generation, base_problems};
use shared::limits;
use shared::names::{EntryPath, EnvironmentName, GroupName, ReleaseNumber};
use shared::secret::SecretBytes;
use shared::trust::AgentTarget;

use crate::artifact::{self, ArtifactList};
use crate::context::Workspace;
use crate::lint::{Finding, Severity, lint};
use crate::render::{
    RenderErrors, RenderFailure, RenderInput, Rendered, render, rollout_problems, timing_problems,
};

pub use order::write_order;
pub use sources::{Sources, gather};

/// The files of a release in the order of writing.
#[derive(Debug, Clone)]
pub struct Content {
    environment: EnvironmentName,
    group: GroupName,
    entries: Vec<FileEntry>,
    bytes: BTreeMap<EntryPath, SecretBytes>,
    stand_ins: bool,
    restarts: Vec<Restart>,
    artifacts: Vec<Artifact>,
    rollout: Option<RolloutPolicy>,
    etcd: Option<EtcdSection>,
    unlisted: Vec<String>,
    agent: Option<AgentTarget>,
    brings_back: Option<ReleaseNumber>,
}

/// What lint found, where it keeps a release from being made.
#[derive(Debug, thiserror::Error)]
#[error("{} problem(s) in the files of group {group}:\n{}", .findings.len(), shown(.findings))]
pub struct LintFailed {
    group: GroupName,
    findings: Vec<Finding>,
}

fn shown(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(|f| format!("  {f}")).collect();
    lines.join("\n")
}

/// Everything that rendering and linting a group depends on; see [`gather`].
///
/// # Errors
/// As [`gather`].
pub fn render_input(
    workspace: &Workspace,
    group: &GroupName,
    keyring: Option<&KeyringContent>,
    now: Timestamp,
) -> anyhow::Result<RenderInput> {
    Ok(gather(workspace, group, keyring, now)?.input)
}

/// Renders and checks a group's files. Warnings are returned beside the content. Without a keyring, stand-ins are
/// rendered and checked in the place of what it would give, and the content cannot be published.
///
/// # Errors
/// Every problem at once, as [`LintFailed`] or one of the causes of [`render_input`].
pub fn prepare(
    workspace: &Workspace,
    group: &GroupName,
    keyring: Option<&KeyringContent>,
    now: Timestamp,
) -> anyhow::Result<(Content, Vec<Finding>)> {
    let sources = gather(workspace, group, keyring, now)?;
    let input = &sources.input;
    let mut findings = lint(input, now);
    if findings.iter().any(|f| f.severity == Severity::Error) {
        let failed = LintFailed {
            group: group.clone(),
            findings,
        };
        return Err(anyhow::Error::new(crate::exit::Mistake(failed.to_string())));
    }
    let rendered = render(input)?;
    let mut content = Content {
        environment: workspace.name.clone(),
        group: group.clone(),
        entries: Vec::new(),
        bytes: BTreeMap::new(),
        stand_ins: input.stand_ins,
        restarts: Vec::new(),
        artifacts: Vec::new(),
        rollout: None,
        etcd: None,
        unlisted: Vec::new(),
        agent: None,
        brings_back: None,
    };
    for (pod, files) in input.secrets.iter().chain(&rendered.files) {
        for (name, file) in files {
            let of = (pod.clone(), name.clone());
            let origin = match sources.from_keyring.contains(&of) {
                true => Origin::Keyring,
                false => Origin::Template,
            };
            content.add_file(&format!("secrets/{pod}/{name}"), file, origin)?;
        }
    }
    for (path, file) in &sources.fixed {
        content.add_file(path, file, Origin::Keyring)?;
    }
    if let Some(keys) = keyring.and_then(|k| k.groups.get(group)) {
        content.add_file(
            "agent/group.key",
            &private(keys.group_key.to_file()),
            Origin::Keyring,
        )?;
    }
    if let Some(keyring) = keyring
        && crate::etcd::runs_etcd(content.entries.iter().map(|e| e.path.as_str()))
    {
        for (path, file) in crate::etcd::agent_files(group, keyring)? {
            content.add_file(&path, &file, Origin::Keyring)?;
        }
    }
    let restores = content
        .entries
        .iter()
        .any(|e| e.path.as_str() == RESTORE_IDENTITY_FILE);
    for (name, bytes) in &rendered.manifests {
        let file = private(SecretBytes::new(bytes.clone()));
        content.add_file(&format!("manifests/{name}"), &file, Origin::Template)?;
    }
    for (path, bytes) in &rendered.host {
        let file = private(SecretBytes::new(bytes.clone()));
        content.add_file(&format!("host/{path}"), &file, Origin::Template)?;
    }
    content.entries.sort_by_cached_key(|e| write_order(&e.path));
    let paths = content.entries.iter().map(|entry| &entry.path);
    content.restarts = rendered.node.restarts_for(paths).map_err(RenderErrors)?;
    if let Some(policy) = rendered.rollout.clone() {
        let file = format!("{group}/rollout.yaml");
        let paths = content.entries.iter().map(|entry| &entry.path);
        let problems = rollout_problems(&file, &policy, paths, quorum(workspace, group));
        if !problems.is_empty() {
            return Err(mistaken(RenderErrors(problems)));
        }
        let policy = match quorum(workspace, group) {
            Some((most, members)) => policy.with_share_of(most, members),
            None => policy,
        };
        // The members of a generation form it together, and what ran before has stopped: nobody waits for a turn.
        content.rollout = (!restores).then_some(policy);
    }
    findings.extend(rollout_findings(workspace, group, &rendered));
    if findings.iter().any(|f| f.severity == Severity::Error) {
        let failed = LintFailed {
            group: group.clone(),
            findings,
        };
        return Err(crate::exit::mistake(failed.to_string()));
    }
    let generation = keyring.map(|k| k.etcd_generation).unwrap_or_default();
    content.etcd = etcd_section(workspace, group, &rendered, generation)?;
    let list = ArtifactList::load(&workspace.directory)?;
    let resolved = artifact::resolve(group, &rendered.node.artifacts, &list)?;
    content.artifacts = resolved.artifacts;
    content.unlisted = resolved.unlisted;
    if !content.unlisted.is_empty() {
        findings.push(Finding {
            severity: Severity::Warning,
            file: format!("{group}/node.yaml"),
            line: None,
            path: Some("artifacts".to_owned()),
            message: format!("{} not in {}", content.unlisted.join(", "), artifact::FILE),
            help: Some("`platformctl artifacts add NAME SOURCE` lists one".to_owned()),
        });
    }
    content.agent = artifact::agent_of(&list);
    // Any number does to see whether the limits are kept.
    content.number(ReleaseNumber::from(std::num::NonZeroU64::MIN))?;
    Ok((content, findings))
}

/// What of a group's rollout would put machines at risk. Nodes of the embedded default only play machines, where no pod has to
/// end or to start: there it is a warning.
#[must_use]
pub fn rollout_findings(
    workspace: &Workspace,
    group: &GroupName,
    rendered: &Rendered,
) -> Vec<Finding> {
    let severity = match workspace.environment.on_aws() {
        true => Severity::Error,
        false => Severity::Warning,
    };
    let finding = |failure: RenderFailure| Finding {
        severity,
        file: failure.file,
        line: failure.line,
        path: failure.path,
        message: failure.message,
        help: failure.help,
    };
    let unsafe_rollout = unsafe_rollout(group, rendered).into_iter();
    unsafe_rollout.map(finding).collect()
}

fn unsafe_rollout(group: &GroupName, rendered: &Rendered) -> Vec<RenderFailure> {
    let file = format!("{group}/rollout.yaml");
    let Some(policy) = &rendered.rollout else {
        let needed = group.as_str() == crate::env::SECURE;
        let what = "is missing or empty: without a policy every node would adopt a release at the same time, and the API \
                    servers and etcd would restart together";
        return Vec::from_iter(needed.then(|| RenderFailure {
            file,
            line: None,
            path: None,
            message: what.to_owned(),
            help: Some("`platformctl init` writes one out".to_owned()),
        }));
    };
    let pods = rendered.manifests.iter();
    let grace = pods.filter_map(|(name, bytes)| check_manifest(name, bytes).ok());
    let longest = grace.map(|pod| pod.termination_grace_seconds).max();
    timing_problems(
        &file,
        policy,
        Duration::from_secs(longest.unwrap_or_default()),
    )
}

/// How many of how many etcd members may be away at once, in the group that runs them. A group of one has to bear it.
fn quorum(workspace: &Workspace, group: &GroupName) -> Option<(u32, u32)> {
    let size = workspace.environment.groups.get(group.as_str())?;
    let runs_etcd = group.as_str() == crate::env::SECURE;
    runs_etcd.then(|| (((size.min.max(1) - 1) / 2).max(1), size.min))
}

/// What the release says about etcd, where `node.yaml` says that the machines run it.
fn etcd_section(
    workspace: &Workspace,
    group: &GroupName,
    rendered: &Rendered,
    generation: Generation,
) -> anyhow::Result<Option<EtcdSection>> {
    let Some(rule) = &rendered.node.etcd else {
        return Ok(None);
    };
    let failure = |path: &str, message: String| RenderFailure {
        file: format!("{group}/node.yaml"),
        line: None,
        path: Some(path.to_owned()),
        message,
        help: None,
    };
    let files = rendered.by_path();
    let base = files.get(rule.base.as_str()).copied();
    let base = base.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let mut problems: Vec<RenderFailure> = match &base {
        None => vec![failure(
            "etcd.base",
            format!("no template makes {}", rule.base),
        )],
        Some(base) => base_problems(base)
            .into_iter()
            .map(|p| RenderFailure {
                file: rule.base.to_string(),
                ..failure("", p.to_string())
            })
            .collect(),
    };
    for path in &rule.hold_back {
        if !files.contains_key(path.as_str()) {
            problems.push(failure(
                "etcd.hold_back",
                format!("no template makes {path}"),
            ));
        }
    }
    let version = workspace.environment.versions.etcd.to_string();
    let of_etcd = rule.hold_back.iter().filter_map(|path| {
        let tags = crate::rollback::etcd_tags(files.get(path.as_str())?);
        (!tags.is_empty()).then_some((path, tags))
    });
    let of_etcd: Vec<_> = of_etcd.collect();
    if of_etcd.len() != 1 {
        let what = format!(
            "{} of these manifests run etcd: it must be one",
            of_etcd.len()
        );
        problems.push(failure("etcd.hold_back", what));
    }
    // What nodes are told must be what they run: by it they know whether their data goes back.
    for (path, tags) in &of_etcd {
        for tag in tags.iter().filter(|tag| **tag != version) {
            problems.push(RenderFailure {
                file: path.to_string(),
                ..failure(
                    "",
                    format!(
                        "it runs etcd {tag}, and etcd_version is {version}: they must be the same"
                    ),
                )
            });
        }
    }
    // Agents take the first for etcd's own.
    let own = of_etcd.first().map(|(path, _)| *path);
    let mut hold_back = rule.hold_back.clone();
    hold_back.sort_by_key(|path| Some(path) != own);
    let size = workspace.environment.groups.get(group.as_str());
    if size.is_none() {
        problems.push(failure("etcd", format!("group {group} has no size")));
    }
    match (problems.is_empty(), size) {
        (true, Some(size)) => Ok(Some(EtcdSection {
            generation,
            voters: size.min.max(1),
            version,
            base: rule.base.clone(),
            hold_back,
            gone_after: rule.gone_after,
        })),
        _ => Err(mistaken(RenderErrors(problems))),
    }
}

fn mistaken(errors: RenderErrors) -> anyhow::Error {
    crate::exit::mistake(errors.to_string())
}

/// A file of root's alone.
fn private(bytes: SecretBytes) -> SecretFile {
    SecretFile {
        bytes,
        mode: 0o600,
        owner: (0, 0),
    }
}

// === impl Content ===

impl Content {
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
            environment: then.environment.clone(),
            group: then.group.clone(),
            entries: Vec::new(),
            bytes: BTreeMap::new(),
            stand_ins: false,
            restarts: then.restarts.clone(),
            artifacts: then.artifacts.clone(),
            // Whoever waived the probes then did not waive them for today.
            rollout: then.rollout.clone().map(|policy| RolloutPolicy {
                waiver: None,
                ..policy
            }),
            etcd: then.etcd.clone(),
            unlisted: Vec::new(),
            agent,
            brings_back: Some(then.release),
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

    fn add_file(&mut self, path: &str, file: &SecretFile, origin: Origin) -> anyhow::Result<()> {
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
