//! A bucket, an operator, and nodes on them: where the contract is played.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use ctl::keyring::Keyring;
use ctl::publish::{Choices, Publication, plan};
use ctl::status::read_group;
use shared::documents::{NodeStatus, open_node_object};
use shared::store::keys;
use tempfile::TempDir;

use crate::node::{GLANCE, Node, NodeKeyWrap, NodeSettings, PATIENCE, eventually};
use crate::workspace::{BUCKET, Bucket, Operator, carry_out, group};

/// The group that has the whole control plane.
pub const SECURE: &str = "secure";
/// The group that has little.
pub const COMPUTE: &str = "compute";

/// A bucket with release 1 of both groups in it, its operator, and room for nodes.
#[derive(Debug)]
pub struct Scene {
    /// The store.
    pub bucket: Bucket,
    /// The operator's working directory.
    pub operator: Operator,
    keyring: Keyring,
    nodes: TempDir,
}

impl Scene {
    /// Sets the scene with the built-in manifests as release 1.
    ///
    /// # Errors
    /// What kept it from being set.
    pub async fn set() -> anyhow::Result<Self> {
        Self::set_with(async |_| Ok(())).await
    }

    /// The same, after `prepare` has changed the working directory.
    ///
    /// # Errors
    /// What kept it from being set.
    pub async fn set_with(
        prepare: impl AsyncFnOnce(&Operator) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        Self::set_mut(async |operator| prepare(operator).await).await
    }

    /// The same, where `prepare` changes the environment too.
    ///
    /// # Errors
    /// What kept it from being set.
    pub async fn set_mut(
        prepare: impl AsyncFnOnce(&mut Operator) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let bucket = Bucket::start().await?;
        let mut operator = Operator::new(&bucket.endpoint()).await?;
        prepare(&mut operator).await?;
        operator.publish().await?;
        let keyring = operator.keyring().await?;
        Ok(Self {
            bucket,
            operator,
            keyring,
            nodes: TempDir::new()?,
        })
    }

    /// The operator's keys.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Where nodes live.
    #[must_use]
    pub fn nodes_directory(&self) -> &Path {
        self.nodes.path()
    }

    /// Publishes a group, which must give a new release; its number.
    ///
    /// # Errors
    /// A publish that fails, or has nothing to publish.
    pub async fn publish(&self, name: &str) -> anyhow::Result<u64> {
        let plans = plan(&self.operator.context, &[group(name)], Choices::default()).await?;
        let mut done = carry_out(&self.operator, plans).await?;
        match done.remove(name) {
            Some(Publication::Released { release, .. }) => Ok(release.get()),
            other => bail!("publishing {name} gave {other:?}"),
        }
    }

    /// What a node of `group` is configured with; it asks at `endpoint_url` every second.
    ///
    /// # Errors
    /// A group without keys.
    pub fn settings(
        &self,
        group_name: &str,
        name: &str,
        endpoint_url: &str,
    ) -> anyhow::Result<NodeSettings> {
        let workspace = &self.operator.context.workspace;
        let roots = &self.keyring.group(&group(group_name))?.roots;
        let state = workspace.state_directory();
        Ok(NodeSettings {
            environment: workspace.name.to_string(),
            group: group_name.to_owned(),
            name: name.to_owned(),
            bucket: BUCKET.to_owned(),
            region: workspace.environment.region.as_str().to_owned(),
            endpoint_url: endpoint_url.to_owned(),
            credentials_file: state.join("credentials"),
            trusted_root: roots.first().context("a root")?.clone(),
            key_wrap: NodeKeyWrap::LocalFile(state.join("wrap.key")),
            poll_interval_seconds: 1,
            more: String::new(),
        })
    }

    /// Lays out a node that asks the store directly, every second; nothing is started.
    ///
    /// # Errors
    /// What could not be written.
    pub fn node(&self, group_name: &str, name: &str) -> anyhow::Result<Node> {
        self.node_at(group_name, name, &self.bucket.endpoint())
    }

    /// The same for a node that asks at `endpoint_url`.
    ///
    /// # Errors
    /// What could not be written.
    pub fn node_at(
        &self,
        group_name: &str,
        name: &str,
        endpoint_url: &str,
    ) -> anyhow::Result<Node> {
        let settings = self.settings(group_name, name, endpoint_url)?;
        Node::lay_out(&self.nodes.path().join(name), settings)
    }

