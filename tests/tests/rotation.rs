//! What the cluster trusts is replaced while it is in use: real platform-agents, the real platformctl, and clients that
//! keep connecting over TLS to a server that uses the files on a node's disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use platform_tests::node::{Node, PATIENCE, eventually};
use platform_tests::scene::{COMPUTE, SECURE, Scene, until};
use platform_tests::workspace::{Operator, group, refresh_as_node};
use serde_json::Value;
use shared::documents::{AuthorityName, Phase, Rotating, Step};
use shared::names::ReleaseNumber;
use shared::trust::TrustErrorKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Result = anyhow::Result<()>;

async fn ctl(operator: &Operator, arguments: &[&str]) -> anyhow::Result<(i32, String)> {
    let mut command = operator.platformctl();
    command.args(arguments).args(["-e", "local"]);
    let output: Output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    Ok((output.status.code().context("an exit code")?, said))
}

async fn done(operator: &Operator, arguments: &[&str]) -> anyhow::Result<String> {
    let (code, said) = ctl(operator, arguments).await?;
    ensure!(code == 0, "{arguments:?} ended with {code}: {said}");
    Ok(said)
}

/// It is refused, without a change of the keyring; what it says.
async fn refused(operator: &Operator, arguments: &[&str]) -> anyhow::Result<String> {
    let before = operator.keyring().await?.mark;
    let (code, said) = ctl(operator, arguments).await?;
    ensure!(code == 2, "{arguments:?} ended with {code}: {said}");
    ensure!(operator.keyring().await?.mark == before, "{said}");
    Ok(said)
}

/// Starts platformctl and kills it as soon as `reached` is so; it may have ended by then.
async fn killed_when(
    operator: &Operator,
    arguments: &[&str],
    reached: impl Fn() -> bool,
) -> Result {
    let mut command = operator.platformctl();
    command.args(arguments).args(["-e", "local"]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    while !reached() && child.try_wait()?.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let _ = child.kill();
    tokio::task::spawn_blocking(move || child.wait()).await??;
    Ok(())
}

fn cluster_step(pki: &shared::documents::Pki) -> Step {
    pki.authorities[&AuthorityName::Cluster].step()
}

/// Publishes, and waits until each of the nodes reports the published release of its group.
async fn publish_and_adopt(scene: &Scene, nodes: &[&Node]) -> Result {
    done(&scene.operator, &["publish"]).await?;
    for node in nodes {
        adopted(scene, node).await?;
    }
    Ok(())
}

async fn adopted(scene: &Scene, node: &Node) -> Result {
    let published = scene.operator.published(&group(node.group())).await?;
    let wanted = published.current().context("a release")?.release();
    scene
        .until_status(node, &format!("it is on release {wanted}"), |s| {
            s.release == Some(wanted) && s.error.is_none()
        })
        .await?;
    Ok(())
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(pem).collect::<std::result::Result<_, _>>()?)
}

fn roots(pem: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate)?;
    }
    Ok(store)
}

/// An API server, as far as TLS goes, with the files that are on a node's disk at each connection.
fn server_config(node: &Path) -> anyhow::Result<ServerConfig> {
    let read = |name: &str| fs::read(node.join(name));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = Arc::new(roots(&read("ca.crt")?)?);
    let verifier =
        WebPkiClientVerifier::builder_with_provider(clients, provider.clone()).build()?;
    let key = PrivateKeyDer::from_pem_slice(&read("apiserver.key")?)?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&read("apiserver.crt")?)?, key)?)
}

