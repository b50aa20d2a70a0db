//! A client of one etcd member's JSON gateway, over TLS with certificates that the release brought.
//!
//! Paths and fields are those of etcd's `rpc.proto`; in its JSON 64-bit numbers are text, bytes are base64, and what is zero
//! is left out. One connection a call: calls are few.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Deserializer, Serialize};
use shared::bundle::Release;
use shared::names::EntryPath;
use shared::secret::SecretBytes;
use shared::store::SystemDns;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use url::{Host, Url};

use super::{EtcdError, EtcdErrorKind, SnapshotStream};
use crate::tls;

/// How long connecting may take, the handshake included.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a call may take beside connecting. etcd itself gives a proposal up after 5 to 7 seconds.
pub(super) const CALL: Duration = Duration::from_secs(12);
/// How long a member may take to rewrite its database. It serves nothing meanwhile.
const DEFRAGMENT: Duration = Duration::from_secs(600);
/// Most of an answer that is read, in bytes (a snapshot's apart).
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Where the release has what a client of etcd needs: it is the API server's.
pub(super) const FILES: [&str; 3] = [
    "secrets/kube-apiserver/etcd-ca.crt",
    "secrets/kube-apiserver/etcd-client.crt",
    "secrets/kube-apiserver/etcd-client.key",
];

/// Whom a client of etcd trusts and what it comes with.
#[derive(Clone)]
pub struct EtcdIdentity {
    tls: Arc<ClientConfig>,
}

/// A client of one member.
#[derive(Debug, Clone)]
pub struct EtcdClient {
    endpoint: String,
    host: Host<String>,
    port: u16,
    at: Option<IpAddr>,
    identity: EtcdIdentity,
    dns: SystemDns,
}

/// A member as the member list has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its number.
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: u64,
    /// Its name; empty until it has started for the first time.
    #[serde(default)]
    pub name: String,
    /// Where its peers reach it.
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has started for the first time.
    #[serde(rename = "clientURLs", default)]
    pub client_urls: Vec<String>,
    /// Whether it has no vote yet.
    #[serde(rename = "isLearner", default)]
    pub is_learner: bool,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// The cluster's number: the same for all its members.
    pub cluster_id: u64,
    /// The member's number.
    pub member_id: u64,
    /// etcd's version, `3.6.8`.
    pub version: String,
    /// The leader's number, as far as this member knows; none without one.
    pub leader: Option<u64>,
    /// The database's size on disk, in bytes.
    pub db_size: u64,
    /// How much of it is in use, in bytes.
    pub db_size_in_use: u64,
    /// The newest revision that this member has applied.
    pub revision: u64,
    /// The term of the newest election.
    pub raft_term: u64,
    /// The newest entry of its log.
    pub raft_index: u64,
    /// The newest entry that it has applied.
    pub raft_applied_index: u64,
    /// Whether it has no vote yet.
    pub is_learner: bool,
    /// What is wrong with it (alarms, no leader).
    pub errors: Vec<String>,
}

/// What `/health` says: whether the member can serve, which needs a leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it can.
    pub healthy: bool,
    /// Why not.
    pub reason: String,
}

