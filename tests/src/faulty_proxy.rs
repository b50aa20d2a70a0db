//! An HTTP/1.1 proxy in front of the store that breaks chosen answers in chosen ways.
//!
//! The client is configured with the proxy's address and signs for it; the proxy passes method, target, headers
//! (`Host` among them) and body through unchanged, so the signature holds at the store. Nothing is random: what a rule
//! matches gets its fault each time until [`FaultyProxy::clear`] or a newer rule.

mod answer;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use answer::{After, Answer, s3_error, send};
use wire::{RawRequest, RequestReader};

/// What goes wrong with a request. Faults of the body leave an answer without a body (HEAD, 204, 304) as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An S3 error with this status and code, without asking the store: `Status(503, "SlowDown")`.
    Status(u16, &'static str),
    /// The connection is reset (RST) in place of an answer; the store is not asked.
    Reset,
    /// No answer, and the connection stays open until the client closes it; the store is not asked.
    Timeout,
    /// The body ends after this many bytes of its Content-Length, and the connection closes.
    TruncateBody(usize),
    /// The lowest bit of this byte of the body is the other; the last byte's when the body is shorter.
    FlipByte(usize),
    /// The body, and then more without an end, chunked so that no length tells.
    EndlessBody,
    /// A Content-Length of an exbibyte, and the body and more without an end.
    EndlessBodyWithLength,
    /// The body at this pace, at least one byte a second.
    SlowBody {
        /// The pace.
        bytes_per_second: u32,
    },
    /// The store does what was asked, but the connection closes in place of its answer.
    LostAnswer,
    /// The answer's `Date` is off by this many seconds; a negative number is an old date.
    DateSkew(i64),
}

/// What a rule can look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyRequest {
    /// The method.
    pub method: Method,
    /// The object's key, percent-decoded, without the bucket; empty for requests to a bucket.
    pub key: String,
    /// The query, as it came.
    pub query: String,
}

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The method.
    pub method: Method,
    /// Path and query, as they came.
    pub path: String,
    /// The status that the client was sent, or nothing when it got no answer.
    pub status: Option<u16>,
    /// The fault that was applied.
    pub fault: Option<Fault>,
}

/// How often what was asked for, faults included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hits(BTreeMap<(String, String), u64>);

impl Hits {
    /// All requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Requests with this method.
    #[must_use]
    pub fn method(&self, method: &str) -> u64 {
        self.0
            .iter()
            .filter(|((of, _), _)| of == method)
            .map(|(_, count)| count)
            .sum()
    }

    /// Requests for keys that contain this.
    #[must_use]
    pub fn key(&self, part: &str) -> u64 {
        self.0
            .iter()
            .filter(|((_, key), _)| key.contains(part))
            .map(|(_, count)| count)
            .sum()
    }

    /// Requests with this method for exactly this key.
    #[must_use]
    pub fn of(&self, method: &str, key: &str) -> u64 {
        self.0
            .get(&(method.to_owned(), key.to_owned()))
            .copied()
            .unwrap_or_default()
    }
}

type Predicate = Arc<dyn Fn(&ProxyRequest) -> bool + Send + Sync>;

struct Rule {
    /// The substring that the rule was set for, if it was.
    part: Option<String>,
    applies: Predicate,
    fault: Fault,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    hits: Hits,
    log: Vec<LogEntry>,
}

