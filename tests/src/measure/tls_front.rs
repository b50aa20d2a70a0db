//! TLS in front of the store: an HTTP/1.1 proxy on loopback that writes down each request.
//!
//! It hands headers on as they came (`Host` among them), so the signature holds at the store.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A request that passed.
#[derive(Debug, Clone)]
pub struct Passed {
    /// When its head was there.
    pub asked: Instant,
    /// When the head of its answer was there.
    pub answered: Instant,
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// The answer's status.
    pub status: StatusCode,
}

#[derive(Debug, Default)]
struct Book {
    passed: Mutex<Vec<Passed>>,
    connections: AtomicUsize,
}

/// The proxy; it ends when it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    authority: PathBuf,
    book: Arc<Book>,
    server: JoinHandle<()>,
}

impl TlsFront {
    /// Listens on a free port before `store`. The certificate authority that clients must trust is put into `directory`.
    ///
    /// # Errors
    /// What could not be made.
    pub async fn start(store: SocketAddr, directory: &Path) -> anyhow::Result<Self> {
        let (authority_pem, config) = identity()?;
        let authority = directory.join("authority.pem");
        fs::write(&authority, authority_pem)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let book = Arc::new(Book::default());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let server = tokio::spawn(serve(listener, acceptor, store, Arc::clone(&book)));
        Ok(Self {
            address,
            authority,
            book,
            server,
        })
    }

    /// The address for an S3 client.
    #[must_use]
    pub fn endpoint_url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The file for `SSL_CERT_FILE`.
    #[must_use]
    pub fn authority(&self) -> &Path {
        &self.authority
    }

    /// How many connections were made.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.book.connections.load(Ordering::Relaxed)
    }

    /// Everything that passed.
    #[must_use]
    pub fn passed(&self) -> Vec<Passed> {
        let passed = self.book.passed.lock();
        passed.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn identity() -> anyhow::Result<(String, ServerConfig)> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    let certificate = leaf.signed_by(&key, &issuer)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((authority_pem, config))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, store: SocketAddr, book: Arc<Book>) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    while let Ok((stream, _)) = listener.accept().await {
        book.connections.fetch_add(1, Ordering::Relaxed);
        let (acceptor, client, book) = (acceptor.clone(), client.clone(), Arc::clone(&book));
        tokio::spawn(async move {
            if let Err(error) = converse(stream, acceptor, client, store, book).await {
                eprintln!("the TLS front lost a connection: {error:#}");
            }
        });
    }
}

async fn converse(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    client: Client<HttpConnector, Incoming>,
    store: SocketAddr,
    book: Arc<Book>,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await.context("TLS handshake")?;
    let service = service_fn(|request| pass(request, &client, store, &book));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that was ended closes without a word; that is no news.
    let _ = connection.await;
    Ok(())
}

async fn pass(
    mut request: Request<Incoming>,
    client: &Client<HttpConnector, Incoming>,
    store: SocketAddr,
    book: &Book,
) -> anyhow::Result<Response<Incoming>> {
    let asked = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
    *request.uri_mut() = format!("http://{store}{target}").parse::<Uri>()?;
    let response = client.request(request).await?;
    let mut passed = book.passed.lock().unwrap_or_else(PoisonError::into_inner);
    passed.push(Passed {
        asked,
        answered: Instant::now(),
        method,
        path,
        status: response.status(),
    });
    drop(passed);
    Ok(response)
}
