//! What the tour is played on: a working directory, a store, five nodes, and eyes on them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use jiff::Timestamp;
use shared::documents::NodeStatus;
use shared::durable::{self, Attributes};
use shared::names::{GroupName, ReleaseNumber};
use tokio::time::sleep;

use crate::context::{Context, Workspace};
use crate::dev::nodes::{Node, NodeSettings};
use crate::dev::store::RunningStore;
use crate::dev::up;
use crate::env::{COMPUTE, SECURE};
use crate::keyring::{self, Keyring};
use crate::publish::{Choices, Publication, publish};
use crate::release::prepare;
use crate::render::EMBEDDED;
use crate::status::read_group;

/// How often the tour's nodes ask the store. On machines it is ten seconds; the tour is for someone who waits.
pub(super) const POLL: Duration = Duration::from_secs(2);
/// How long anything may take before the tour has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the tour looks.
const GLANCE: Duration = Duration::from_millis(20);

pub(super) struct Stage {
    pub(super) directory: PathBuf,
    pub(super) context: Context,
    pub(super) keyring: Keyring,
    pub(super) nodes: Vec<Node>,
    store: Option<RunningStore>,
    address: SocketAddr,
}

impl Stage {
    pub(super) async fn set(directory: &Path, agent: PathBuf) -> anyhow::Result<Self> {
        for (path, text) in EMBEDDED {
            put(&directory.join("manifests").join(path), text.as_bytes())?;
        }
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // The store's port goes into the environment, so the store comes first, with an environment of any port.
        let draft = environment(directory, 1)?;
        let store = up::start_store(&draft, any).await?;
        let address = store.addr();
        let workspace = environment(directory, address.port())?;
        let context = Context::of(workspace).await?;
        let keyring = keyring::read_or_create(&context).await?;
        let settings = NodeSettings {
            agent,
            endpoint_url: store.endpoint().to_string(),
            poll_interval: POLL,
        };
        let count = |g: &GroupName| if g.as_str() == COMPUTE { 2 } else { 3 };
        let nodes = up::start_nodes(&context, &settings, count).await?;
        Ok(Self {
            directory: directory.to_owned(),
            context,
            keyring,
            nodes,
            store: Some(store),
            address,
        })
    }

    pub(super) async fn strike(mut self) {
        for node in &mut self.nodes {
            node.stop().await;
        }
        self.stop_store().await;
    }

    pub(super) async fn stop_store(&mut self) {
        if let Some(store) = self.store.take() {
            store.shutdown().await;
        }
    }

    pub(super) async fn start_store(&mut self) -> anyhow::Result<()> {
        self.store = Some(up::start_store(&self.context.workspace, self.address).await?);
        Ok(())
    }

    /// The file behind an object: what someone who can write the bucket can change.
    pub(super) fn object(&self, key: &str) -> PathBuf {
        let workspace = &self.context.workspace;
        workspace
            .state_directory()
            .join("store")
            .join(workspace.environment.secrets_bucket.as_str())
            .join(key)
    }

    pub(super) fn group(&self, name: &str) -> anyhow::Result<GroupName> {
        Ok(GroupName::new(name)?)
    }

    pub(super) fn nodes_of(&self, group: &str) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |n| n.group.as_str() == group)
    }

    /// Publishes a group through `context`, which need not be the honest one.
    pub(super) async fn publish(
        &self,
        context: &Context,
        group: &GroupName,
    ) -> anyhow::Result<Publication> {
        let keyring = Some(&self.keyring.content);
        let (content, _) = prepare(&context.workspace, group, keyring, Timestamp::now())?;
        let bar = ProgressBar::hidden();
        publish(
            context,
            &self.keyring,
            group,
            &content,
            Choices::default(),
            &bar,
        )
        .await
    }

    /// Puts another value into a template.
    pub(super) fn amend(&self, template: &str, from: &str, to: &str) -> anyhow::Result<()> {
        let path = self.directory.join("manifests").join(template);
        let text = std::fs::read_to_string(&path)?;
        if !text.contains(from) {
            bail!("{template} does not hold {from:?}, which the tour amends");
        }
        put(&path, text.replacen(from, to, 1).as_bytes())
    }

    /// Every authentic status of a group.
    pub(super) async fn statuses(&self, group: &str) -> anyhow::Result<Vec<NodeStatus>> {
        let group = self.group(group)?;
        let reports = read_group(&self.context, self.keyring.group(&group)?, &group).await?;
        Ok(reports.into_iter().filter_map(|r| r.status.ok()).collect())
    }

    /// Waits until all nodes of a group report what `wanted` wants; gives their statuses.
    pub(super) async fn until(
        &self,
        group: &str,
        what: &str,
        wanted: impl Fn(&NodeStatus) -> bool,
    ) -> anyhow::Result<Vec<NodeStatus>> {
        let expected = self.nodes_of(group).count();
        let began = Instant::now();
        loop {
            let statuses = self.statuses(group).await?;
            if statuses.iter().filter(|s| wanted(s)).count() == expected {
                return Ok(statuses);
            }
            if began.elapsed() > PATIENCE {
                let said: Vec<String> = statuses
                    .iter()
                    .map(|s| {
                        format!(
                            "{}: release {:?}, {}, {:?}",
                            s.node, s.release, s.phase, s.error
                        )
                    })
                    .collect();
                bail!(
                    "after {} s it is not so that {what}; the nodes say:\n  {}",
                    PATIENCE.as_secs(),
                    said.join("\n  ")
                );
            }
            sleep(GLANCE).await;
        }
    }

    pub(super) async fn until_release(
        &self,
        group: &str,
        release: ReleaseNumber,
    ) -> anyhow::Result<()> {
        let what = format!("every {group} node is on release {release}");
        self.until(group, &what, |s| {
            s.release == Some(release) && s.error.is_none()
        })
        .await
        .map(drop)
    }

    /// Waits until `wanted` holds; gives the time it took.
    pub(super) async fn wait(
        &self,
        what: &str,
        mut wanted: impl FnMut() -> bool,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        while !wanted() {
            if began.elapsed() > PATIENCE {
                bail!("after {} s it is not so that {what}", PATIENCE.as_secs());
            }
            sleep(GLANCE).await;
        }
        Ok(began.elapsed())
    }
}

fn environment(directory: &Path, port: u16) -> anyhow::Result<Workspace> {
    let text = include_str!("../../../../environments/local.tfvars")
        .replace("127.0.0.1:9191", &format!("127.0.0.1:{port}"));
    put(
        &directory.join("environments/local.tfvars"),
        text.as_bytes(),
    )?;
    Workspace::open(directory, crate::context::LOCAL)
}

pub(super) fn put(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make {}", parent.display()))?;
    }
    durable::write_file(path, bytes, Attributes::mode(0o644))?;
    Ok(())
}

/// The manifests on a node's disk, by name.
pub(super) fn manifests(node: &Node) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(node.kubernetes().join("manifests"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        all.insert(name, std::fs::read(entry.path())?);
    }
    Ok(all)
}

/// The manifests of all nodes of the secure group, which an attack must not change.
pub(super) fn secure_manifests(stage: &Stage) -> anyhow::Result<Vec<BTreeMap<String, Vec<u8>>>> {
    stage.nodes_of(SECURE).map(manifests).collect()
}
