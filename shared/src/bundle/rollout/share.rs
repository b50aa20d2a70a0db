//! How many nodes may be away at once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// How many nodes may be in transition or unavailable at once: a number, or a share of the group in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawMaxUnavailable", into = "RawMaxUnavailable")]
pub enum MaxUnavailable {
    /// This many; at least 1.
    Nodes(u32),
    /// This share of the group's nodes, 1 to 100, rounded down, but at least one node.
    Percent(u32),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RawMaxUnavailable {
    Nodes(u32),
    Text(String),
}

/// Text or a number that is no such limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a number of nodes from 1, or a share such as \"25%\" from 1% to 100%")]
pub struct InvalidMaxUnavailable;

// === impl MaxUnavailable ===

impl MaxUnavailable {
    /// How many nodes that is in a group of `size`; never none, never more than the document has room for.
    #[must_use]
    pub fn of(self, size: u32) -> u32 {
        let nodes = match self {
            Self::Nodes(nodes) => nodes,
            Self::Percent(share) => {
                u32::try_from(u64::from(size) * u64::from(share) / 100).unwrap_or(u32::MAX)
            }
        };
        nodes.clamp(1, limits::ROLLOUT_HOLDERS)
    }
}

impl FromStr for MaxUnavailable {
    type Err = InvalidMaxUnavailable;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_suffix('%') {
            Some(share) => share
                .parse()
                .ok()
                .filter(|share| (1..=100).contains(share))
                .map(Self::Percent),
            None => text.parse().ok().filter(|n| *n >= 1).map(Self::Nodes),
        }
        .ok_or(InvalidMaxUnavailable)
    }
}

impl fmt::Display for MaxUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes(nodes) => write!(f, "{nodes}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl TryFrom<RawMaxUnavailable> for MaxUnavailable {
    type Error = InvalidMaxUnavailable;
    fn try_from(raw: RawMaxUnavailable) -> Result<Self, Self::Error> {
        match raw {
            RawMaxUnavailable::Nodes(nodes) if nodes >= 1 => Ok(Self::Nodes(nodes)),
            RawMaxUnavailable::Text(text) if text.ends_with('%') => text.parse(),
            RawMaxUnavailable::Nodes(_) | RawMaxUnavailable::Text(_) => Err(InvalidMaxUnavailable),
        }
    }
}

impl From<MaxUnavailable> for RawMaxUnavailable {
    fn from(max: MaxUnavailable) -> Self {
        match max {
            MaxUnavailable::Nodes(nodes) => Self::Nodes(nodes),
            MaxUnavailable::Percent(_) => Self::Text(max.to_string()),
        }
    }
}
