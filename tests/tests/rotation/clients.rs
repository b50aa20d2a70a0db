//! Clients that keep connecting over TLS to a server that uses the files on a node's disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use platform_tests::node::Node;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Result;

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
pub(super) struct Client {
    trust: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Client {
    /// As a kubeconfig has it.
    pub(super) fn of_kubeconfig(text: &[u8]) -> anyhow::Result<Self> {
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

    pub(super) fn trusting(&self, authority: &str) -> Self {
        Self {
            trust: authority.as_bytes().to_vec(),
            ..self.clone()
        }
    }

    /// Connects, proves who it is, and hears the server's word.
    pub(super) async fn connect(&self, port: u16) -> Result {
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

pub(super) async fn serve(
    listener: TcpListener,
    node: impl Fn() -> anyhow::Result<PathBuf> + Send + 'static,
) {
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

/// Where a pod's secrets are at a node, for tasks that outlive a borrow of it.
#[derive(Clone)]
pub(super) struct SecretsOf {
    manifest: PathBuf,
    secrets: PathBuf,
}

impl SecretsOf {
    pub(super) fn new(node: &Node, pod: &str) -> Self {
        Self::named(node, pod, pod)
    }

    /// One of another name than its pod.
    pub(super) fn named(node: &Node, pod: &str, directory: &str) -> Self {
        Self {
            manifest: node.manifests().join(format!("{pod}.yaml")),
            secrets: node.kubernetes().join("secrets").join(directory),
        }
    }

    pub(super) fn directory(&self) -> anyhow::Result<PathBuf> {
        let manifest = fs::read_to_string(&self.manifest)?;
        let name = self.secrets.file_name().and_then(|n| n.to_str());
        let marker = format!("/secrets/{}/", name.context("a name")?);
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