/// What the gateway says instead of an answer. Older ones say the text under another name as well.
#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    #[serde(alias = "grpc_code", default)]
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct Members {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Added {
    member: Member,
    #[serde(default)]
    members: Vec<Member>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Header {
    #[serde(deserialize_with = "number")]
    cluster_id: u64,
    #[serde(deserialize_with = "number")]
    member_id: u64,
    #[serde(deserialize_with = "number")]
    revision: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StatusAnswer {
    header: Header,
    version: String,
    #[serde(rename = "dbSize", deserialize_with = "number")]
    db_size: u64,
    #[serde(rename = "dbSizeInUse", deserialize_with = "number")]
    db_size_in_use: u64,
    #[serde(deserialize_with = "number")]
    leader: u64,
    #[serde(rename = "raftIndex", deserialize_with = "number")]
    raft_index: u64,
    #[serde(rename = "raftTerm", deserialize_with = "number")]
    raft_term: u64,
    #[serde(rename = "raftAppliedIndex", deserialize_with = "number")]
    raft_applied_index: u64,
    #[serde(rename = "isLearner")]
    is_learner: bool,
    errors: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Deleted {
    #[serde(deserialize_with = "number")]
    deleted: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HealthAnswer {
    health: String,
    reason: String,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Serialize)]
struct OfMember {
    #[serde(rename = "ID")]
    id: String,
}

/// A number, as text or plain: which of the two depends on its width and on the gateway.
pub(super) fn number<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Plain(u64),
        Text(String),
    }
    match Number::deserialize(d)? {
        Number::Plain(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// A member's number as etcd's own tools show it.
#[must_use]
pub fn member_id_text(id: u64) -> String {
    format!("{id:x}")
}

// === impl EtcdIdentity ===

impl EtcdIdentity {
    /// From PEM text: the authority, our certificate, its key.
    ///
    /// # Errors
    /// Which of the three is not what it should be.
    pub fn from_pem(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let [of_ca, of_certificate, of_key] = FILES;
        let own = ((of_certificate, certificate), (of_key, key));
        let mut tls = tls::client_config(Some((of_ca, ca)), Some(own))?;
        // The gateway is on HTTP/1.1; on HTTP/2 etcd speaks gRPC as well.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }

    /// With the files that a release of the secure group brings for its API server; none where the release has none of
    /// them, which no release of a group without etcd has.
    ///
    /// # Errors
    /// Which file is missing or is not what it should be.
    pub fn from_release(release: &Release) -> Result<Option<Self>, String> {
        let found = FILES.map(|path| {
            let path: EntryPath = path.parse().ok()?;
            release.bytes(&path).map(SecretBytes::expose)
        });
        match found {
            [None, None, None] => Ok(None),
            [Some(ca), Some(certificate), Some(key)] => {
                Self::from_pem(ca, certificate, key).map(Some)
            }
            found => {
                let missing = FILES.iter().zip(found).find(|(_, bytes)| bytes.is_none());
                let missing = missing.map_or("", |(path, _)| *path);
                Err(format!("the release has no {missing}"))
            }
        }
    }
}

impl fmt::Debug for EtcdIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[etcd client identity]")
    }
}

// === impl EtcdClient ===

impl EtcdClient {
    /// A client of the member at `url` (`https://HOST:PORT`). Nothing is connected to yet.
    ///
    /// # Errors
    /// A URL that is none of HTTPS, as [`EtcdErrorKind::Other`].
    pub fn new(identity: &EtcdIdentity, url: &str) -> Result<Self, EtcdError> {
        let bad = || EtcdError {
            endpoint: url.to_owned(),
            operation: "connect",
            kind: EtcdErrorKind::Other,
            said: "this is no https://HOST:PORT".to_owned(),
            source: None,
        };
        let parsed = Url::parse(url).map_err(|_| bad())?;
        let host = parsed.host().ok_or_else(bad)?.to_owned();
        if parsed.scheme() != "https" {
            return Err(bad());
        }
        Ok(Self {
            endpoint: url.trim_end_matches('/').to_owned(),
            host,
            port: parsed.port().unwrap_or(2379),
            at: None,
            identity: identity.clone(),
            dns: SystemDns::default(),
        })
    }

    /// With the address at which the member is, where its name need not or cannot be looked up. Its certificate is held
    /// against the URL all the same.
    #[must_use]
    pub fn at(mut self, address: IpAddr) -> Self {
        self.at = Some(address);
        self
    }

    /// The member's client URL.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The members, as the cluster agrees on them at this moment (a linearizable read): it needs quorum.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn member_list(&self) -> Result<Vec<Member>, EtcdError> {
        Ok(self.cluster().await?.1)
    }

    /// The same, with the number of the cluster whose members they are.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn cluster(&self) -> Result<(u64, Vec<Member>), EtcdError> {
        #[derive(Serialize)]
        struct Ask {
            linearizable: bool,
        }
        let ask = Ask { linearizable: true };
        let answer: Members = self
            .ask("member list", "/v3/cluster/member/list", &ask, CALL)
            .await?;
        Ok((answer.header.cluster_id, answer.members))
    }

    /// Adds a member without a vote. Gives it, and all members after the change.
    ///
    /// # Errors
    /// [`EtcdError`]; [`EtcdErrorKind::AlreadyMember`] where a member has that peer URL.
    pub async fn member_add_learner(
        &self,
        peer_url: &str,
    ) -> Result<(Member, Vec<Member>), EtcdError> {
        #[derive(Serialize)]
        struct Ask<'a> {
            #[serde(rename = "peerURLs")]
            peer_urls: [&'a str; 1],
            #[serde(rename = "isLearner")]
            is_learner: bool,
        }
        let ask = Ask {
            peer_urls: [peer_url],
            is_learner: true,
        };
        let answer: Added = self
            .ask("member add", "/v3/cluster/member/add", &ask, CALL)
            .await?;
        Ok((answer.member, answer.members))
    }

    /// Gives a learner its vote. Gives all members after the change.
    ///
    /// # Errors
    /// [`EtcdError`]; [`EtcdErrorKind::NotInSync`] until it has caught up, [`EtcdErrorKind::NotLearner`] when it has its vote.
    pub async fn member_promote(&self, id: u64) -> Result<Vec<Member>, EtcdError> {
        let ask = OfMember { id: id.to_string() };
        let answer: Members = self
            .ask("member promote", "/v3/cluster/member/promote", &ask, CALL)
            .await?;
        Ok(answer.members)
    }

    /// Takes a member out. Gives all members after the change.
    ///
    /// # Errors
    /// [`EtcdError`]; [`EtcdErrorKind::MemberNotFound`] where it is gone already.
    pub async fn member_remove(&self, id: u64) -> Result<Vec<Member>, EtcdError> {
        let ask = OfMember { id: id.to_string() };
        let answer: Members = self
            .ask("member remove", "/v3/cluster/member/remove", &ask, CALL)
            .await?;
        Ok(answer.members)
    }

    /// What the member says of itself; it needs no quorum.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn status(&self) -> Result<MemberStatus, EtcdError> {
        let answer: StatusAnswer = self
            .ask("status", "/v3/maintenance/status", &Empty {}, CALL)
            .await?;
        Ok(MemberStatus {
            cluster_id: answer.header.cluster_id,
            member_id: answer.header.member_id,
            version: answer.version,
            leader: (answer.leader != 0).then_some(answer.leader),
            db_size: answer.db_size,
            db_size_in_use: answer.db_size_in_use,
            revision: answer.header.revision,
            raft_term: answer.raft_term,
            raft_index: answer.raft_index,
            raft_applied_index: answer.raft_applied_index,
            is_learner: answer.is_learner,
            errors: answer.errors,
        })
    }

    /// Rewrites the member's database without its holes. It serves nothing meanwhile: one member at a time, the leader last.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn defragment(&self) -> Result<(), EtcdError> {
        let _: Nothing = self
            .ask(
                "defragment",
                "/v3/maintenance/defragment",
                &Empty {},
                DEFRAGMENT,
            )
            .await?;
        Ok(())
    }

    /// Removes every key that begins with `prefix`, and says how many there were.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn delete_prefix(&self, prefix: &str) -> Result<u64, EtcdError> {
        #[derive(Serialize)]
        struct Ask {
            key: String,
            range_end: String,
        }
        let ask = Ask {
            key: STANDARD.encode(prefix),
            range_end: STANDARD.encode(end_of_prefix(prefix.as_bytes())),
        };
        let answer: Deleted = self.ask("delete", "/v3/kv/deleterange", &ask, CALL).await?;
        Ok(answer.deleted)
    }

    /// Whether the member can serve. One that says no is an answer, not an error.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn health(&self) -> Result<Health, EtcdError> {
        let (_, body) = self
            .whole("health", Method::GET, "/health", Bytes::new(), CALL)
            .await?;
        let answer: HealthAnswer = serde_json::from_slice(&body)
            .map_err(|_| self.other("health", "not what /health answers"))?;
        Ok(Health {
            healthy: answer.health == "true",
            reason: answer.reason,
        })
    }

    /// A snapshot of the member's database, piece by piece.
    ///
    /// # Errors
    /// [`EtcdError`], here or from [`SnapshotStream::next`].
    pub async fn snapshot(&self) -> Result<SnapshotStream, EtcdError> {
        let operation = "snapshot";
        let path = "/v3/maintenance/snapshot";
        let sending = self.send(operation, Method::POST, path, Bytes::from_static(b"{}"));
        let (answer, connection) = self.within(CALL + CONNECT, operation, sending).await?;
        if !answer.status().is_success() {
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect();
            let body = tokio::time::timeout(CALL, body).await;
            connection.abort();
            let body = body.ok().and_then(Result::ok);
            let body = body.map(|b| b.to_bytes()).unwrap_or_default();
            return Err(self.refused(operation, status.as_u16(), &body));
        }
        Ok(SnapshotStream::new(
            self.endpoint.clone(),
            answer.into_body(),
            connection,
        ))
    }

    pub(super) async fn ask<Q: Serialize, A: for<'de> Deserialize<'de>>(
        &self,
        operation: &'static str,
        path: &str,
        ask: &Q,
        limit: Duration,
    ) -> Result<A, EtcdError> {
        let body = serde_json::to_vec(ask)
            .map_err(|e| self.failed(operation, EtcdErrorKind::Other, Box::new(e)))?;
        let (status, body) = self
            .whole(operation, Method::POST, path, body.into(), limit)
            .await?;
        if !(200..300).contains(&status) {
            return Err(self.refused(operation, status, &body));
        }
        serde_json::from_slice(&body)
            .map_err(|e| self.failed(operation, EtcdErrorKind::Other, Box::new(e)))
    }

    async fn whole(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<(u16, Bytes), EtcdError> {
        let asking = async {
            let (answer, connection) = self.send(operation, method, path, body).await?;
            let status = answer.status().as_u16();
            let read = Limited::new(answer.into_body(), ANSWER_BYTES).collect();
            let read = read.await;
            connection.abort();
            let read = read.map_err(|e| {
                let kind = match e.is::<LengthLimitError>() {
                    true => EtcdErrorKind::TooLarge,
                    false => EtcdErrorKind::Unreachable,
                };
                self.failed(operation, kind, e)
            })?;
            Ok((status, read.to_bytes()))
        };
        self.within(limit + CONNECT, operation, asking).await
    }

    async fn send(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, JoinHandle<()>), EtcdError> {
        let unreachable =
            |e: hyper::Error| self.failed(operation, EtcdErrorKind::Unreachable, Box::new(e));
        let connecting = self.connect(operation);
        let stream = self.within(CONNECT, operation, connecting).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(unreachable)?;
        let driver = tokio::spawn(async move {
            // What went wrong here is told by the request.
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(USER_AGENT, "platform-agent")
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|e| self.failed(operation, EtcdErrorKind::Other, Box::new(e)))?;
        match sender.send_request(request).await {
            Ok(answer) => Ok((answer, driver)),
            Err(e) => {
                driver.abort();
                // A TLS 1.3 server refuses a client's certificate after the handshake, in its first record.
                let kind = match refused_certificate(&e) {
                    true => EtcdErrorKind::Untrusted,
                    false => EtcdErrorKind::Unreachable,
                };
                Err(self.failed(operation, kind, Box::new(e)))
            }
        }
    }

    async fn connect(
        &self,
        operation: &'static str,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, EtcdError> {
        let unreachable = |e: Box<dyn std::error::Error + Send + Sync>| {
            self.failed(operation, EtcdErrorKind::Unreachable, e)
        };
        let (addresses, name) = match &self.host {
            Host::Ipv4(ip) => (vec![IpAddr::V4(*ip)], ServerName::from(IpAddr::V4(*ip))),
            Host::Ipv6(ip) => (vec![IpAddr::V6(*ip)], ServerName::from(IpAddr::V6(*ip))),
            Host::Domain(name) => {
                let server = ServerName::try_from(name.clone())
                    .map_err(|e| self.failed(operation, EtcdErrorKind::Other, Box::new(e)))?;
                let addresses = match self.at {
                    Some(_) => Vec::new(),
                    None => self.dns.addresses(name).await.map_err(unreachable)?,
                };
                (addresses, server)
            }
        };
        let address = self.at.or_else(|| addresses.first().copied());
        let address = address.ok_or_else(|| self.other(operation, "its name has no address"))?;
        let stream = TcpStream::connect(SocketAddr::new(address, self.port))
            .await
            .map_err(|e| unreachable(Box::new(e)))?;
        let connector = TlsConnector::from(Arc::clone(&self.identity.tls));
        connector.connect(name, stream).await.map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::InvalidData => EtcdErrorKind::Untrusted,
                _ => EtcdErrorKind::Unreachable,
            };
            self.failed(operation, kind, Box::new(e))
        })
    }

    async fn within<T>(
        &self,
        limit: Duration,
        operation: &'static str,
        call: impl Future<Output = Result<T, EtcdError>>,
    ) -> Result<T, EtcdError> {
        match tokio::time::timeout(limit, call).await {
            Ok(done) => done,
            Err(late) => Err(self.failed(operation, EtcdErrorKind::Unreachable, Box::new(late))),
        }
    }

    fn refused(&self, operation: &'static str, status: u16, body: &[u8]) -> EtcdError {
        let refusal: Option<Refusal> = serde_json::from_slice(body).ok();
        let (code, said) = match &refusal {
            Some(refusal) => (refusal.code(), refusal.message().to_owned()),
            None => (0, format!("HTTP status {status}")),
        };
        EtcdError {
            endpoint: self.endpoint.clone(),
            operation,
            kind: EtcdErrorKind::of_answer(code, &said),
            said: crate::trouble::shortened(&said),
            source: None,
        }
    }

    fn failed(
        &self,
        operation: &'static str,
        kind: EtcdErrorKind,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> EtcdError {
        EtcdError {
            endpoint: self.endpoint.clone(),
            operation,
            kind,
            said: String::new(),
            source: Some(source),
        }
    }

    fn other(&self, operation: &'static str, said: &str) -> EtcdError {
        EtcdError {
            endpoint: self.endpoint.clone(),
            operation,
            kind: EtcdErrorKind::Other,
            said: said.to_owned(),
            source: None,
        }
    }
}

