//! Nodes of one small pod each, and a server that is ill while the disks of the nodes say so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use platform_tests::node::{Node, eventually};
use platform_tests::scene::{COMPUTE, Pod, Scene, write_pod};
use platform_tests::workspace::{Operator, group};
use shared::documents::{RolloutDocument, open_node_object};
use shared::names::ReleaseNumber;
use shared::store::keys;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// How long anything here may take on a machine that runs many tests at once.
pub(crate) const TEST_PATIENCE: Duration = Duration::from_secs(150);

/// When the server is ill.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bad {
    Never,
    /// While a node has a manifest with this text.
    With(&'static str),
    /// While two nodes have one.
    OnTwo(&'static str),
}

/// What the server looks at.
#[derive(Debug, Default)]
struct Seen {
    manifests: Mutex<BTreeMap<String, PathBuf>>,
    /// Text → nodes that were ever seen with it.
    ever: Mutex<BTreeMap<&'static str, BTreeSet<String>>>,
    healed: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    nodes: Vec<Node>,
    seen: Arc<Seen>,
}

pub(crate) fn number(n: u64) -> ReleaseNumber {
    ReleaseNumber::new(n).unwrap()
}

impl Seen {
    fn with(&self, text: &'static str) -> usize {
        let mut count = 0;
        for (name, manifest) in &*self.manifests.lock().unwrap() {
            if std::fs::read_to_string(manifest).is_ok_and(|m| m.contains(text)) {
                count += 1;
                let mut ever = self.ever.lock().unwrap();
                ever.entry(text).or_default().insert(name.clone());
            }
        }
        count
    }

    fn is_ill(&self, bad: Bad) -> bool {
        let ill = match bad {
            Bad::Never => false,
            Bad::With(text) => self.with(text) > 0,
            Bad::OnTwo(text) => self.with(text) > 1,
        };
        ill && !self.healed.load(Ordering::Relaxed)
    }
}

fn write_web(operator: &Operator, image: &str) -> anyhow::Result<()> {
    write_pod(
        operator,
        COMPUTE,
        &Pod {
            file: "web",
            name: "web",
            image: &format!("registry.example/web:{image}"),
            secrets: &[],
            host_port: None,
        },
    )
}

impl Stage {
    pub(crate) async fn set(nodes: usize, bad: Bad) -> anyhow::Result<Self> {
        Self::set_with(nodes, bad, "60s", 3).await
    }

    pub(crate) async fn set_with(
        nodes: usize,
        bad: Bad,
        deadline: &str,
        failures: u32,
    ) -> anyhow::Result<Self> {
        let seen = Arc::new(Seen::default());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(serve(listener, seen.clone(), bad));
        // A policy has a bound; more than the deadline has room for is "never".
        let failures = failures.min(100);
        let period = if failures == 100 { "1s" } else { "100ms" };
        let policy = format!(
            "max_unavailable: 1\ndeadline: {deadline}\nsettle: 300ms\nprobes:\n  - name: web\n    http: {{url: \"http://{address}/\"}}\n    \
             period: {period}\n    timeout: 1s\n    failure_threshold: {failures}\n"
        );
        let scene = Scene::set_with(async |operator| {
            std::fs::write(operator.path("manifests/compute/rollout.yaml"), &policy)?;
            write_web(operator, "v1")
        })
        .await?;
        let mut stage = Self {
            scene,
            nodes: Vec::new(),
            seen,
        };
        for n in 0..nodes {
            stage.add_node(&format!("node-{n}")).await?;
        }
        Ok(stage)
    }

    pub(crate) async fn add_node(&mut self, name: &str) -> anyhow::Result<()> {
        let endpoint = self.scene.bucket.endpoint();
        self.add_node_at(name, &endpoint).await
    }

    /// A node that has its first release and has said so.
    pub(crate) async fn add_node_at(&mut self, name: &str, endpoint: &str) -> anyhow::Result<()> {
        let mut node = self.scene.node_at(COMPUTE, name, endpoint)?;
        let manifest = node.manifests().join("web.yaml");
        self.seen
            .manifests
            .lock()
            .unwrap()
            .insert(name.to_owned(), manifest);
        node.start()?;
        self.scene
            .until_status(&node, "it has a release", |s| s.release.is_some())
            .await?;
        self.nodes.push(node);
        Ok(())
    }

    pub(crate) fn node(&self, name: &str) -> anyhow::Result<&Node> {
        self.nodes
            .iter()
            .find(|n| n.name() == name)
            .context("no such node")
    }

    pub(crate) fn node_mut(&mut self, name: &str) -> anyhow::Result<&mut Node> {
        self.nodes
            .iter_mut()
            .find(|n| n.name() == name)
            .context("no such node")
    }

    /// A machine that is gone for good, with all that was on it.
    pub(crate) fn lose_node(&mut self, name: &str) {
        self.nodes.retain(|node| node.name() != name);
        self.seen.manifests.lock().unwrap().remove(name);
    }

    /// From now on nothing is wrong with the server.
    pub(crate) fn heal(&self) {
        self.seen.healed.store(true, Ordering::Relaxed);
    }

    /// Amends the manifest, and publishes nothing.
    pub(crate) fn write(&self, image: &str) -> anyhow::Result<()> {
        write_web(&self.scene.operator, image)
    }

    pub(crate) async fn publish(&self, image: &str) -> anyhow::Result<u64> {
        self.write(image)?;
        self.scene.publish(COMPUTE).await
    }

    /// Each node's manifest.
    pub(crate) fn manifests(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let read = |node: &Node| {
            let text = std::fs::read_to_string(node.manifests().join("web.yaml"))?;
            Ok((node.name().to_owned(), text))
        };
        self.nodes.iter().map(read).collect()
    }

    /// The nodes that the server ever saw with `text`.
    pub(crate) fn ever(&self, text: &'static str) -> Vec<String> {
        self.seen.with(text);
        let ever = self.seen.ever.lock().unwrap();
        ever.get(text).into_iter().flatten().cloned().collect()
    }

    pub(crate) fn document(&self) -> anyhow::Result<RolloutDocument> {
        let name = group(COMPUTE);
        let key = keys::rollout(&name);
        let bytes = std::fs::read(self.scene.bucket.object(&key)).context("no document")?;
        let bound = keys::bound_name(&self.scene.operator.context.workspace.name, &key);
        let group_key = &self.scene.keyring().group(&name)?.group_key;
        Ok(open_node_object(&bytes, &bound, group_key)?)
    }

    pub(crate) async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&RolloutDocument) -> bool,
    ) -> anyhow::Result<RolloutDocument> {
        eventually(what, TEST_PATIENCE, async || {
            let document = self.document()?;
            anyhow::ensure!(wanted(&document), "{document:?}");
            Ok(document)
        })
        .await
    }

    /// Waits until every node has committed `release`; gives the most nodes that held a slot at a time.
    pub(crate) async fn watch_until_all(&self, release: u64) -> anyhow::Result<usize> {
        let mut most = 0;
        eventually("every node has the release", TEST_PATIENCE, async || {
            let document = self.document()?;
            most = most.max(document.holders.len() + document.unavailable.len());
            anyhow::ensure!(document.holders.is_empty(), "{document:?}");
            for node in &self.nodes {
                let status = self.scene.status(node)?;
                let has = status.release.map(ReleaseNumber::get);
                anyhow::ensure!(
                    has == Some(release) && status.rollout.slot.is_none(),
                    "{status:?}"
                );
            }
            Ok(())
        })
        .await?;
        Ok(most)
    }
}

async fn serve(listener: TcpListener, seen: Arc<Seen>, bad: Bad) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = match seen.is_ill(bad) {
            true => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\nnot well\n",
            false => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n",
        };
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}
