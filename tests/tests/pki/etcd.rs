//! A real etcd runs on the certificates: three members on loopback, everything over TLS.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ctl::pki::deliver;
use ctl::render::EMBEDDED;
use platform_tests::etcd::free_ports;
use platform_tests::node::eventually;
use platform_tests::tools;
use platform_tests::workspace::group;
use shared::documents::{Nonce, Pki};
use shared::etcd::{Form, Generation, InitialMember, Listen, MemberFacts, Memory, render_config};
use tempfile::TempDir;

use super::{fresh, output};

const MEMBERS: usize = 3;
const BASE: &str = "secure/files/etcd/base.yaml.j2";
const PATIENCE: Duration = Duration::from_secs(60);

/// One member; it ends with the test.
struct Member {
    process: Child,
    client: u16,
    log: PathBuf,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The files of two pods as a node of the secure group has them.
fn write_secrets(directory: &Path, region: &str) -> anyhow::Result<Pki> {
    let (pki, names) = fresh(region);
    let delivery = deliver(&group("secure"), &pki, &names)?;
    for pod in ["etcd", "kube-apiserver"] {
        let files = delivery.pods.get(pod).context("a pod")?;
        std::fs::create_dir_all(directory.join(pod))?;
        for (name, file) in files {
            std::fs::write(directory.join(pod).join(name), file.bytes.expose())?;
        }
    }
    Ok(pki)
}

/// The members with the configuration file that an agent makes of the release's base, but for where things lie.
fn start(etcd: &Path, directory: &Path) -> anyhow::Result<Vec<Member>> {
    let ports = free_ports(3 * MEMBERS)?;
    let (clients, others) = ports.split_at(MEMBERS);
    let (peers, metrics) = others.split_at(MEMBERS);
    let base = EMBEDDED.iter().find(|(path, _)| *path == BASE);
    let secrets = directory.join("etcd").display().to_string();
    let base = base
        .context("the base")?
        .1
        .replace("/etc/kubernetes/secrets", &secrets);
    let facts: Vec<MemberFacts> = (0..MEMBERS)
        .map(|n| {
            Ok(MemberFacts {
                node: format!("i-{n}").parse()?,
                name: format!("m{n}"),
                peer_url: format!("https://127.0.0.1:{}", peers[n]),
                client_url: format!("https://127.0.0.1:{}", clients[n]),
            })
        })
        .collect::<anyhow::Result<_>>()?;
    let memory = Memory {
        generation: Generation::FIRST,
        form: Form::New {
            nonce: Nonce::random(),
            started: true,
        },
        initial: facts.iter().map(InitialMember::of).collect(),
        led: None,
    };
    let mut members = Vec::new();
    for (n, own) in facts.iter().enumerate() {
        let listen = Listen {
            peer_url: own.peer_url.clone(),
            client_urls: vec![own.client_url.clone()],
            metrics_url: Some(format!("http://127.0.0.1:{}", metrics[n])),
        };
        let data = directory.join(&own.name).display().to_string();
        let text = render_config(&base, own, &listen, "pki-test", &data, &memory)?;
        let file = directory.join(format!("m{n}.yaml"));
        std::fs::write(&file, text)?;
        let log = directory.join(format!("m{n}.log"));
        let written = File::create(&log)?;
        let process = Command::new(etcd)
            .arg(format!("--config-file={}", file.display()))
            .stdin(Stdio::null())
            .stdout(written.try_clone()?)
            .stderr(written)
            .spawn()?;
        members.push(Member {
            process,
            client: clients[n],
            log,
        });
    }
    Ok(members)
}

/// An etcdctl that comes with the API server's certificate of a directory.
struct Client {
    etcdctl: PathBuf,
    endpoints: String,
    certificates: Option<PathBuf>,
    trusts: PathBuf,
}

impl Client {
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(&self.etcdctl);
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoints))
            .arg(format!("--cacert={}", self.trusts.display()))
            .args(["--command-timeout=5s", "--dial-timeout=3s"]);
        if let Some(own) = &self.certificates {
            let file = |name: &str| own.join(name).display().to_string();
            command
                .arg(format!("--cert={}", file("etcd-client.crt")))
                .arg(format!("--key={}", file("etcd-client.key")));
        }
        output(command.args(arguments))
    }
}

