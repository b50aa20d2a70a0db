//! Each fault does what it says, over a tiny upstream and, once, over the real store with a signing client.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use http::header::DATE;

use super::answer::{SLOW_TICK, pace};
use super::*;

const BODY: &[u8] = b"0123456789";

/// A server that answers with [`BODY`], echoes the Host it saw, and remembers what reached it.
struct Upstream {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn upstream() -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&asked);
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let seen = Arc::clone(&seen);
            let answer = service_fn(move |request: http::Request<Incoming>| {
                let seen = Arc::clone(&seen);
                async move {
                    let host = request.headers()["host"].clone();
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    seen.lock().unwrap().push(format!(
                        "{} {} {}",
                        parts.method,
                        parts.uri,
                        body.len()
                    ));
                    let answer = Response::builder().header("x-seen-host", host);
                    let date = "Fri, 02 Jan 2026 00:00:00 GMT";
                    Ok::<_, Infallible>(
                        answer
                            .header(DATE, date)
                            .body(Full::new(Bytes::from_static(BODY)))
                            .unwrap(),
                    )
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    Upstream {
        addr,
        asked,
        server,
    }
}

async fn proxied() -> (Upstream, FaultyProxy) {
    let upstream = upstream().await;
    let proxy = FaultyProxy::start(upstream.addr).await.unwrap();
    (upstream, proxy)
}

/// A connection on which answers are read by hand.
struct Caller {
    stream: TcpStream,
    host: String,
}

impl Caller {
    async fn to(proxy: &FaultyProxy) -> Self {
        Self {
            stream: TcpStream::connect(proxy.addr()).await.unwrap(),
            host: proxy.addr().to_string(),
        }
    }

    async fn ask(&mut self, method: &str, target: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n{body}",
            self.host
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
    }

    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    }

    /// An answer by its Content-Length.
    async fn whole(&mut self) -> (String, Vec<u8>) {
        let head = self.head().await;
        let length = head
            .split_once("content-length: ")
            .unwrap()
            .1
            .split_once("\r\n")
            .unwrap()
            .0
            .parse()
            .unwrap();
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
        (head, body)
    }

    /// What comes until the connection closes, and whether it was closed by a reset.
    async fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest).await {
            Ok(_) => (rest, false),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => (rest, true),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn without_a_rule_everything_passes_through() {
    let (upstream, proxy) = proxied().await;
    let mut caller = Caller::to(&proxy).await;
    for _ in 0..2 {
        caller
            .ask("PUT", "/bucket/a%20b/c?x-id=PutObject", "hello")
            .await;
        let (head, body) = caller.whole().await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(
            head.contains(&format!("x-seen-host: {}", proxy.addr())),
            "the Host is the client's: {head}"
        );
        assert_eq!(body, BODY);
    }
    assert_eq!(
        *upstream.asked.lock().unwrap(),
        vec!["PUT /bucket/a%20b/c?x-id=PutObject 5"; 2]
    );
    assert_eq!(proxy.hits().of("PUT", "a b/c"), 2);
    assert_eq!(
        (
            proxy.hits().total(),
            proxy.hits().method("PUT"),
            proxy.hits().method("GET")
        ),
        (2, 2, 0)
    );
    assert_eq!((proxy.hits().key("b/"), proxy.hits().key("d")), (2, 0));
    let path = "/bucket/a%20b/c?x-id=PutObject".to_owned();
    assert_eq!(
        proxy.log()[0],
        LogEntry {
            method: Method::PUT,
            path,
            status: Some(200),
            fault: None
        }
    );
}

#[tokio::test]
async fn a_fault_hits_what_its_rule_matches_until_it_is_cleared() {
    let (_upstream, proxy) = proxied().await;
    proxy.set("timestamp", Fault::Status(500, "InternalError"));
    proxy.set("timestamp", Fault::Status(503, "SlowDown"));
    proxy.set_where(
        |request| request.method == Method::DELETE,
        Fault::Status(403, "AccessDenied"),
    );
    let mut caller = Caller::to(&proxy).await;
    for (method, target, expected) in [
        ("GET", "/bucket/timestamp.json", "503"),
        ("GET", "/bucket/other", "200"),
        ("GET", "/timestamp/other", "200"),
        ("DELETE", "/bucket/timestamp.json", "403"),
    ] {
        caller.ask(method, target, "").await;
        let (head, body) = caller.whole().await;
        assert!(
            head.starts_with(&format!("http/1.1 {expected}")),
            "{method} {target}: {head}"
        );
        if expected == "503" {
            assert!(
                String::from_utf8(body)
                    .unwrap()
                    .contains("<Code>SlowDown</Code>")
            );
        }
    }
    proxy.clear();
    caller.ask("GET", "/bucket/timestamp.json", "").await;
    assert_eq!(caller.whole().await.1, BODY);
    assert_eq!(proxy.log()[0].fault, Some(Fault::Status(503, "SlowDown")));
}

#[tokio::test]
async fn a_refused_request_does_not_reach_the_store() {
    let (upstream, proxy) = proxied().await;
    proxy.set("", Fault::Status(500, "InternalError"));
    let mut caller = Caller::to(&proxy).await;
    caller.ask("HEAD", "/bucket/a", "").await;
    // The answer to a HEAD has no body, so the next answer follows its head.
    assert!(caller.head().await.starts_with("http/1.1 500"));
    caller.ask("PUT", "/bucket/a", "x").await;
    assert!(caller.whole().await.0.starts_with("http/1.1 500"));
    assert!(upstream.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_reset_is_a_reset() {
    let (upstream, proxy) = proxied().await;
    proxy.set("a", Fault::Reset);
    let mut caller = Caller::to(&proxy).await;
    caller.ask("GET", "/bucket/a", "").await;
    assert_eq!(caller.rest().await, (Vec::new(), true));
    assert!(upstream.asked.lock().unwrap().is_empty());
    assert_eq!(proxy.log()[0].status, None);
}

#[tokio::test]
async fn a_timeout_never_answers() {
    let (upstream, proxy) = proxied().await;
    proxy.set("a", Fault::Timeout);
    let mut caller = Caller::to(&proxy).await;
    caller.ask("GET", "/bucket/a", "").await;
    tokio::time::timeout(Duration::from_millis(200), caller.rest())
        .await
        .unwrap_err();
    assert!(upstream.asked.lock().unwrap().is_empty());
    assert_eq!(proxy.hits().total(), 1);
    // Others are not held up.
    let mut other = Caller::to(&proxy).await;
    other.ask("GET", "/bucket/b", "").await;
    assert_eq!(other.whole().await.1, BODY);
}

#[tokio::test]
async fn a_truncated_body_ends_before_its_length() {
    let (_upstream, proxy) = proxied().await;
    proxy.set("a", Fault::TruncateBody(4));
    let mut caller = Caller::to(&proxy).await;
    caller.ask("GET", "/bucket/a", "").await;
    assert!(caller.head().await.contains("content-length: 10\r\n"));
    assert_eq!(caller.rest().await, (BODY[..4].to_vec(), false));
}

#[tokio::test]
async fn a_flipped_byte_keeps_the_length() {
    let (_upstream, proxy) = proxied().await;
    let mut caller = Caller::to(&proxy).await;
    for (at, expected) in [(3, b"0122456789"), (99, b"0123456788")] {
        proxy.set("a", Fault::FlipByte(at));
        caller.ask("GET", "/bucket/a", "").await;
        assert_eq!(caller.whole().await.1, expected);
    }
}

#[tokio::test]
async fn endless_bodies_do_not_end() {
    let (_upstream, proxy) = proxied().await;
    for (fault, framing) in [
        (Fault::EndlessBody, "transfer-encoding: chunked\r\n"),
        (
            Fault::EndlessBodyWithLength,
            "content-length: 1152921504606846976\r\n",
        ),
    ] {
        proxy.set("a", fault);
        let mut caller = Caller::to(&proxy).await;
        caller.ask("GET", "/bucket/a", "").await;
        let head = caller.head().await;
        assert!(head.contains(framing), "{head}");
        assert_eq!(
            head.matches("content-length").count() + head.matches("transfer-encoding").count(),
            1
        );
        let mut much = vec![0; 8 * 1024 * 1024];
        caller.stream.read_exact(&mut much).await.unwrap();
        assert!(much[..32].windows(BODY.len()).any(|window| window == BODY));
    }
}

#[tokio::test]
async fn a_slow_body_comes_whole_but_slowly() {
    let (_upstream, proxy) = proxied().await;
    proxy.set(
        "a",
        Fault::SlowBody {
            bytes_per_second: 20,
        },
    );
    let mut caller = Caller::to(&proxy).await;
    let start = std::time::Instant::now();
    caller.ask("GET", "/bucket/a", "").await;
    assert_eq!(caller.whole().await.1, BODY);
    assert!(
        start.elapsed() >= Duration::from_millis(450),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(pace(1), (1, Duration::from_secs(1)));
    assert_eq!(pace(0), pace(1));
    assert_eq!(pace(1000), (100, SLOW_TICK));
}

#[tokio::test]
async fn a_lost_answer_was_applied() {
    let (upstream, proxy) = proxied().await;
    proxy.set("a", Fault::LostAnswer);
    let mut caller = Caller::to(&proxy).await;
    caller.ask("PUT", "/bucket/a", "hello").await;
    assert_eq!(caller.rest().await.0, b"");
    assert_eq!(*upstream.asked.lock().unwrap(), ["PUT /bucket/a 5"]);
    assert_eq!(proxy.log()[0].status, None);
}

#[tokio::test]
async fn the_date_can_be_off_both_ways() {
    let (_upstream, proxy) = proxied().await;
    let mut caller = Caller::to(&proxy).await;
    for (seconds, expected) in [
        (-86_400, "thu, 01 jan 2026 00:00:00 gmt"),
        (61, "fri, 02 jan 2026 00:01:01 gmt"),
    ] {
        proxy.set("a", Fault::DateSkew(seconds));
        caller.ask("GET", "/bucket/a", "").await;
        let (head, body) = caller.whole().await;
        assert!(head.contains(&format!("date: {expected}\r\n")), "{head}");
        assert_eq!(head.matches("date: ").count(), 1);
        assert_eq!(body, BODY);
    }
}

#[tokio::test]
async fn a_store_that_is_gone_looks_gone() {
    let (upstream, proxy) = proxied().await;
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy_to_nowhere = FaultyProxy::start(gone).await.unwrap();
    let mut caller = Caller::to(&proxy_to_nowhere).await;
    caller.ask("GET", "/bucket/a", "").await;
    assert_eq!(caller.rest().await, (Vec::new(), true));
    drop((upstream, proxy));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_signs_for_the_proxy_is_let_in_by_the_store() {
    use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
    use aws_sdk_s3::error::ProvideErrorMetadata;
    use ctl::dev::store::{RunningStore, SecretKey, StoreConfig};

    let directory = tempfile::tempdir().unwrap();
    let store = RunningStore::start(StoreConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        directory: directory.path().to_owned(),
        access_key: "access".to_owned(),
        secret_key: SecretKey::from("secret"),
        region: "eu-central-1".to_owned(),
    })
    .await
    .unwrap();
    let proxy = FaultyProxy::start(store.addr()).await.unwrap();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::new("access", "secret", None, None, "test"))
        .region(Region::new("eu-central-1"))
        .endpoint_url(proxy.endpoint())
        .force_path_style(true)
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let client = aws_sdk_s3::Client::from_conf(config);
    client
        .create_bucket()
        .bucket("bucket")
        .send()
        .await
        .unwrap();
    let put = |body: Vec<u8>| {
        client
            .put_object()
            .bucket("bucket")
            .key("nodes/secure/AROA:i-0.json")
            .body(body.into())
    };
    let etag = put(b"one".to_vec()).send().await.unwrap().e_tag.unwrap();
    put(vec![7; 3 * 1024 * 1024])
        .if_match(etag)
        .send()
        .await
        .unwrap();
    let get = || {
        client
            .get_object()
            .bucket("bucket")
            .key("nodes/secure/AROA:i-0.json")
            .send()
    };
    assert_eq!(
        get().await.unwrap().body.collect().await.unwrap().to_vec(),
        vec![7; 3 * 1024 * 1024]
    );
    assert_eq!(proxy.hits().of("PUT", "nodes/secure/AROA:i-0.json"), 2);

    proxy.set("AROA", Fault::Status(503, "SlowDown"));
    assert_eq!(get().await.unwrap_err().code(), Some("SlowDown"));
    proxy.set("AROA", Fault::LostAnswer);
    put(b"applied".to_vec()).send().await.unwrap_err();
    proxy.set("AROA", Fault::TruncateBody(3));
    get().await.unwrap().body.collect().await.unwrap_err();
    proxy.clear();
    assert_eq!(
        get().await.unwrap().body.collect().await.unwrap().to_vec(),
        b"applied"
    );
    store.shutdown().await;
}
