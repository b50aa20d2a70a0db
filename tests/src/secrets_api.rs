//! An API server as far as Secrets go: TLS with the platform's certificates, reads and updates with resource versions, and
//! values in a real etcd, under the name of the key that "encrypts" them.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use agent::etcd::EtcdClient;
use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use shared::rewrite::{SECRETS_PREFIX, StoredUnder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What it does, and what it has seen.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// The key that it writes with.
    pub writes: String,
    /// The keys that it reads with.
    pub reads: BTreeSet<String>,
    /// How often the next updates of a Secret (`namespace/name`) are in conflict.
    pub conflicts: BTreeMap<String, u32>,
    /// Secrets that were deleted after etcd was read.
    pub gone: BTreeSet<String>,
    /// Secrets that it refuses to let be updated.
    pub refused: BTreeSet<String>,
    /// Updates that it has done, in order.
    pub updated: Vec<String>,
    /// How long an update takes.
    pub takes: std::time::Duration,
    versions: BTreeMap<String, u64>,
}

/// It runs until the value is dropped.
#[derive(Debug)]
pub struct SecretsApi {
    /// Where it is.
    pub url: String,
    /// What it does.
    pub behaviour: Arc<Mutex<Behaviour>>,
    task: JoinHandle<()>,
}

/// Writes to an etcd, which the agent's own client cannot.
#[derive(Debug, Clone)]
pub struct EtcdWriter {
    url: String,
    files: PathBuf,
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?)
}

/// With the files of the pod kube-apiserver.
fn server_config(files: &Path) -> anyhow::Result<ServerConfig> {
    let read = |name: &str| std::fs::read(files.join(name));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut clients = RootCertStore::empty();
    for certificate in certificates(&read("ca.crt")?)? {
        clients.add(certificate)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider.clone()).build()?;
    let key = PrivateKeyDer::from_pem_slice(&read("apiserver.key")?)?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&read("apiserver.crt")?)?, key)?)
}

// === impl EtcdWriter ===

impl EtcdWriter {
    /// Of the member at `url`, with the files of the pod kube-apiserver.
    #[must_use]
    pub fn new(url: &str, files: &Path) -> Self {
        Self {
            url: url.to_owned(),
            files: files.to_owned(),
        }
    }

    /// Puts values, at most 128 at once.
    ///
    /// # Errors
    /// What etcd says.
    pub async fn put(&self, all: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
        let put = |(key, value): &(String, Vec<u8>)| json!({"requestPut": {"key": STANDARD.encode(key), "value": STANDARD.encode(value)}});
        let body = json!({"success": all.iter().map(put).collect::<Vec<_>>()});
        let read = |name: &str| std::fs::read(self.files.join(name));
        let tls = agent::tls::client_config(
            Some(("ca", &read("etcd-ca.crt")?)),
            Some((
                ("certificate", &read("etcd-client.crt")?),
                ("key", &read("etcd-client.key")?),
            )),
        )
        .map_err(anyhow::Error::msg)?;
        let address = self.url.trim_start_matches("https://");
        let stream = TcpStream::connect(address).await?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(ServerName::try_from("127.0.0.1")?, stream)
            .await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::post("/v3/kv/txn")
            .header("host", address)
            .body(Full::new(Bytes::from(serde_json::to_vec(&body)?)))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let said = answer.into_body().collect().await?.to_bytes();
        driver.abort();
        ensure!(
            status.is_success(),
            "{status}: {}",
            String::from_utf8_lossy(&said)
        );
        Ok(())
    }
}

/// A value as etcd has it, under a key.
#[must_use]
pub fn stored(key: &str, payload: &str) -> Vec<u8> {
    format!("k8s:enc:secretbox:v1:{key}:{payload}").into_bytes()
}

// === impl SecretsApi ===