#[tokio::test]
async fn three_members_talk_tls_take_writes_and_refuse_strangers() -> anyhow::Result<()> {
    let (Some(etcd), Some(etcdctl)) = (tools::find("etcd"), tools::find("etcdctl")) else {
        return Ok(());
    };
    let version = output(Command::new(&etcd).arg("--version")).1;
    let version = version.lines().next().unwrap_or_default().to_owned();
    eprintln!("with Debian's {version}; Kubernetes 1.36 ships 3.6");
    let (home, stranger) = (TempDir::new()?, TempDir::new()?);
    write_secrets(home.path(), "eu-west-1")?;
    write_secrets(stranger.path(), "eu-west-1")?;
    let members = start(&etcd, home.path())?;
    let endpoints: Vec<String> = members
        .iter()
        .map(|m| format!("https://127.0.0.1:{}", m.client))
        .collect();
    let server = home.path().join("kube-apiserver");
    let client = |endpoints: &str, certificates: Option<PathBuf>, trusts: PathBuf| Client {
        etcdctl: etcdctl.clone(),
        endpoints: endpoints.to_owned(),
        certificates,
        trusts,
    };
    let all = client(
        &endpoints.join(","),
        Some(server.clone()),
        server.join("etcd-ca.crt"),
    );
    let logs = || -> String {
        let logs = members.iter().map(|m| std::fs::read_to_string(&m.log));
        logs.map(Result::unwrap_or_default).collect()
    };

    let healthy = eventually("every member is healthy", PATIENCE, async || {
        let (healthy, said) = all.run(&["endpoint", "health"]);
        ensure!(healthy, "{said}");
        Ok(said)
    })
    .await
    .with_context(logs)?;
    ensure!(
        healthy.matches("is healthy").count() == MEMBERS,
        "{healthy}"
    );
    let (_, list) = all.run(&["member", "list"]);
    let names: BTreeSet<&str> = list.split(", ").filter(|p| p.starts_with('m')).collect();
    ensure!(names.len() == MEMBERS, "{list}");

    // What one took, every other has: the peers are connected.
    let one = client(
        &endpoints[0],
        Some(server.clone()),
        server.join("etcd-ca.crt"),
    );
    let (taken, said) = one.run(&["put", "/registry/key", "from the right client"]);
    ensure!(taken, "{said}");
    for endpoint in &endpoints {
        let each = client(endpoint, Some(server.clone()), server.join("etcd-ca.crt"));
        let (_, said) = each.run(&["get", "/registry/key"]);
        ensure!(said.contains("from the right client"), "{endpoint}: {said}");
    }

    // A client of another authority, one without a certificate, and one that trusts another authority.
    let foreign = stranger.path().join("kube-apiserver");
    let strangers = [
        (Some(foreign.clone()), server.join("etcd-ca.crt")),
        (None, server.join("etcd-ca.crt")),
        (Some(server.clone()), foreign.join("etcd-ca.crt")),
        // The right authority's neighbour: kubelets and users of the API server are no clients of etcd.
        (Some(server.clone()), server.join("front-proxy-ca.crt")),
    ];
    for (certificates, trusts) in strangers {
        let refused = client(&endpoints[0], certificates.clone(), trusts);
        let (taken, said) = refused.run(&["put", "/registry/key", "from a stranger"]);
        ensure!(!taken, "{certificates:?} was let in: {said}");
    }
    let (_, said) = one.run(&["get", "/registry/key"]);
    ensure!(said.contains("from the right client"), "{said}");

    gateway(&endpoints[0], &server, &foreign)
}

/// The JSON gateway, which the agent speaks: it comes to its own server with the server's certificate.
fn gateway(endpoint: &str, server: &Path, foreign: &Path) -> anyhow::Result<()> {
    let Some(curl) = tools::find("curl") else {
        return Ok(());
    };
    let put = |own: &Path| {
        let file = |name: &str| own.join(name).display().to_string();
        let mut command = Command::new(&curl);
        command
            .args(["--silent", "--show-error", "--fail", "--max-time", "10"])
            .args([
                "--cacert",
                &server.join("etcd-ca.crt").display().to_string(),
            ])
            .args(["--cert", &file("etcd-client.crt")])
            .args(["--key", &file("etcd-client.key")])
            .args(["--data", r#"{"key": "L2c=", "value": "Z2F0ZXdheQ=="}"#]);
        output(command.arg(format!("{endpoint}/v3/kv/put")))
    };
    let (taken, said) = put(server);
    ensure!(taken && said.contains("revision"), "{said}");
    let (taken, said) = put(foreign);
    ensure!(!taken, "{said}");
    Ok(())
}
