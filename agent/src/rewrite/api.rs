//! As much of a client of the API server as it takes to read a Secret and to write it as it is.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use shared::rewrite::RewriteOrder;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use url::{Host, Url};

use crate::tls;
use crate::trouble::shortened;

/// How long connecting may take, the handshake included.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a call may take. The API server gives a request up after a minute.
const CALL: Duration = Duration::from_secs(65);
/// Most of an answer that is read, in bytes: etcd takes no value of more than a quarter of it.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A call that got no answer that could be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The order's certificates or its URL cannot be used.
    #[error("the order cannot be gone by: {0}")]
    Order(String),
    /// No connection, or it broke.
    #[error("the API server at {server} gives no answer")]
    Unreachable {
        /// Where.
        server: String,
        /// What the connection said.
        #[source]
        source: Cause,
    },
    /// It does not let this node in, or not do that.
    #[error("the API server at {server} refuses to {what} (status {status}): {said}")]
    Refused {
        /// Where.
        server: String,
        /// What it was asked.
        what: String,
        /// Its status.
        status: u16,
        /// What it said.
        said: String,
    },
}

/// How a Secret was dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrote {
    /// It was written as it is.
    Unchanged,
    /// Somebody else wrote it, or it is changing still.
    Conflict,
    /// It is gone.
    Gone,
}

/// A connection that is kept from one call to the next.
pub struct ApiClient {
    server: String,
    host: Host<String>,
    port: u16,
    tls: Arc<ClientConfig>,
    connection: Option<(SendRequest<Full<Bytes>>, JoinHandle<()>)>,
}

/// What the API server says instead of an object.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    message: String,
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[client of {}]", self.server)
    }
}

impl Drop for ApiClient {
    fn drop(&mut self) {
        self.hang_up();
    }
}

// === impl ApiError ===

impl ApiError {
    /// A word for metrics labels and the status.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Order(_) => "order",
            Self::Unreachable { .. } => "api_unreachable",
            Self::Refused { .. } => "api_refused",
        }
    }
}

// === impl ApiClient ===

impl ApiClient {
    /// A client with what the order brings. Nothing is connected to yet.
    ///
    /// # Errors
    /// [`ApiError::Order`].
    pub fn new(order: &RewriteOrder) -> Result<Self, ApiError> {
        let bad = |what: &str| ApiError::Order(what.to_owned());
        let parsed = Url::parse(&order.server).map_err(|_| bad("its server is no URL"))?;
        let host = parsed.host().ok_or_else(|| bad("its server has no host"))?;
        if parsed.scheme() != "https" {
            return Err(bad("its server is none of HTTPS"));
        }
        let own = (
            ("the order's certificate", order.certificate.as_bytes()),
            ("the order's key", order.private_key.expose().as_bytes()),
        );
        let trusted = ("the order's authority", order.authority.as_bytes());
        let mut tls = tls::client_config(Some(trusted), Some(own)).map_err(ApiError::Order)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            server: order.server.clone(),
            host: host.to_owned(),
            port: parsed.port().unwrap_or(443),
            tls: Arc::new(tls),
            connection: None,
        })
    }

    /// Reads a Secret and writes it as it is, on condition that nobody else has written it meanwhile. The API server
    /// compares, and writes it again only if it was stored under another key than the first.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn touch(&mut self, namespace: &str, name: &str) -> Result<Wrote, ApiError> {
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        let what = |verb: &str| format!("{verb} Secret {namespace}/{name}");
        let (status, object) = self.call(Method::GET, &path, Bytes::new()).await?;
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(Wrote::Gone),
            status => return Err(self.refused(what("read"), status, &object)),
        }
        // With the resource version that it came with.
        let (status, answer) = self.call(Method::PUT, &path, object).await?;
        match status {
            StatusCode::OK | StatusCode::CREATED => Ok(Wrote::Unchanged),
            StatusCode::NOT_FOUND => Ok(Wrote::Gone),
            StatusCode::CONFLICT => Ok(Wrote::Conflict),
            status => Err(self.refused(what("update"), status, &answer)),
        }
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        // One that was kept may have been closed meanwhile: both calls can be made twice without harm.
        let kept = self.connection.is_some();
        match self.try_call(method.clone(), path, body.clone()).await {
            Err(ApiError::Unreachable { .. }) if kept => self.try_call(method, path, body).await,
            answer => answer,
        }
    }

    async fn try_call(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let called = tokio::time::timeout(CALL + CONNECT, self.send(method, path, body)).await;
        let answer = called.unwrap_or_else(|late| Err(late.into()));
        answer.map_err(|source| {
            self.hang_up();
            ApiError::Unreachable {
                server: self.server.clone(),
                source,
            }
        })
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Cause> {
        if self.connection.is_none() {
            let connected = tokio::time::timeout(CONNECT, self.connect()).await??;
            self.connection = Some(connected);
        }
        let Some((sender, _)) = &mut self.connection else {
            return Err("no connection".into());
        };
        sender.ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(USER_AGENT, "platform-agent")
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let read = Limited::new(answer.into_body(), ANSWER_BYTES);
        Ok((status, read.collect().await?.to_bytes()))
    }

    async fn connect(&self) -> Result<(SendRequest<Full<Bytes>>, JoinHandle<()>), Cause> {
        // It is the node's own, so its address is what the order says: nothing is looked up.
        let address: IpAddr = match &self.host {
            Host::Ipv4(ip) => (*ip).into(),
            Host::Ipv6(ip) => (*ip).into(),
            Host::Domain(name) => return Err(format!("{name} is no address").into()),
        };
        let stream = TcpStream::connect((address, self.port)).await?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(ServerName::from(address), stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // What went wrong here is told by the request.
            let _ = connection.await;
        });
        Ok((sender, driver))
    }

    fn hang_up(&mut self) {
        if let Some((_, driver)) = self.connection.take() {
            driver.abort();
        }
    }

    /// Its words come without the object: `message` of a Status never has one.
    fn refused(&self, what: String, status: StatusCode, body: &Bytes) -> ApiError {
        let said: Status = serde_json::from_slice(body).unwrap_or_default();
        ApiError::Refused {
            server: self.server.clone(),
            what,
            status: status.as_u16(),
            said: shortened(&said.message),
        }
    }
}
