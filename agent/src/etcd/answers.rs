//! What etcd's JSON gateway answers. Fields are those of etcd's `rpc.proto`; 64-bit numbers are text, and what is zero is left
//! out.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

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
pub(super) struct Members {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) members: Vec<Member>,
}

#[derive(Deserialize)]
pub(super) struct Added {
    pub(super) member: Member,
    #[serde(default)]
    pub(super) members: Vec<Member>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Header {
    #[serde(deserialize_with = "number")]
    pub(super) cluster_id: u64,
    #[serde(deserialize_with = "number")]
    pub(super) member_id: u64,
    #[serde(deserialize_with = "number")]
    pub(super) revision: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct StatusAnswer {
    pub(super) header: Header,
    pub(super) version: String,
    #[serde(rename = "dbSize", deserialize_with = "number")]
    pub(super) db_size: u64,
    #[serde(rename = "dbSizeInUse", deserialize_with = "number")]
    pub(super) db_size_in_use: u64,
    #[serde(deserialize_with = "number")]
    pub(super) leader: u64,
    #[serde(rename = "raftIndex", deserialize_with = "number")]
    pub(super) raft_index: u64,
    #[serde(rename = "raftTerm", deserialize_with = "number")]
    pub(super) raft_term: u64,
    #[serde(rename = "raftAppliedIndex", deserialize_with = "number")]
    pub(super) raft_applied_index: u64,
    #[serde(rename = "isLearner")]
    pub(super) is_learner: bool,
    pub(super) errors: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct HealthAnswer {
    pub(super) health: String,
    pub(super) reason: String,
}

/// A number, as text or plain: which of the two depends on its width and on the gateway.
pub(super) fn number<'de, D, N>(d: D) -> Result<N, D::Error>
where
    D: Deserializer<'de>,
    N: Deserialize<'de> + FromStr<Err: Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number<N> {
        Plain(N),
        Text(String),
    }
    match Number::deserialize(d)? {
        Number::Plain(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// A member's number as etcd's own tools show it.
#[must_use]
pub(super) fn member_id_text(id: u64) -> String {
    format!("{id:x}")
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