#[derive(Clone)]
struct Client {
    trust: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Client {
    /// As a kubeconfig has it.
    fn of_kubeconfig(text: &[u8]) -> anyhow::Result<Self> {
        let config: Value = serde_json::from_slice(text)?;
        let data = |at: &str| {
            let text = config.pointer(at).and_then(Value::as_str);
            Ok::<_, anyhow::Error>(STANDARD.decode(text.with_context(|| at.to_owned())?)?)
        };
        Ok(Self {
            trust: data("/clusters/0/cluster/certificate-authority-data")?,
            certificate: data("/users/0/user/client-certificate-data")?,
            key: data("/users/0/user/client-key-data")?,
        })
    }

    fn trusting(&self, authority: &str) -> Self {
        Self {
            trust: authority.as_bytes().to_vec(),
            ..self.clone()
        }
    }

    /// Connects, proves who it is, and hears the server's word.
    async fn connect(&self, port: u16) -> Result {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(&self.trust)?)
            .with_client_auth_cert(
                certificates(&self.certificate)?,
                PrivateKeyDer::from_pem_slice(&self.key)?,
            )?;
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let name = ServerName::try_from("127.0.0.1")?;
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        let mut word = [0; 2];
        stream.read_exact(&mut word).await?;
        ensure!(&word == b"ok");
        Ok(())
    }
}