/// A running proxy; dropping it closes its socket and all its connections.
pub struct FaultyProxy {
    addr: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl fmt::Debug for FaultyProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyProxy")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl FaultyProxy {
    /// Listens on a free loopback port in front of `upstream`.
    ///
    /// # Errors
    /// Returns the failure to listen.
    pub async fn start(upstream: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("the proxy can't listen")?;
        let addr = listener.local_addr()?;
        let state = Arc::<Mutex<State>>::default();
        let proxy = Proxy {
            state: Arc::clone(&state),
            upstream,
            client: Client::builder(TokioExecutor::new()).build_http(),
        };
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        let proxy = proxy.clone();
                        // A connection that breaks is what this is about: the log has what was answered.
                        connections.spawn(async move { proxy.converse(stream).await.unwrap_or_default() });
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self {
            addr,
            state,
            server,
        })
    }

    /// The address to give to an S3 client.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on, requests for keys that contain `key_part` get this fault; an earlier one for the same part goes.
    /// Where several rules match, the one that was set last counts.
    pub fn set(&self, key_part: &str, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state
            .rules
            .retain(|rule| rule.part.as_deref() != Some(key_part));
        let part = key_part.to_owned();
        let applies: Predicate = Arc::new(move |request| request.key.contains(&part));
        state.rules.push(Rule {
            part: Some(key_part.to_owned()),
            applies,
            fault,
        });
    }

    /// From now on, requests for which `applies` holds get this fault.
    pub fn set_where(
        &self,
        applies: impl Fn(&ProxyRequest) -> bool + Send + Sync + 'static,
        fault: Fault,
    ) {
        self.state.lock().unwrap().rules.push(Rule {
            part: None,
            applies: Arc::new(applies),
            fault,
        });
    }

    /// From now on, nothing goes wrong. Answers that hang already go on to hang.
    pub fn clear(&self) {
        self.state.lock().unwrap().rules.clear();
    }

    /// How often what was asked for since the start.
    #[must_use]
    pub fn hits(&self) -> Hits {
        self.state.lock().unwrap().hits.clone()
    }

    /// Every request since the start, in the order in which they were answered or given up.
    #[must_use]
    pub fn log(&self) -> Vec<LogEntry> {
        self.state.lock().unwrap().log.clone()
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Proxy {
    state: Arc<Mutex<State>>,
    upstream: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Proxy {
    async fn converse(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = RequestReader::default();
        while let Some(request) = reader.next(&mut stream).await? {
            let fault = self.enter(&request);
            if self.answer(&mut stream, request, fault).await? == After::Close {
                break;
            }
        }
        stream.shutdown().await?;
        Ok(())
    }

    /// Counts a request and finds its fault.
    fn enter(&self, request: &RawRequest) -> Option<Fault> {
        let seen = seen(request);
        let mut state = self.state.lock().unwrap();
        *state
            .hits
            .0
            .entry((seen.method.to_string(), seen.key.clone()))
            .or_default() += 1;
        state
            .rules
            .iter()
            .rev()
            .find(|rule| (rule.applies)(&seen))
            .map(|rule| rule.fault.clone())
    }

    fn note(&self, request: &RawRequest, status: Option<StatusCode>, fault: Option<&Fault>) {
        self.state.lock().unwrap().log.push(LogEntry {
            method: request.method.clone(),
            path: request.target.clone(),
            status: status.map(|status| status.as_u16()),
            fault: fault.cloned(),
        });
    }

    async fn answer(
        &self,
        stream: &mut TcpStream,
        request: RawRequest,
        fault: Option<Fault>,
    ) -> anyhow::Result<After> {
        match &fault {
            Some(Fault::Status(status, code)) => {
                let answer = s3_error(StatusCode::from_u16(*status)?, code);
                self.note(&request, Some(answer.status), fault.as_ref());
                return send(stream, &request.method, answer, None).await;
            }
            Some(Fault::Reset) => {
                self.note(&request, None, fault.as_ref());
                stream.set_zero_linger()?;
                // The caller would close it in order.
                anyhow::bail!("reset");
            }
            Some(Fault::Timeout) => {
                self.note(&request, None, fault.as_ref());
                while stream.read(&mut [0; 1024]).await? > 0 {}
                return Ok(After::Close);
            }
            _ => {}
        }
        let Ok(answer) = self.forward(&request).await else {
            // A store that is not there looks like one through the proxy.
            self.note(&request, None, fault.as_ref());
            stream.set_zero_linger()?;
            anyhow::bail!("the store did not answer");
        };
        if fault == Some(Fault::LostAnswer) {
            self.note(&request, None, fault.as_ref());
            return Ok(After::Close);
        }
        self.note(&request, Some(answer.status), fault.as_ref());
        send(stream, &request.method, answer, fault).await
    }

    async fn forward(&self, request: &RawRequest) -> anyhow::Result<Answer> {
        let uri = format!("http://{}{}", self.upstream, request.target);
        let mut forwarded = http::Request::builder()
            .method(request.method.clone())
            .uri(uri);
        for (name, value) in &request.headers {
            // The proxy has had the whole body, and each side keeps its own connection.
            if *name != http::header::EXPECT && *name != http::header::CONNECTION {
                forwarded = forwarded.header(name, value);
            }
        }
        let answer = self
            .client
            .request(forwarded.body(Full::new(request.body.clone()))?)
            .await?;
        let (parts, body) = answer.into_parts();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }
}

fn seen(request: &RawRequest) -> ProxyRequest {
    let (path, query) = request
        .target
        .split_once('?')
        .unwrap_or((&request.target, ""));
    let in_bucket = path
        .trim_start_matches('/')
        .split_once('/')
        .map_or("", |(_, key)| key);
    ProxyRequest {
        method: request.method.clone(),
        key: percent_decoded(in_bucket),
        query: query.to_owned(),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            None => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
