//! Real etcd members on loopback, with the certificates of the platform's own PKI.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent::etcd::{EtcdClient, EtcdIdentity};
use anyhow::{Context as _, ensure};
use ctl::pki::{Names, complete, deliver};
use jiff::Timestamp;

use crate::node::eventually;
use crate::workspace::group;

/// How long a member may take to serve.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The files of the pods etcd and kube-apiserver as a node of the secure group has them.
#[derive(Debug, Clone)]
pub struct Certificates {
    directory: PathBuf,
}

/// How to start one member.
#[derive(Debug, Clone)]
pub struct MemberSpec {
    /// Its name.
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// Its client port on loopback.
    pub client: u16,
    /// Its peer port on loopback.
    pub peer: u16,
    /// `name=peer URL` of each member, itself among them.
    pub cluster: Vec<String>,
    /// `new` or `existing`.
    pub state: &'static str,
    /// The cluster's token.
    pub token: String,
    /// Further flags.
    pub flags: Vec<String>,
}

/// One member that runs; it ends with the value.
#[derive(Debug)]
pub struct RunningMember {
    /// How it was started.
    pub spec: MemberSpec,
    /// What it writes.
    pub log: PathBuf,
    process: Child,
}

/// Below where the system takes ports for connections from: one that is free now is not taken by a client's connection
/// before etcd listens on it.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Ports that were free a moment ago, all at once: etcd takes no port 0.
///
/// # Errors
/// There are not so many.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let mut bound = Vec::new();
    for _ in 0..1_000 {
        if bound.len() == count {
            break;
        }
        bound.extend(TcpListener::bind(("127.0.0.1", rand::random_range(PORTS))));
    }
    anyhow::ensure!(bound.len() == count, "no free ports in {PORTS:?}");
    let ports = bound.iter().map(|l| Ok(l.local_addr()?.port()));
    ports.collect()
}

// === impl Certificates ===