async fn serve(listener: TcpListener, node: impl Fn() -> anyhow::Result<PathBuf> + Send + 'static) {
    let mut last: Option<Arc<ServerConfig>> = None;
    while let Ok((stream, _)) = listener.accept().await {
        // Where the directory is replaced at this moment, a pod that runs has its files still.
        if let Ok(config) = node().and_then(|d| server_config(&d)) {
            last = Some(Arc::new(config));
        }
        let Some(config) = last.clone() else { continue };
        tokio::spawn(async move {
            if let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await {
                let _ = stream.write_all(b"ok").await;
                let _ = stream.shutdown().await;
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_under_clients_that_keep_connecting() -> Result {
    let scene = Scene::set().await?;
    let operator = &scene.operator;
    let mut secure = scene.node(SECURE, "secure-1")?;
    let mut late = scene.node(SECURE, "secure-2")?;
    let mut compute = scene.node(COMPUTE, "compute-1")?;
    for node in [&mut secure, &mut late, &mut compute] {
        node.start()?;
        node.until_release(1).await?;
    }
    for node in [&secure, &late, &compute] {
        adopted(&scene, node).await?;
    }

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let of_server = SecretsOf::new(&secure, "kube-apiserver");
    let server = tokio::spawn(serve(listener, move || of_server.directory()));

    // A client of the other group that uses what is on its node's disk. It never fails.
    let of_proxy = SecretsOf::new(&compute, "kube-proxy");
    let follower = move || -> anyhow::Result<Client> {
        Client::of_kubeconfig(&fs::read(of_proxy.directory()?.join("kubeconfig"))?)
    };
    let first = follower()?;
    let (stop, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let following = tokio::spawn({
        let (stop, count) = (stop.clone(), count.clone());
        async move {
            let mut client = follower()?;
            while !stop.load(Ordering::Relaxed) {
                client = follower().unwrap_or(client);
                client.connect(port).await.context("the follower failed")?;
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        }
    });
    until("the follower connects", PATIENCE, || {
        count.load(Ordering::Relaxed) > 3
    })
    .await?;

    let keyring = operator.keyring().await?.content;
    let cluster = |k: &shared::documents::KeyringContent| {
        let pki = k.pki.as_ref().context("a PKI")?;
        anyhow::Ok(pki.authorities[&AuthorityName::Cluster].clone())
    };
    let old = cluster(&keyring)?.current.certificate;
    let old_only = first.trusting(&old);
    old_only.connect(port).await?;

    // Stage: killed at once, in the middle, and late; each time it is either done or not begun.
    for pause in [1, 300, 900] {
        let begun = std::time::Instant::now();
        let over = || begun.elapsed() >= Duration::from_millis(pause);
        killed_when(operator, &["rotate", "ca", "cluster", "stage"], over).await?;
        let pki = operator.keyring().await?.content.pki.context("a PKI")?;
        let step = cluster_step(&pki);
        ensure!(matches!(step, Step::Steady | Step::Staged), "{step:?}");
        let recorded = pki.rotations.contains_key("cluster");
        ensure!(
            recorded == (step == Step::Staged),
            "the step and its record are one"
        );
        if step == Step::Staged {
            break;
        }
    }
    let pki = operator.keyring().await?.content.pki.context("a PKI")?;
    if cluster_step(&pki) == Step::Steady {
        let said = done(operator, &["rotate", "ca", "cluster"]).await?;
        ensure!(said.contains("publish -e local"), "{said}");
    }
    let said = refused(operator, &["rotate", "ca", "cluster"]).await?;
    ensure!(said.contains("not published yet"), "{said}");
    ensure!(
        said.contains("secure") && said.contains("compute"),
        "{said}"
    );
    let new = match cluster(&operator.keyring().await?.content)? {
        Rotating {
            next: Some(next), ..
        } => next.certificate,
        other => bail!("not staged: {other:?}"),
    };
    let new_only = first.trusting(&new);
    // Whoever has the old certificate and was told of both authorities.
    let old_client = first.trusting(&format!("{old}{new}"));

    // A node is away: the next step waits for it, by name.
    late.kill().await?;
    publish_and_adopt(&scene, &[&secure, &compute]).await?;
    let said = refused(operator, &["rotate", "ca", "cluster"]).await?;
    ensure!(said.contains("secure/secure-2 reports release 1"), "{said}");
    ensure!(
        !said.contains("secure-1") && !said.contains("compute-1"),
        "{said}"
    );
    let said = done(operator, &["rotate", "ca"]).await?;
    ensure!(
        said.contains("staged") && said.contains("secure-2"),
        "{said}"
    );
    for client in [&old_only, &old_client] {
        client.connect(port).await?;
    }
    ensure!(
        new_only.connect(port).await.is_err(),
        "nothing is issued by the new one yet"
    );
    late.start()?;
    adopted(&scene, &late).await?;

    // Promote.
    let skipped = refused(operator, &["rotate", "ca", "cluster", "retire"]).await?;
    ensure!(skipped.contains("cannot be retired"), "{skipped}");
    done(operator, &["rotate", "ca", "cluster"]).await?;
    publish_and_adopt(&scene, &[&secure, &late, &compute]).await?;
    new_only.connect(port).await?;
    old_client
        .connect(port)
        .await
        .context("the old certificate is good still")?;
    ensure!(
        old_only.connect(port).await.is_err(),
        "it serves with the new one now"
    );

    // Retire; the publish is killed before its end, and another one ends it.
    done(operator, &["rotate", "ca", "cluster"]).await?;
    let targets = scene.bucket.object("groups/secure/metadata/4.targets.json");
    killed_when(operator, &["publish"], || targets.exists()).await?;
    publish_and_adopt(&scene, &[&secure, &late, &compute]).await?;
    ensure!(
        old_client.connect(port).await.is_err(),
        "the old one is trusted no more"
    );
    let seen = count.load(Ordering::Relaxed);
    until("the follower connects", PATIENCE, || {
        count.load(Ordering::Relaxed) > seen + 3
    })
    .await?;
    let pki = operator.keyring().await?.content.pki.context("a PKI")?;
    ensure!(cluster_step(&pki) == Step::Steady && pki.rotations.is_empty());

    stop.store(true, Ordering::Relaxed);
    following.await??;
    server.abort();
    println!(
        "the follower connected {} times and never failed",
        count.load(Ordering::Relaxed)
    );
    Ok(())
}

/// Where a pod's secrets are at a node, for tasks that outlive a borrow of it.
#[derive(Clone)]
struct SecretsOf {
    manifest: PathBuf,
    secrets: PathBuf,
}

impl SecretsOf {
    fn new(node: &Node, pod: &str) -> Self {
        Self {
            manifest: node.manifests().join(format!("{pod}.yaml")),
            secrets: node.kubernetes().join("secrets").join(pod),
        }
    }

    fn directory(&self) -> anyhow::Result<PathBuf> {
        let manifest = fs::read_to_string(&self.manifest)?;
        let pod = self
            .secrets
            .file_name()
            .and_then(|n| n.to_str())
            .context("a pod")?;
        let marker = format!("/secrets/{pod}/");
        let (_, after) = manifest
            .split_once(&marker)
            .context("no secret directory")?;
        let digest: String = after
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        Ok(self.secrets.join(digest))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_keys_change_under_nodes_and_an_old_timestamp_is_refused() -> Result {
    let scene = Scene::set().await?;
    let operator = &scene.operator;
    let name = group(SECURE);
    let mut node = scene.node(SECURE, "secure-1")?;
    node.start()?;
    node.until_release(1).await?;
    adopted(&scene, &node).await?;
    let first_root = operator.root(&name).await?;
    let object = |name: &str| {
        scene
            .bucket
            .object(&format!("groups/secure/metadata/{name}"))
    };
    let timestamp = object("timestamp.json");
    let old = fs::read(&timestamp)?;
    let read_keyring =
        || fs::read(scene.bucket.object("operator/keyring.json")).unwrap_or_default();

    // Killed after each of its writes; nodes, also fresh ones with the first root, accept what is there each time.
    for round in 0..4_u64 {
        let (keyring, stamp) = (read_keyring(), fs::read(&timestamp)?);
        let joint = object(&format!("{}.root.json", 2 * round + 2));
        let alone = object(&format!("{}.root.json", 2 * round + 3));
        let arguments = ["rotate", "signing", SECURE];
        killed_when(operator, &arguments, || match round {
            0 => read_keyring() != keyring,
            1 => joint.exists(),
            2 => fs::read(&timestamp).is_ok_and(|now| now != stamp),
            _ => alone.exists(),
        })
        .await?;
        let fresh = tempfile::TempDir::new()?;
        refresh_as_node(&operator.context, &name, &first_root, fresh.path())
            .await
            .with_context(|| format!("after kill {round}"))?;
        let keys = operator.keyring().await?.group(&name)?.clone();
        println!(
            "kill {round}: {} roots, handover {}",
            keys.roots.len(),
            keys.handover
        );
        if keys.handover {
            // A colleague, who remembers nothing, goes on with it.
            let colleague = operator.colleague(&scene.bucket.endpoint()).await?;
            let said = done(&colleague, &arguments).await?;
            ensure!(said.contains("begun earlier"), "{said}");
        } else if keys.roots.len() as u64 == 2 * round + 1 {
            done(operator, &arguments).await?;
        }
        let keys = operator.keyring().await?.group(&name)?.clone();
        ensure!(!keys.handover && keys.roots.len() as u64 == 2 * round + 3);
        ensure!(fs::read(&alone)? == keys.roots.last().context("a root")?.as_bytes());
        node.until_polled(2).await?;
        adopted(&scene, &node).await?;
    }

    // Operators and nodes go on: with the memory of the old keys, and without any.
    operator.amend("secure/kube-scheduler.yaml.j2", "cpu: 100m", "cpu: 150m")?;
    publish_and_adopt(&scene, &[&node]).await?;
    ensure!(fs::read_to_string(node.manifests().join("kube-scheduler.yaml"))?.contains("150m"));
    let mut fresh_node = scene.node(SECURE, "secure-9")?;
    fresh_node.start()?;
    adopted(&scene, &fresh_node).await?;

    // The old timestamp is put back.
    let now = fs::read(&timestamp)?;
    fs::write(&timestamp, &old)?;
    let files = node.manifest_files()?;
    for node in [&node, &fresh_node] {
        let status = scene
            .until_status(node, "it refuses", |s| s.error.is_some())
            .await?;
        let error = status.error.context("an error")?;
        ensure!(error.phase == Phase::Verify, "{error:?}");
    }
    let fresh = tempfile::TempDir::new()?;
    let refused = refresh_as_node(&operator.context, &name, &first_root, fresh.path()).await;
    let kind = refused.err().context("it was accepted")?.kind();
    ensure!(kind == TrustErrorKind::Signature, "{kind:?}");
    let (code, said) = ctl(operator, &["publish"]).await?;
    ensure!(code == 1, "{said}");
    fs::write(&timestamp, now)?;
    adopted(&scene, &node).await?;
    ensure!(node.manifest_files()? == files);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_restarts_when_a_file_of_its_own_changed_and_tokens_have_a_successor() -> Result {
    let scene = Scene::set().await?;
    let operator = &scene.operator;
    let mut secure = scene.node(SECURE, "secure-1")?;
    let mut compute = scene.node(COMPUTE, "compute-1")?;
    for node in [&mut secure, &mut compute] {
        node.start()?;
        node.until_release(1).await?;
    }
    let both = [&secure, &compute];
    for node in both {
        adopted(&scene, node).await?;
    }
    let expiry = "platform_agent_certificate_expiry_timestamp_seconds";
    let first_expiry = eventually("the metric is there", PATIENCE, async || {
        let at = secure.metric(expiry).await?;
        ensure!(at > 0.0);
        Ok(at)
    })
    .await?;
    let year = jiff::SignedDuration::from_hours(24 * 365);
    let ideal = (jiff::Timestamp::now() + year).as_second();
    #[allow(clippy::cast_precision_loss, reason = "seconds fit a double")]
    let off = (first_expiry - ideal as f64).abs();
    ensure!(off < 3600.0, "the leaves live a year, not {first_expiry}");

    let changed_by = async |arguments: &[&str]| {
        let before = secure.manifest_files()?;
        done(operator, arguments).await?;
        publish_and_adopt(&scene, &[&secure]).await?;
        let after = secure.manifest_files()?;
        let changed = after
            .iter()
            .filter(|(name, bytes)| before.get(*name) != Some(bytes));
        anyhow::Ok(
            changed
                .map(|(name, _)| name.clone())
                .collect::<BTreeSet<_>>(),
        )
    };
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|n| format!("{n}.yaml"))
            .collect::<BTreeSet<_>>()
    };
    let changed = changed_by(&["rotate", "leaves", "front-proxy-client"]).await?;
    ensure!(changed == names(&["kube-apiserver"]), "{changed:?}");
    let changed = changed_by(&["rotate", "leaves", "etcd-server", "kube-scheduler"]).await?;
    ensure!(changed == names(&["etcd", "kube-scheduler"]), "{changed:?}");
    let said = refused(operator, &["rotate", "leaves", "admin", "nobody", "else"]).await?;
    ensure!(said.contains("nobody, else"), "{said}");

    // Staging an authority that only the secure group knows leaves the other one alone.
    let published = async |name: &str| {
        let published = operator.published(&group(name)).await?;
        Ok::<_, anyhow::Error>(
            published
                .current()
                .map(shared::trust::ReleaseTarget::release),
        )
    };
    let before: Option<ReleaseNumber> = published(COMPUTE).await?;
    done(operator, &["rotate", "ca", "front-proxy"]).await?;
    done(operator, &["publish"]).await?;
    ensure!(published(COMPUTE).await? == before);

    // Tokens.
    let token = || {
        fs::read_to_string(
            compute
                .kubernetes()
                .join("host/kubelet/bootstrap.kubeconfig"),
        )
    };
    let old = token()?;
    done(operator, &["rotate", "tokens"]).await?;
    let said = refused(operator, &["rotate", "tokens"]).await?;
    ensure!(said.contains("--retire"), "{said}");
    let said = refused(operator, &["rotate", "tokens", "--retire"]).await?;
    ensure!(said.contains("not published yet"), "{said}");
    publish_and_adopt(&scene, &[&secure, &compute]).await?;
    ensure!(token()? != old, "new machines come with the new one");
    done(operator, &["rotate", "tokens", "--retire"]).await?;
    publish_and_adopt(&scene, &[&secure, &compute]).await?;
    let pki = operator.keyring().await?.content.pki.context("a PKI")?;
    ensure!(pki.bootstrap.step() == Step::Steady);
    let (code, said) = ctl(operator, &["status"]).await?;
    ensure!(code == 0 && said.contains("expires first: "), "{said}");
    Ok(())
}