#[derive(Serialize)]
struct Empty {}

/// Whether rustls is in the chain: what it says after the handshake is the other side's alert.
fn refused_certificate(error: &hyper::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let io = cause.downcast_ref::<std::io::Error>();
        let inner = io.and_then(std::io::Error::get_ref);
        let alert = inner.and_then(|e| e.downcast_ref::<tokio_rustls::rustls::Error>());
        if alert.is_some() {
            return true;
        }
        next = cause.source();
    }
    false
}

/// The first key after all that begin with `prefix`; an empty one is etcd's word for "to the end".
pub(super) fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn code(&self) -> i64 {
        self.code
    }

    pub(super) fn message(&self) -> &str {
        match self.message.as_str() {
            "" => &self.error,
            message => message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(end_of_prefix(b"/a/"), b"/a0");
        assert_eq!(end_of_prefix(b"a\xff"), b"b");
        assert_eq!(end_of_prefix(b"\xff"), b"\0");
    }

    #[test]
    fn numbers_come_as_text_or_plain() {
        let read: Members = serde_json::from_str(
            r#"{"members":[{"ID":"502868162523556075","peerURLs":["https://a:2380"],"isLearner":true},{"ID":7}]}"#,
        )
        .unwrap();
        assert_eq!(read.members[0].id, 502_868_162_523_556_075);
        assert!(read.members[0].is_learner && read.members[0].name.is_empty());
        assert_eq!(read.members[1].id, 7);
    }
}