    /// A node's status object, authenticated; read from the store's own disk, past any proxy.
    ///
    /// # Errors
    /// None there, or one that is not authentic.
    pub fn status(&self, node: &Node) -> anyhow::Result<NodeStatus> {
        let name = group(node.group());
        let key = keys::node_status(&name, &node.name().parse()?);
        let bytes = std::fs::read(self.bucket.object(&key)).context("no status object")?;
        let bound = keys::bound_name(&self.operator.context.workspace.name, &key);
        let group_key = &self.keyring.group(&name)?.group_key;
        Ok(open_node_object(&bytes, &bound, group_key)?)
    }

    /// Waits until a node's status is as `wanted`.
    ///
    /// # Errors
    /// What it says instead.
    pub async fn until_status(
        &self,
        node: &Node,
        what: &str,
        wanted: impl Fn(&NodeStatus) -> bool,
    ) -> anyhow::Result<NodeStatus> {
        let what = format!("{}'s status says that {what}", node.name());
        eventually(&what, PATIENCE, async || {
            let status = self.status(node)?;
            anyhow::ensure!(wanted(&status), "{status:?}");
            Ok(status)
        })
        .await
    }

    /// What `platformctl status` reads of a group, through the store.
    ///
    /// # Errors
    /// A listing that fails, or a status that is not believed.
    pub async fn statuses(&self, name: &str) -> anyhow::Result<Vec<NodeStatus>> {
        let name = group(name);
        let keys = self.keyring.group(&name)?;
        let reports = read_group(&self.operator.context, keys, &name).await?;
        let statuses = reports.into_iter().map(|report| Ok(report.status?));
        statuses.collect()
    }
}

/// Writes a template for a pod of little content: `web` is `manifests/GROUP/web.yaml.j2`. With secrets in
/// `secrets/GROUP/web/`, it mounts them; with a port, it has that of its host.
///
/// # Errors
/// A file that cannot be written.
pub fn write_pod(operator: &Operator, group_name: &str, pod: &Pod<'_>) -> anyhow::Result<()> {
    let Pod {
        file,
        name,
        image,
        secrets,
        host_port,
    } = *pod;
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: kube-system\nspec:\n  hostNetwork: true\n  \
         automountServiceAccountToken: false\n  terminationGracePeriodSeconds: 30\n  containers:\n    - name: main\n      image: {image}\n"
    );
    if let Some(port) = host_port {
        text.push_str(&format!(
            "      ports:\n        - containerPort: {port}\n          hostPort: {port}\n"
        ));
    }
    if !secrets.is_empty() {
        text.push_str(&format!(
            "      volumeMounts:\n        - name: secrets\n          mountPath: /etc/kubernetes/secrets\n          \
             readOnly: true\n  volumes:\n    - name: secrets\n      hostPath:\n        path: {{{{ secret_dir(\"{name}\") }}}}\n        \
             type: Directory\n"
        ));
        let directory = operator.path(&format!("secrets/{group_name}/{name}"));
        std::fs::create_dir_all(&directory)?;
        for (file, content) in secrets {
            write_private(&directory.join(file), content)?;
        }
    }
    let template = operator.path(&format!("manifests/{group_name}/{file}.yaml.j2"));
    Ok(std::fs::write(template, text)?)
}

/// A pod for [`write_pod`].
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    /// The template's name, without `.yaml.j2`.
    pub file: &'a str,
    /// The pod's name.
    pub name: &'a str,
    /// Its image.
    pub image: &'a str,
    /// Its secret files with their contents.
    pub secrets: &'a [(&'a str, &'a str)],
    /// A port of the host that it takes.
    pub host_port: Option<u16>,
}

fn write_private(path: &PathBuf, content: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

/// Removes a template and the secrets of its pod.
///
/// # Errors
/// A file that cannot be removed.
pub fn remove_pod(operator: &Operator, group_name: &str, name: &str) -> anyhow::Result<()> {
    std::fs::remove_file(operator.path(&format!("manifests/{group_name}/{name}.yaml.j2")))?;
    let secrets = operator.path(&format!("secrets/{group_name}/{name}"));
    match secrets.exists() {
        true => Ok(std::fs::remove_dir_all(secrets)?),
        false => Ok(()),
    }
}

/// Looks at a condition again and again; gives the time it took.
///
/// # Errors
/// A condition that does not come true within `patience`.
pub async fn until(
    what: &str,
    patience: std::time::Duration,
    mut holds: impl FnMut() -> bool,
) -> anyhow::Result<std::time::Duration> {
    let began = std::time::Instant::now();
    while !holds() {
        if began.elapsed() >= patience {
            bail!("after {} s it is not so that {what}", patience.as_secs());
        }
        tokio::time::sleep(GLANCE).await;
    }
    Ok(began.elapsed())
}
