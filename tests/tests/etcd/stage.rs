//! Nodes of the secure group that are real but for their kubelet.

use std::path::PathBuf;
use std::time::Duration;

use agent::etcd::{EtcdClient, EtcdIdentity};
use anyhow::{Context as _, ensure};
use platform_tests::etcd::free_ports;
use platform_tests::etcd_kubelet::{EtcdKubelet, Launch};
use platform_tests::netns::{Network, Space};
use platform_tests::node::{Node, eventually};
use platform_tests::scene::{SECURE, Scene};
use platform_tests::tools;
use shared::documents::NodeStatus;
use shared::etcd::{EtcdRole, Fence, Generation};
use shared::store::keys;

/// How long anything here may take on a machine that runs many tests at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Machine {
    pub(crate) node: Node,
    pub(crate) kubelet: EtcdKubelet,
    pub(crate) client_url: String,
}

pub(crate) struct Stage {
    pub(crate) scene: Scene,
    pub(crate) machines: Vec<Machine>,
    etcd: PathBuf,
}

impl Stage {
    /// A published release of `voters` members; none where etcd is not installed.
    pub(crate) async fn set(voters: u32, gone_after: &str) -> anyhow::Result<Option<Self>> {
        let Some(etcd) = tools::find("etcd") else {
            return Ok(None);
        };
        let scene = Scene::set_mut(async |operator| {
            let sizes = "secure_asg_min = 3\nsecure_asg_max = 3";
            let wanted = format!("secure_asg_min = {voters}\nsecure_asg_max = {voters}");
            operator.amend_environment(sizes, &wanted).await?;
            let limit = format!("gone_after: {gone_after}");
            operator.amend("secure/node.yaml", "gone_after: 11m", &limit)
        })
        .await?;
        Ok(Some(Self {
            scene,
            machines: Vec::new(),
            etcd,
        }))
    }

    /// Starts a machine whose kubelet never runs anything.
    pub(crate) fn start_without_kubelet(&self, name: &str) -> anyhow::Result<Node> {
        let (mut node, _) = self.lay_out(name)?;
        node.start()?;
        Ok(node)
    }

    /// A node with ports of its own, and its client URL.
    fn lay_out(&self, name: &str) -> anyhow::Result<(Node, String)> {
        let [client, peer, metrics] = free_ports(3)?[..] else {
            anyhow::bail!("three ports");
        };
        let mut node = self.scene.node(SECURE, name)?;
        let client_url = format!("https://127.0.0.1:{client}");
        node.configure(&format!(
            "[etcd]\npeer_url = \"https://127.0.0.1:{peer}\"\nclient_url = \"{client_url}\"\n\
             listen_peer_url = \"https://127.0.0.1:{peer}\"\nlisten_client_urls = [\"{client_url}\"]\n\
             metrics_url = \"http://127.0.0.1:{metrics}\"\n"
        ))?;
        Ok((node, client_url))
    }

    /// Lays a node out, without starting its agent.
    pub(crate) fn add(&mut self, name: &str) -> anyhow::Result<usize> {
        let (node, client_url) = self.lay_out(name)?;
        let kubelet = EtcdKubelet::start(&node, &self.etcd)?;
        self.machines.push(Machine {
            node,
            kubelet,
            client_url,
        });
        Ok(self.machines.len() - 1)
    }

    /// A machine with an address of its own and the ports of the product, under its DNS name; its agent is started.
    pub(crate) fn start_in(
        &mut self,
        name: &str,
        network: &Network,
        space: &Space,
        amend: Option<fn(&mut serde_json::Value)>,
    ) -> anyhow::Result<usize> {
        let (host, ip) = (&space.host, space.ip);
        let mut node = self.scene.node_at(SECURE, name, &network.store())?;
        node.configure(&format!(
            "[etcd]\npeer_url = \"https://{host}:2380\"\nclient_url = \"https://{host}:2379\"\n\
             listen_peer_url = \"https://{ip}:2380\"\n\
             listen_client_urls = [\"https://127.0.0.1:2379\", \"https://{ip}:2379\"]\n"
        ))?;
        node.run_through(space.through());
        let launch = Launch {
            through: space.through(),
            amend,
        };
        let kubelet = EtcdKubelet::start_as(&node, &self.etcd, launch)?;
        node.start()?;
        self.machines.push(Machine {
            node,
            kubelet,
            client_url: format!("https://{host}:2379"),
        });
        Ok(self.machines.len() - 1)
    }

    pub(crate) fn start(&mut self, name: &str) -> anyhow::Result<usize> {
        let at = self.add(name)?;
        self.machines[at].node.start()?;
        Ok(at)
    }

    /// The machine goes, with all that is on it; what it said stays.
    pub(crate) async fn destroy(&mut self, at: usize) -> anyhow::Result<String> {
        let mut machine = self.machines.remove(at);
        machine.node.kill().await?;
        drop(machine.kubelet);
        let name = machine.node.name().to_owned();
        std::fs::remove_dir_all(machine.node.root())?;
        std::fs::remove_dir_all(machine.node.state())?;
        Ok(name)
    }

