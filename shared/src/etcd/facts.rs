//! What a node knows and says of itself as far as etcd is concerned.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::names::NodeId;

/// Which cluster it is: 1 at first, raised only by a restore or a reform. In the signed release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(NonZeroU32);

/// Facts that etcd could not run with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct FactsProblem {
    /// Which fact.
    pub field: &'static str,
    /// The rule that it breaks.
    pub what: &'static str,
}

/// A node as a member: what others reach it by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberFacts {
    /// The node.
    pub node: NodeId,
    /// The member's name: unlike that of any other machine, also of one that is gone.
    pub name: String,
    /// Where its peers reach it: `https://HOST:PORT`.
    pub peer_url: String,
    /// Where clients reach it.
    pub client_url: String,
}

/// What a node is to etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EtcdRole {
    /// It waits: for others, for quorum, for its turn.
    Waiting,
    /// It becomes a member: its configuration is written, its data is not there or not caught up yet.
    Joining,
    /// It is a member without a vote, and catches up.
    Learner,
    /// It is a member with a vote.
    Member,
    /// There are members enough; it stands by.
    Spare,
}

/// What a node's status says about etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdReport {
    /// The generation of its release.
    pub generation: Generation,
    /// What it is.
    pub role: EtcdRole,
    /// What it waits for or does, in one line; empty where there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// How it is reached, or would be.
    pub facts: MemberFacts,
    /// Whether it has had data of that generation: it is then no stranger, whatever else is lost.
    #[serde(default)]
    pub had_data: bool,
    /// Names of the members that it reached last, itself included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reaches: Vec<String>,
    /// The member that it knew last as the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Whether its own member answers and knows a leader; none where it has no member, or an older agent wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// Whether the cluster of this generation ever had a leader, as far as it has seen; none where it cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub had_leader: Option<bool>,
    /// The newest revision that its member had when it looked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

// === impl Generation ===

impl Generation {
    /// The first one.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// From 1.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Generation {
    type Err = std::num::ParseIntError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

// === impl MemberFacts ===

impl MemberFacts {
    /// Everything that etcd would refuse, or would take for something else.
    #[must_use]
    pub fn problems(&self) -> Vec<FactsProblem> {
        let mut problems = Vec::new();
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if self.name.is_empty() || self.name.len() > 128 || !self.name.bytes().all(ok) {
            problems.push(FactsProblem {
                field: "name",
                what: "must be 1 to 128 of letters, digits and ._-",
            });
        }
        for (field, url) in [
            ("peer_url", &self.peer_url),
            ("client_url", &self.client_url),
        ] {
            problems.extend(url_problem(url).map(|what| FactsProblem { field, what }));
        }
        problems
    }
}

/// What is wrong with a URL of etcd.
pub(super) fn url_problem(text: &str) -> Option<&'static str> {
    let plain = "must be https://HOST:PORT and nothing more";
    let Ok(url) = Url::parse(text) else {
        return Some(plain);
    };
    let Some(host) = url.host_str() else {
        return Some(plain);
    };
    let port = url.port_or_known_default().unwrap_or_default();
    match text == format!("https://{host}:{port}") {
        true => None,
        false => Some(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_what_etcd_takes() {
        let good = MemberFacts {
            node: "AROAX:i-0abc".parse().unwrap(),
            name: "i-0abc".to_owned(),
            peer_url: "https://ip-10-0-0-1.eu-west-1.compute.internal:2380".to_owned(),
            client_url: "https://10.0.0.1:2379".to_owned(),
        };
        assert_eq!(good.problems(), []);
        for bad in [
            "http://a:1",
            "https://a",
            "https://a:1/",
            "https://a:1/x",
            "https://a:1,https://b:1",
            "https://u@a:1",
            "a:1",
        ] {
            let facts = MemberFacts {
                peer_url: bad.to_owned(),
                name: "a=b".to_owned(),
                ..good.clone()
            };
            assert_eq!(facts.problems().len(), 2, "{bad}");
        }
    }
}
