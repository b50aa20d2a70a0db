//! A client of one etcd member's JSON gateway, over TLS with certificates that the release brought.
//!
//! Paths and fields are those of etcd's `rpc.proto`; in its JSON 64-bit numbers are text, bytes are base64, and what is zero
//! is left out. One connection a call: calls are few.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::Method;
use serde::{Deserialize, Serialize};
use shared::store::SystemDns;
use std::net::IpAddr;
use std::time::Duration;
use url::{Host, Url};

use super::answers::{Added, Health, HealthAnswer, Member, MemberStatus, Members, StatusAnswer};
use super::identity::EtcdIdentity;
use super::{EtcdError, EtcdErrorKind, SnapshotStream};

/// How long connecting may take, the handshake included.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// How long a call may take beside connecting. etcd itself gives a proposal up after 5 to 7 seconds.
pub(super) const CALL: Duration = Duration::from_secs(12);
/// How long a member may take to rewrite its database. It serves nothing meanwhile.
const DEFRAGMENT: Duration = Duration::from_secs(600);
/// Most of an answer that is read, in bytes (a snapshot's apart).
pub(super) const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// A client of one member.
#[derive(Debug, Clone)]
pub struct EtcdClient {
    pub(super) endpoint: String,
    pub(super) host: Host<String>,
    pub(super) port: u16,
    pub(super) at: Option<IpAddr>,
    pub(super) identity: EtcdIdentity,
    pub(super) dns: SystemDns,
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
}

#[derive(Serialize)]
struct Empty {}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Serialize)]
struct OfMember {
    #[serde(rename = "ID")]
    id: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(end_of_prefix(b"/a/"), b"/a0");
        assert_eq!(end_of_prefix(b"a\xff"), b"b");
        assert_eq!(end_of_prefix(b"\xff"), b"\0");
    }
}
