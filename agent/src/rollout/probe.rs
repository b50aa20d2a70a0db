//! Trying a probe once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use shared::bundle::{Probe, ProbeCheck, Release};
use shared::names::EntryPath;
use shared::secret::SecretBytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use url::{Host, Url};

use crate::tls;
use crate::trouble::chain;

/// How much of an answer's end is looked at for what it says, in bytes.
const TAIL_BYTES: usize = 4096;
/// Most of an answer's body that is read, in bytes: whoever answers is not trusted to end.
const BODY_BYTES: usize = 1024 * 1024;

/// What a probe saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Whether it succeeded.
    pub ok: bool,
    /// What it saw, a line each.
    pub lines: Vec<String>,
}

/// Tries the probes of a release, with the files that they name.
#[derive(Clone, Debug, Default)]
pub struct Prober {
    files: Arc<BTreeMap<EntryPath, SecretBytes>>,
}

impl Prober {
    /// With the files of `release` that `probes` name.
    #[must_use]
    pub fn new(probes: &[Probe], release: &Release) -> Self {
        let named = probes.iter().flat_map(|probe| match &probe.check {
            ProbeCheck::Http {
                ca,
                certificate,
                key,
                ..
            } => [ca, certificate, key].into_iter().flatten().collect(),
            _ => Vec::new(),
        });
        let files = named.filter_map(|path| Some((path.clone(), release.bytes(path)?.clone())));
        Self {
            files: Arc::new(files.collect()),
        }
    }

    /// The same, with those files of `release` that are missing: of a release that a node went back from, for the probes that
    /// only it has files for.
    #[must_use]
    pub fn or_from(&self, probes: &[Probe], release: &Release) -> Self {
        let mut files = (*Self::new(probes, release).files).clone();
        files.extend(
            self.files
                .iter()
                .map(|(path, bytes)| (path.clone(), bytes.clone())),
        );
        Self {
            files: Arc::new(files),
        }
    }

    /// Tries it once, within its time.
    pub async fn try_once(&self, probe: &Probe) -> Sight {
        let limit = probe.timeout.get();
        let tried = tokio::time::timeout(limit, self.look(&probe.check)).await;
        match tried {
            Ok(Ok(lines)) => Sight { ok: true, lines },
            Ok(Err(lines)) => Sight { ok: false, lines },
            Err(_) => failed(format!("no answer within {} ms", limit.as_millis())),
        }
    }

    async fn look(&self, check: &ProbeCheck) -> Result<Vec<String>, Vec<String>> {
        match check {
            ProbeCheck::Tcp { address } => match TcpStream::connect(plain(address)?).await {
                Ok(_) => Ok(vec![format!("{address} accepts connections")]),
                Err(e) => Err(vec![format!("{address}: {e}")]),
            },
            ProbeCheck::File { path } => match tokio::fs::metadata(path).await {
                Ok(_) => Ok(vec![format!("{path} is there")]),
                Err(e) => Err(vec![format!("{path}: {e}")]),
            },
            ProbeCheck::Kubelet { port } => {
                let url = format!("http://127.0.0.1:{port}/healthz");
                self.get(&url, None, None).await
            }
            ProbeCheck::Http {
                url,
                ca,
                certificate,
                key,
            } => {
                let client = certificate.as_ref().zip(key.as_ref());
                self.get(url, ca.as_ref(), client).await
            }
        }
    }

    async fn get(
        &self,
        url: &str,
        ca: Option<&EntryPath>,
        client: Option<(&EntryPath, &EntryPath)>,
    ) -> Result<Vec<String>, Vec<String>> {
        let bad = |e: String| vec![format!("{url}: {e}")];
        let parsed = Url::parse(url).map_err(|e| bad(e.to_string()))?;
        let ip = match parsed.host() {
            Some(Host::Ipv4(ip)) => ip.into(),
            Some(Host::Ipv6(ip)) => ip.into(),
            _ => return Err(bad("its host is no IP address".to_owned())),
        };
        let port = parsed.port_or_known_default().unwrap_or(80);
        let address = SocketAddr::new(ip, port);
        let stream = TcpStream::connect(address)
            .await
            .map_err(|e| bad(e.to_string()))?;
        if parsed.scheme() != "https" {
            return answered(&parsed, address, TokioIo::new(stream)).await;
        }
        let connector = TlsConnector::from(Arc::new(self.tls(ca, client).map_err(bad)?));
        let stream = connector
            .connect(ServerName::IpAddress(ip.into()), stream)
            .await
            .map_err(|e| bad(chain(&e)))?;
        answered(&parsed, address, TokioIo::new(stream)).await
    }

    fn tls(
        &self,
        ca: Option<&EntryPath>,
        client: Option<(&EntryPath, &EntryPath)>,
    ) -> Result<ClientConfig, String> {
        let file = |path: &'_ EntryPath| {
            let bytes = self.files.get(path).map(SecretBytes::expose);
            bytes.ok_or_else(|| format!("the release has no {path}"))
        };
        let ca = ca.map(|path| Ok((path.as_str(), file(path)?)));
        let own = client.map(|(certificate, key)| {
            let of_key = (key.as_str(), file(key)?);
            Ok(((certificate.as_str(), file(certificate)?), of_key))
        });
        let ca: Option<tls::Pem<'_>> = ca.transpose().map_err(|e: String| e)?;
        tls::client_config(ca, own.transpose().map_err(|e: String| e)?)
    }
}

fn plain(address: &str) -> Result<SocketAddr, Vec<String>> {
    let parsed = address.parse();
    parsed.map_err(|e| vec![format!("{address}: {e}")])
}

fn failed(line: String) -> Sight {
    Sight {
        ok: false,
        lines: vec![line],
    }
}

/// Asks on a connection, and tells the status and the last lines of the body.
async fn answered<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    url: &Url,
    address: SocketAddr,
    stream: TokioIo<S>,
) -> Result<Vec<String>, Vec<String>> {
    let bad = |e: String| vec![format!("{url}: {e}")];
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|e| bad(chain(&e)))?;
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let request = Request::get(target)
        .header(HOST, address.to_string())
        .header(USER_AGENT, "platform-agent")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| bad(e.to_string()))?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        Ok::<_, hyper::Error>((status, tail(answer.into_body()).await))
    };
    let driver = tokio::spawn(connection);
    let asked = asking.await;
    driver.abort();
    let (status, body) = asked.map_err(|e| bad(chain(&e)))?;
    let text = String::from_utf8_lossy(&body);
    let mut lines = vec![format!("{url}: {status}")];
    let said: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = said
        .len()
        .saturating_sub(shared::documents::ANSWER_LINES - 1);
    lines.extend(said.iter().skip(last).map(|line| (*line).to_owned()));
    match status.is_success() {
        true => Ok(lines),
        false => Err(lines),
    }
}

/// The end of a body: what an answer says last is what failed last. What comes before an error counts too.
async fn tail(mut body: Incoming) -> Vec<u8> {
    let (mut kept, mut read) = (Vec::new(), 0);
    while read < BODY_BYTES {
        let Some(Ok(frame)) = body.frame().await else {
            break;
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        read += data.len();
        kept.extend_from_slice(&data);
        let extra = kept.len().saturating_sub(TAIL_BYTES);
        kept.drain(..extra);
    }
    kept
}

#[cfg(test)]
mod tests;