impl SecretsApi {
    /// Serves on `port` (0 is any) with the files of the pod kube-apiserver, from the etcd at `etcd`.
    ///
    /// # Errors
    /// A file that cannot be read, a port that is taken.
    pub async fn start(port: u16, files: &Path, etcd: EtcdClient) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let url = format!("https://127.0.0.1:{}", listener.local_addr()?.port());
        let acceptor = TlsAcceptor::from(Arc::new(server_config(files)?));
        let behaviour = Arc::<Mutex<Behaviour>>::default();
        let writer = EtcdWriter::new(etcd.endpoint(), files);
        let task = tokio::spawn({
            let behaviour = Arc::clone(&behaviour);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, behaviour) = (acceptor.clone(), Arc::clone(&behaviour));
                    let (etcd, writer) = (etcd.clone(), writer.clone());
                    tokio::spawn(async move {
                        let Ok(stream) = acceptor.accept(stream).await else {
                            return;
                        };
                        let service = service_fn(move |request| {
                            let behaviour = Arc::clone(&behaviour);
                            let (etcd, writer) = (etcd.clone(), writer.clone());
                            async move {
                                let answer = answer(request, &behaviour, &etcd, &writer).await;
                                let (status, value) = answer.unwrap_or_else(|error| {
                                    refusal(
                                        StatusCode::INTERNAL_SERVER_ERROR,
                                        &format!("{error:#}"),
                                    )
                                });
                                let mut response =
                                    Response::new(Full::new(Bytes::from(value.to_string())));
                                *response.status_mut() = status;
                                Ok::<_, Infallible>(response)
                            }
                        });
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await;
                    });
                }
            }
        });
        Ok(Self {
            url,
            behaviour,
            task,
        })
    }

    /// Changes or reads what it does.
    ///
    /// # Panics
    /// Where another holder of it did.
    pub fn with<T>(&self, look: impl FnOnce(&mut Behaviour) -> T) -> T {
        look(&mut self.behaviour.lock().unwrap())
    }
}

impl Drop for SecretsApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn refusal(status: StatusCode, message: &str) -> (StatusCode, Value) {
    let value = json!({"kind": "Status", "code": status.as_u16(), "message": message});
    (status, value)
}

async fn answer(
    request: Request<Incoming>,
    behaviour: &Mutex<Behaviour>,
    etcd: &EtcdClient,
    writer: &EtcdWriter,
) -> anyhow::Result<(StatusCode, Value)> {
    let (head, body) = request.into_parts();
    let path: Vec<&str> = head.uri.path().split('/').collect();
    let ["", "api", "v1", "namespaces", namespace, "secrets", name] = path[..] else {
        return Ok(refusal(StatusCode::FORBIDDEN, "only Secrets, one by one"));
    };
    let id = format!("{namespace}/{name}");
    let key = format!("{SECRETS_PREFIX}{id}");
    let page = etcd.page(&key, None).await?;
    let found = page.entries.iter().find(|e| e.key == key.as_bytes());
    let is_gone = behaviour.lock().unwrap().gone.contains(&id);
    let Some(entry) = found.filter(|_| !is_gone) else {
        return Ok(refusal(StatusCode::NOT_FOUND, "not found"));
    };
    let text = std::str::from_utf8(&entry.value)?;
    let payload = match StoredUnder::of(&entry.value) {
        StoredUnder::Key(under) => {
            ensure!(
                behaviour.lock().unwrap().reads.contains(under),
                "no key {under}"
            );
            text.rsplit(':').next().context("a payload")?
        }
        StoredUnder::Nothing => text,
        StoredUnder::Unknown => anyhow::bail!("no matching prefix"),
    };
    let version = *behaviour
        .lock()
        .unwrap()
        .versions
        .entry(id.clone())
        .or_insert(1);
    let object = |version: u64| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "data": {"value": payload},
            "metadata": {"namespace": namespace, "name": name, "resourceVersion": version.to_string()},
        })
    };
    match head.method {
        Method::GET => Ok((StatusCode::OK, object(version))),
        Method::PUT => {
            let sent: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
            let takes = {
                let mut behaviour = behaviour.lock().unwrap();
                if behaviour.refused.contains(&id) {
                    return Ok(refusal(
                        StatusCode::FORBIDDEN,
                        "an admission plugin says no",
                    ));
                }
                if let Some(left) = behaviour.conflicts.get_mut(&id).filter(|left| **left > 0) {
                    *left -= 1;
                    *behaviour.versions.entry(id.clone()).or_default() += 1;
                    return Ok(refusal(
                        StatusCode::CONFLICT,
                        "the object has been modified",
                    ));
                }
                behaviour.takes
            };
            let seen = sent["metadata"]["resourceVersion"].as_str();
            if seen != Some(version.to_string().as_str()) {
                return Ok(refusal(
                    StatusCode::CONFLICT,
                    "the object has been modified",
                ));
            }
            ensure!(sent == object(version), "it was changed: {sent}");
            tokio::time::sleep(takes).await;
            let writes = behaviour.lock().unwrap().writes.clone();
            writer.put(&[(key, stored(&writes, payload))]).await?;
            let mut behaviour = behaviour.lock().unwrap();
            behaviour.versions.insert(id.clone(), version + 1);
            behaviour.updated.push(id);
            Ok((StatusCode::OK, object(version + 1)))
        }
        _ => Ok(refusal(StatusCode::METHOD_NOT_ALLOWED, "GET or PUT")),
    }
}