impl Certificates {
    /// Those of a fresh PKI, written under `directory`.
    ///
    /// # Errors
    /// What the PKI or the file system says.
    pub fn fresh(directory: &Path) -> anyhow::Result<Self> {
        let names = Names {
            environment: "dev".to_owned(),
            zone: "example.com".to_owned(),
            region: "eu-west-1".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            service_ip: "10.101.0.1".parse()?,
        };
        let mut pki = None;
        complete(&mut pki, &names, Timestamp::now())?;
        let pki = pki.context("a PKI")?;
        let delivery = deliver(&group("secure"), &pki, &names)?;
        for pod in ["etcd", "kube-apiserver"] {
            std::fs::create_dir_all(directory.join(pod))?;
            for (name, file) in delivery.pods.get(pod).context("a pod")? {
                std::fs::write(directory.join(pod).join(name), file.bytes.expose())?;
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Those that a node has adopted, copied under `directory`, which outlives what a later release replaces.
    ///
    /// # Errors
    /// A pod whose secrets are not there.
    pub fn of_node(kubernetes: &Path, directory: &Path) -> anyhow::Result<Self> {
        for pod in ["etcd", "kube-apiserver"] {
            let versions = std::fs::read_dir(kubernetes.join("secrets").join(pod))?;
            let version = versions.last().context("a secret directory")??;
            std::fs::create_dir_all(directory.join(pod))?;
            for file in std::fs::read_dir(version.path())? {
                let file = file?;
                std::fs::copy(file.path(), directory.join(pod).join(file.file_name()))?;
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// What the agent comes to etcd with.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn identity(&self) -> anyhow::Result<EtcdIdentity> {
        let own = self.directory.join("kube-apiserver");
        let read = |name: &str| std::fs::read(own.join(name));
        EtcdIdentity::from_pem(
            &read("etcd-ca.crt")?,
            &read("etcd-client.crt")?,
            &read("etcd-client.key")?,
        )
        .map_err(anyhow::Error::msg)
    }

    /// A file of a pod.
    #[must_use]
    pub fn file(&self, pod: &str, name: &str) -> PathBuf {
        self.directory.join(pod).join(name)
    }
}

// === impl MemberSpec ===

impl MemberSpec {
    /// `count` members of one new cluster, with their data under `directory`.
    ///
    /// # Errors
    /// No free ports.
    pub fn new_cluster(directory: &Path, count: usize, token: &str) -> anyhow::Result<Vec<Self>> {
        let ports = free_ports(2 * count)?;
        let (clients, peers) = ports.split_at(count);
        let cluster: Vec<String> = (0..count)
            .map(|n| format!("m{n}=https://127.0.0.1:{}", peers[n]))
            .collect();
        let spec = |n: usize| Self {
            name: format!("m{n}"),
            data: directory.join(format!("m{n}")),
            client: clients[n],
            peer: peers[n],
            cluster: cluster.clone(),
            state: "new",
            token: token.to_owned(),
            flags: Vec::new(),
        };
        Ok((0..count).map(spec).collect())
    }

    /// Where clients reach it.
    #[must_use]
    pub fn client_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.client)
    }

    /// Where peers reach it.
    #[must_use]
    pub fn peer_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.peer)
    }

    /// Starts it.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(self, etcd: &Path, certificates: &Certificates) -> anyhow::Result<RunningMember> {
        let secret = |name: &str| certificates.file("etcd", name).display().to_string();
        let flags = [
            ("name", self.name.clone()),
            ("data-dir", self.data.display().to_string()),
            ("listen-client-urls", self.client_url()),
            ("advertise-client-urls", self.client_url()),
            ("listen-peer-urls", self.peer_url()),
            ("initial-advertise-peer-urls", self.peer_url()),
            ("initial-cluster", self.cluster.join(",")),
            ("initial-cluster-state", self.state.to_owned()),
            ("initial-cluster-token", self.token.clone()),
            ("client-cert-auth", "true".to_owned()),
            ("trusted-ca-file", secret("ca.crt")),
            ("cert-file", secret("server.crt")),
            ("key-file", secret("server.key")),
            ("peer-client-cert-auth", "true".to_owned()),
            ("peer-trusted-ca-file", secret("peer-ca.crt")),
            ("peer-cert-file", secret("peer.crt")),
            ("peer-key-file", secret("peer.key")),
            ("peer-client-cert-file", secret("peer-client.crt")),
            ("peer-client-key-file", secret("peer-client.key")),
        ];
        let log = self.data.with_extension("log");
        let written = File::options().create(true).append(true).open(&log)?;
        let process = Command::new(etcd)
            .args(
                flags
                    .iter()
                    .map(|(flag, value)| format!("--{flag}={value}")),
            )
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(written.try_clone()?)
            .stderr(written)
            .spawn()?;
        Ok(RunningMember {
            spec: self,
            log,
            process,
        })
    }
}

// === impl RunningMember ===

impl RunningMember {
    /// A client of it.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn client(&self, certificates: &Certificates) -> anyhow::Result<EtcdClient> {
        let identity = certificates.identity()?;
        Ok(EtcdClient::new(&identity, &self.spec.client_url())?)
    }

    /// Waits until it can serve.
    ///
    /// # Errors
    /// It cannot in time; with its log.
    pub async fn serves(&self, certificates: &Certificates) -> anyhow::Result<EtcdClient> {
        let client = self.client(certificates)?;
        eventually("the member serves", PATIENCE, async || {
            let health = client.health().await?;
            ensure!(health.healthy, "{}", health.reason);
            Ok(())
        })
        .await
        .with_context(|| std::fs::read_to_string(&self.log).unwrap_or_default())?;
        Ok(client)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Kills it at once (SIGKILL), and gives what it was started with.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(mut self) -> anyhow::Result<MemberSpec> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(self.spec.clone())
    }
}

impl Drop for RunningMember {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