    pub(crate) fn status(&self, at: usize) -> anyhow::Result<NodeStatus> {
        self.scene.status(&self.machines[at].node)
    }

    pub(crate) async fn until_role(&self, at: usize, role: EtcdRole) -> anyhow::Result<NodeStatus> {
        let machine = &self.machines[at];
        let what = format!("{} is {role:?}", machine.node.name());
        let found = eventually(&what, PATIENCE, async || {
            let status = self.scene.status(&machine.node)?;
            let etcd = status.etcd.clone().context("no word of etcd")?;
            let calm = role != EtcdRole::Member || etcd.why.is_empty();
            ensure!(etcd.role == role && calm, "{etcd:?}, {:?}", status.error);
            Ok(status)
        })
        .await;
        found.with_context(|| {
            let log = machine.node.log().unwrap_or_default();
            let etcd = machine.kubelet.log();
            let last = |text: &str| {
                let lines: Vec<&str> = text.lines().rev().take(30).collect();
                lines.into_iter().rev().collect::<Vec<_>>().join("\n")
            };
            format!("its agent:\n{}\nits etcd:\n{}", last(&log), last(&etcd))
        })
    }

    pub(crate) async fn until_members(&self) -> anyhow::Result<()> {
        for at in 0..self.machines.len() {
            self.until_role(at, EtcdRole::Member).await?;
        }
        Ok(())
    }

    /// Waits until every node has committed `release`; `watch` is called at each look.
    pub(crate) async fn until_release(
        &self,
        release: u64,
        mut watch: impl FnMut(),
    ) -> anyhow::Result<()> {
        eventually("every node has the release", PATIENCE, async || {
            watch();
            for at in 0..self.machines.len() {
                let status = self.status(at)?;
                let has = status.release.map(shared::names::ReleaseNumber::get);
                ensure!(
                    has == Some(release) && status.rollout.slot.is_none(),
                    "{status:?}"
                );
            }
            Ok(())
        })
        .await
    }

    pub(crate) fn identity(&self) -> anyhow::Result<EtcdIdentity> {
        let secrets = self.secrets("kube-apiserver")?;
        let read = |name: &str| std::fs::read(secrets.join(name));
        EtcdIdentity::from_pem(
            &read("etcd-ca.crt")?,
            &read("etcd-client.crt")?,
            &read("etcd-client.key")?,
        )
        .map_err(anyhow::Error::msg)
    }

    /// The secrets of a pod on the first machine: the newest, where those of before are still there.
    pub(crate) fn secrets(&self, pod: &str) -> anyhow::Result<PathBuf> {
        let of_pod = self.machines[0].node.kubernetes().join("secrets").join(pod);
        let mut found = Vec::new();
        for digest in std::fs::read_dir(of_pod)? {
            let path = digest?.path();
            found.push((std::fs::metadata(&path)?.modified()?, path));
        }
        let newest = found.into_iter().max().context("no secret directory")?;
        Ok(newest.1)
    }

    pub(crate) fn client(&self, at: usize) -> anyhow::Result<EtcdClient> {
        let url = &self.machines[at].client_url;
        Ok(EtcdClient::new(&self.identity()?, url)?)
    }

    /// Names of the members with a vote, as a linearizable list has them.
    pub(crate) async fn voters(&self, at: usize) -> anyhow::Result<Vec<String>> {
        let list = self.client(at)?.member_list().await?;
        let mut names: Vec<String> = list
            .into_iter()
            .filter(|m| !m.is_learner)
            .map(|m| m.name)
            .collect();
        names.sort();
        Ok(names)
    }

    /// The fence of the first generation.
    pub(crate) fn fence(&self) -> anyhow::Result<Vec<u8>> {
        let key = keys::etcd_fence(Generation::FIRST);
        Ok(std::fs::read(self.scene.bucket.object(&key))?)
    }

    /// One cluster, and no more.
    pub(crate) async fn one_cluster(&self) -> anyhow::Result<()> {
        let mut ids = Vec::new();
        for at in 0..self.machines.len() {
            ids.push(self.client(at)?.status().await?.cluster_id);
        }
        ids.dedup();
        ensure!(ids.len() == 1, "{ids:x?}");
        // What its members answer is the number that the fence says, also after a restore.
        let etcd = self.status(0)?.etcd.context("no word of etcd")?;
        let key = keys::etcd_fence(etcd.generation);
        let object: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.scene.bucket.object(&key))?)?;
        let body = object["body"].as_str().context("a body")?;
        let fence: Fence = serde_json::from_str(body)?;
        ensure!(ids == [fence.cluster_id()], "{ids:x?}, {fence:?}");
        Ok(())
    }

    pub(crate) fn data(&self, at: usize) -> PathBuf {
        self.machines[at].node.root().join("var/lib/etcd/1")
    }
}
