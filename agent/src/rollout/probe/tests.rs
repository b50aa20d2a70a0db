use std::net::{IpAddr, Ipv4Addr};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use shared::bundle::TimeSpan;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::*;

const CA: &str = "secrets/x/ca.crt";
const OTHER_CA: &str = "secrets/x/other.crt";
const CERTIFICATE: &str = "secrets/x/client.crt";
const KEY: &str = "secrets/x/client.key";

/// An authority that signs, and its certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A leaf for loopback: certificate and key.
    fn leaf(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        params.subject_alt_names = vec![SanType::IpAddress(loopback)];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn prober(files: &[(&str, &str)]) -> Prober {
    let files = files.iter().map(|(path, text)| {
        let bytes = SecretBytes::new(text.as_bytes().to_vec());
        (path.parse().unwrap(), bytes)
    });
    Prober {
        files: Arc::new(files.collect()),
    }
}

fn probe(check: ProbeCheck) -> Probe {
    Probe {
        name: "p".to_owned(),
        check,
        period: TimeSpan::from_secs(10),
        timeout: TimeSpan::from_secs(2),
        success_threshold: 1,
        failure_threshold: 3,
    }
}

fn http(url: String, ca: Option<&str>, client: bool) -> Probe {
    probe(ProbeCheck::Http {
        url,
        ca: ca.map(|path| path.parse().unwrap()),
        certificate: client.then(|| CERTIFICATE.parse().unwrap()),
        key: client.then(|| KEY.parse().unwrap()),
    })
}

/// Answers each connection with `answer` once it has read a request; its port.
async fn server(answer: String, tls: Option<ServerConfig>) -> u16 {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &str) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                return;
            }
            request.extend(byte);
        }
        assert!(request.starts_with(b"GET /healthz"), "{request:?}");
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &acceptor {
                None => serve(stream, &answer).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, &answer).await;
                    }
                }
            }
        }
    });
    port
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn the_status_decides_and_the_last_lines_are_told() {
    let port = server(answer("200 OK", "ok"), None).await;
    let url = format!("http://127.0.0.1:{port}/healthz?verbose");
    let seen = prober(&[]).try_once(&http(url.clone(), None, false)).await;
    assert!(seen.ok, "{seen:?}");
    assert_eq!(seen.lines, [format!("{url}: 200 OK"), "ok".to_owned()]);

    let body: String = (0..50)
        .map(|n| format!("[-]check {n} failed\n\n"))
        .collect();
    let port = server(answer("503 Service Unavailable", &body), None).await;
    let url = format!("http://127.0.0.1:{port}/healthz");
    let seen = prober(&[]).try_once(&http(url.clone(), None, false)).await;
    assert!(!seen.ok);
    assert_eq!(seen.lines.len(), shared::documents::ANSWER_LINES);
    assert_eq!(seen.lines[0], format!("{url}: 503 Service Unavailable"));
    assert_eq!(seen.lines.last().unwrap(), "[-]check 49 failed");

    // Far more than is told: the end of it all the same.
    let body: String = (0..5000)
        .map(|n| format!("[-]check {n} failed\n"))
        .collect();
    assert!(body.len() > 4 * 4096);
    let port = server(answer("500 Internal Server Error", &body), None).await;
    let url = format!("http://127.0.0.1:{port}/healthz");
    let seen = prober(&[]).try_once(&http(url, None, false)).await;
    assert_eq!(seen.lines.last().unwrap(), "[-]check 4999 failed");
}

#[tokio::test]
async fn a_server_is_held_against_the_authority_and_shown_the_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.leaf();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap())
        .unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
            .build()
            .unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let port = server(answer("200 OK", "ok"), Some(config)).await;
    let url = format!("https://127.0.0.1:{port}/healthz");
    let (client, client_key) = authority.leaf();
    let prober = prober(&[
        (CA, &authority.pem),
        (OTHER_CA, &other.pem),
        (CERTIFICATE, &client),
        (KEY, &client_key),
    ]);
    let cases = [
        (Some(CA), true, None),
        (Some(CA), false, Some("")),
        (Some(OTHER_CA), true, Some("invalid peer certificate")),
        (None, true, Some("UnknownIssuer")),
        (
            Some("secrets/x/gone.crt"),
            true,
            Some("the release has no secrets/x/gone.crt"),
        ),
    ];
    for (ca, with_client, fails) in cases {
        let seen = prober.try_once(&http(url.clone(), ca, with_client)).await;
        assert_eq!(seen.ok, fails.is_none(), "{ca:?} {with_client}: {seen:?}");
        let says = fails.unwrap_or("200 OK");
        assert!(seen.lines[0].contains(says), "{says}: {seen:?}");
    }
}

#[tokio::test]
async fn a_port_a_file_and_kubelet() {
    let port = server(answer("200 OK", "ok"), None).await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let there = file.path().to_str().unwrap().to_owned();
    let tcp = |port: u16| ProbeCheck::Tcp {
        address: format!("127.0.0.1:{port}"),
    };
    let path = |path: &str| ProbeCheck::File {
        path: path.to_owned(),
    };
    for (check, ok, says) in [
        (tcp(port), true, "accepts connections"),
        (tcp(closed), false, "Connection refused"),
        (path(&there), true, "is there"),
        (path(&format!("{there}.gone")), false, "No such file"),
        (ProbeCheck::Kubelet { port }, true, "/healthz: 200 OK"),
        (
            ProbeCheck::Kubelet { port: closed },
            false,
            "Connection refused",
        ),
    ] {
        let seen = prober(&[]).try_once(&probe(check)).await;
        assert_eq!(seen.ok, ok, "{seen:?}");
        assert!(seen.lines[0].contains(says), "{says}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_failure_within_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let began = tokio::time::Instant::now();
    let seen = prober(&[])
        .try_once(&probe(ProbeCheck::Kubelet { port }))
        .await;
    assert_eq!(seen.lines, ["no answer within 2000 ms"]);
    assert!(!seen.ok && began.elapsed() == std::time::Duration::from_secs(2));
}
