//! What is written once and never again (§7.2): who forms a generation, and that a node has begun with it.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde::{Deserialize, Serialize};

use super::facts::{FactsProblem, Generation, MemberFacts};
use crate::documents::Nonce;
use crate::names::{EnvironmentName, NodeId};

/// Format number of both documents.
pub const ETCD_FORMAT: u32 = 1;

/// A member as the fence names it.
pub type FenceMember = MemberFacts;

/// `etcd/<generation>/cluster.json`: the members that form this generation. Whoever's content is there, is the fence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// See [`ETCD_FORMAT`].
    pub format: u32,
    /// Which generation.
    pub generation: Generation,
    /// The cluster's token: `ENVIRONMENT-GENERATION`.
    pub token: String,
    /// The members, in the order of their nodes.
    pub members: Vec<FenceMember>,
}

/// `etcd/<generation>/started/<node>.json`: this node has begun with its generation, once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartTicket {
    /// See [`ETCD_FORMAT`].
    pub format: u32,
    /// The node.
    pub node: NodeId,
    /// What its configuration file remembers: a node that lost it cannot tell this one from a stranger's.
    pub nonce: Nonce,
}

/// A fence that is not gone by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// Another format.
    #[error("format {0} is not the known format {ETCD_FORMAT}")]
    Format(u32),
    /// Another generation than that of its name.
    #[error("it is of generation {found}, not {expected}")]
    Generation {
        /// What it says.
        found: Generation,
        /// What its name says.
        expected: Generation,
    },
    /// Another cluster's token.
    #[error("its token is {0:?}")]
    Token(String),
    /// A member that etcd would not take.
    #[error("member {node}: {problem}")]
    Member {
        /// Which.
        node: NodeId,
        /// What is wrong with it.
        #[source]
        problem: FactsProblem,
    },
    /// None, or two with the same node, name or URL.
    #[error("it names no member, or one twice")]
    Members,
}

// === impl Fence ===

impl Fence {
    /// The token of a generation.
    #[must_use]
    pub fn token(environment: &EnvironmentName, generation: Generation) -> String {
        format!("{environment}-{generation}")
    }

    /// Of these members.
    #[must_use]
    pub fn new(
        environment: &EnvironmentName,
        generation: Generation,
        mut members: Vec<FenceMember>,
    ) -> Self {
        members.sort();
        Self {
            format: ETCD_FORMAT,
            generation,
            token: Self::token(environment, generation),
            members,
        }
    }

    /// The number of the cluster that these members form: each of its members says it with every answer. As etcd works it
    /// out from `initial-cluster` and the token (`membership.NewClusterFromURLsMap`), at a start and at a restore alike.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        let mut ids: Vec<u64> = self
            .members
            .iter()
            .map(|m| first_8_bytes(&format!("{}{}", m.peer_url, self.token).into_bytes()))
            .collect();
        ids.sort_unstable();
        let all: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
        first_8_bytes(&all)
    }

    /// The member that is `node`.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<&FenceMember> {
        self.members.iter().find(|m| m.node == *node)
    }

    /// The fence, if it can be gone by.
    ///
    /// # Errors
    /// [`FenceError`].
    pub fn usable(
        self,
        environment: &EnvironmentName,
        generation: Generation,
    ) -> Result<Self, FenceError> {
        if self.format != ETCD_FORMAT {
            return Err(FenceError::Format(self.format));
        }
        if self.generation != generation {
            return Err(FenceError::Generation {
                found: self.generation,
                expected: generation,
            });
        }
        if self.token != Self::token(environment, generation) {
            return Err(FenceError::Token(self.token));
        }
        for member in &self.members {
            if let Some(problem) = member.problems().into_iter().next() {
                let node = member.node.clone();
                return Err(FenceError::Member { node, problem });
            }
        }
        if self.members.is_empty() || !are_distinct(&self.members) {
            return Err(FenceError::Members);
        }
        Ok(self)
    }
}

/// etcd's numbers are the beginnings of SHA-1 digests: they name things, and protect nothing.
fn first_8_bytes(of: &[u8]) -> u64 {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, of);
    let begin = digest.as_ref().iter().take(8);
    begin.fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// Whether no two have the same node, name or URL.
pub(super) fn are_distinct(members: &[MemberFacts]) -> bool {
    let all = |of: fn(&MemberFacts) -> &str| {
        let distinct: BTreeSet<&str> = members.iter().map(of).collect();
        distinct.len() == members.len()
    };
    all(|m| m.node.as_str()) && all(|m| &m.name) && all(|m| &m.peer_url) && all(|m| &m.client_url)
}

#[cfg(test)]
mod tests {
    use super::super::step::testing::member;
    use super::*;

    #[test]
    fn a_cluster_has_a_number_of_its_own() {
        let dev: EnvironmentName = "dev".parse().unwrap();
        let one = Generation::FIRST;
        let fence = Fence::new(&dev, one, vec![member(1), member(2), member(3)]);
        let turned = Fence::new(&dev, one, vec![member(3), member(1), member(2)]);
        assert_eq!(fence.cluster_id(), turned.cluster_id());
        let later = Fence::new(&dev, one.next(), fence.members.clone());
        assert_ne!(fence.cluster_id(), later.cluster_id());
        let fewer = Fence::new(&dev, one, vec![member(1), member(2)]);
        assert_ne!(fence.cluster_id(), fewer.cluster_id());
    }

    #[test]
    fn a_fence_is_gone_by_only_where_it_is_of_this_generation_and_whole() {
        let dev: EnvironmentName = "dev".parse().unwrap();
        let one = Generation::FIRST;
        let fence = Fence::new(&dev, one, vec![member(2), member(1), member(3)]);
        assert_eq!(fence.members[0], member(1));
        assert_eq!(fence.clone().usable(&dev, one), Ok(fence.clone()));
        let refused = |change: fn(&mut Fence)| {
            let mut changed = fence.clone();
            change(&mut changed);
            changed.usable(&dev, one).unwrap_err()
        };
        assert_eq!(refused(|f| f.format = 2), FenceError::Format(2));
        let other = refused(|f| f.generation = f.generation.next());
        assert!(matches!(other, FenceError::Generation { .. }));
        assert!(matches!(refused(|f| f.token.clear()), FenceError::Token(_)));
        assert_eq!(refused(|f| f.members.clear()), FenceError::Members);
        assert_eq!(refused(|f| f.members[0] = member(2)), FenceError::Members);
        let bad = refused(|f| f.members[0].peer_url = "http://x".to_owned());
        assert!(matches!(bad, FenceError::Member { .. }));
    }
}
