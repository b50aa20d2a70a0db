//! Throw-away certificates for the embedded default, so that it runs the real manifests. A cluster's own PKI is made
//! and kept elsewhere; nothing here is ever published to a real environment.

use std::path::Path;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use shared::durable::{self, Attributes};

struct Authority {
    pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Leaf {
    certificate: String,
    key: String,
}

/// Writes `secrets/` below `directory` with everything the built-in manifests refer to, unless it is there already.
/// Says whether it did.
///
/// # Errors
/// A file that cannot be written, or a certificate that cannot be made.
pub fn write_secrets_if_needed(directory: &Path) -> anyhow::Result<bool> {
    let secrets = directory.join("secrets");
    if secrets.exists() {
        return Ok(false);
    }
    let cluster = Authority::new("dev cluster CA")?;
    let etcd = Authority::new("dev etcd CA")?;
    let front = Authority::new("dev front-proxy CA")?;
    let service_account = KeyPair::generate()?;
    let account_key = service_account.serialize_pem();
    let server = "https://127.0.0.1:6443";

    let pod = secrets.join("secure/etcd");
    write(&pod, "ca.crt", &etcd.pem)?;
    write(&pod, "peer-ca.crt", &etcd.pem)?;
    write_leaf(
        &pod,
        "server",
        &etcd.leaf("etcd", &["localhost", "127.0.0.1"])?,
    )?;
    write_leaf(
        &pod,
        "peer",
        &etcd.leaf("etcd-peer", &["localhost", "127.0.0.1"])?,
    )?;

    let pod = secrets.join("secure/kube-apiserver");
    write(&pod, "ca.crt", &cluster.pem)?;
    write(&pod, "etcd-ca.crt", &etcd.pem)?;
    write(&pod, "front-proxy-ca.crt", &front.pem)?;
    let names = ["kubernetes.default.svc", "localhost", "127.0.0.1"];
    write_leaf(&pod, "apiserver", &cluster.leaf("kube-apiserver", &names)?)?;
    write_leaf(&pod, "etcd-client", &etcd.leaf("kube-apiserver", &[])?)?;
    write_leaf(
        &pod,
        "kubelet-client",
        &cluster.leaf("kube-apiserver-kubelet-client", &[])?,
    )?;
    write_leaf(
        &pod,
        "front-proxy-client",
        &front.leaf("front-proxy-client", &[])?,
    )?;
    write(
        &pod,
        "service-account.pub",
        &service_account.public_key_pem(),
    )?;
    write(&pod, "service-account.key", &account_key)?;
    write(&pod, "encryption.yaml", ENCRYPTION)?;

    let pod = secrets.join("secure/kube-controller-manager");
    write(&pod, "ca.crt", &cluster.pem)?;
    write(&pod, "front-proxy-ca.crt", &front.pem)?;
    write(&pod, "service-account.key", &account_key)?;
    write(&pod, "kubelet-client-ca.crt", &cluster.pem)?;
    write(&pod, "kubelet-client-ca.key", &cluster.key_pem)?;
    let leaf = cluster.leaf("system:kube-controller-manager", &[])?;
    write(&pod, "kubeconfig", &kubeconfig(server, &cluster, &leaf))?;

    let pod = secrets.join("secure/kube-scheduler");
    write(&pod, "ca.crt", &cluster.pem)?;
    let leaf = cluster.leaf("system:kube-scheduler", &[])?;
    write(&pod, "kubeconfig", &kubeconfig(server, &cluster, &leaf))?;

    for (pod, name, user) in [
        ("addons", "kubeconfig", "platform:addons"),
        (
            "addons",
            "bootstrap.kubeconfig",
            "platform:addons-bootstrap",
        ),
        ("kube-proxy", "kubeconfig", "system:kube-proxy"),
    ] {
        let leaf = cluster.leaf(user, &[])?;
        let pod = secrets.join("secure").join(pod);
        write(&pod, name, &kubeconfig(server, &cluster, &leaf))?;
    }

    let pod = secrets.join("compute/kube-proxy");
    let leaf = cluster.leaf("system:kube-proxy", &[])?;
    write(
        &pod,
        "kubeconfig",
        &kubeconfig("https://kube.platform.test:6443", &cluster, &leaf),
    )?;
    Ok(true)
}

impl Authority {
    fn new(name: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let key_pem = key.serialize_pem();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            pem,
            key_pem,
            issuer: Issuer::new(params, key),
        })
    }

    fn leaf(&self, name: &str, sans: &[&str]) -> anyhow::Result<Leaf> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        for san in sans {
            params.subject_alt_names.push(match san.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName((*san).try_into()?),
            });
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Leaf {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

fn write(pod: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(pod).with_context(|| format!("cannot make {}", pod.display()))?;
    durable::write_file(&pod.join(name), text.as_bytes(), Attributes::mode(0o600))?;
    Ok(())
}

fn write_leaf(pod: &Path, name: &str, leaf: &Leaf) -> anyhow::Result<()> {
    write(pod, &format!("{name}.crt"), &leaf.certificate)?;
    write(pod, &format!("{name}.key"), &leaf.key)
}

fn kubeconfig(server: &str, authority: &Authority, leaf: &Leaf) -> String {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {
            "server": server,
            "certificate-authority-data": encode(&authority.pem),
        }}],
        "users": [{"name": "self", "user": {
            "client-certificate-data": encode(&leaf.certificate),
            "client-key-data": encode(&leaf.key),
        }}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "self"}}],
        "current-context": "local",
    })
    .to_string()
}

const ENCRYPTION: &str = r#"apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - identity: {}
"#;
