//! What a machine knows of itself: `KEY=value` lines that a boot unit writes once, such as `/run/platform/node.env`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use shared::names::NodeId;

/// Larger than such a file ever is, in bytes.
const BYTES: usize = 64 * 1024;

/// The facts that the agent uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// `NODE_ID`: the last part of the node's status object, in AWS its `${aws:userid}`.
    pub id: NodeId,
    /// `NODE_NAME`: the name under which kubelet registers.
    pub name: Option<String>,
    /// `NODE_IP`: the machine's own address.
    pub ip: Option<IpAddr>,
    /// `ZONE`: the availability zone.
    pub zone: Option<String>,
}

/// A file of facts that cannot be used, yet.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// It cannot be read.
    #[error("cannot read the node's facts {path}: a boot unit writes them")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It does not say what it should.
    #[error("the node's facts {path} cannot be used: {}", mistakes.join("; "))]
    Content {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong with it.
        mistakes: Vec<String>,
    },
}

impl NodeFacts {
    /// Reads a file of facts.
    ///
    /// # Errors
    /// [`FactsError`].
    pub fn load(path: &Path) -> Result<Self, FactsError> {
        let text = std::fs::read_to_string(path).map_err(|source| FactsError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|mistakes| FactsError::Content {
            path: path.to_owned(),
            mistakes,
        })
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut facts = BTreeMap::new();
        if text.len() > BYTES {
            return Err(vec![format!("it is longer than {BYTES} bytes")]);
        }
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once('=') {
                Some((key, value)) => {
                    facts.insert(key.trim(), value.trim());
                }
                None => mistakes.push(format!("line {} is not KEY=value", at + 1)),
            }
        }
        let id = match facts.get("NODE_ID").map(|id| NodeId::new(*id)) {
            Some(Ok(id)) => Some(id),
            Some(Err(e)) => {
                mistakes.push(format!("NODE_ID: {e}"));
                None
            }
            None => {
                mistakes.push("NODE_ID is missing".to_owned());
                None
            }
        };
        let name = facts.get("NODE_NAME").map(|name| (*name).to_owned());
        if let Some(name) = name.as_deref().filter(|name| !is_node_name(name)) {
            mistakes.push(format!(
                "NODE_NAME: {name:?} is not a lower-case DNS name of at most 63 characters"
            ));
        }
        let ip = facts.get("NODE_IP").map(|ip| ip.parse::<IpAddr>());
        if let Some(Err(_)) = ip {
            mistakes.push("NODE_IP is no address".to_owned());
        }
        match id {
            Some(id) if mistakes.is_empty() => Ok(Self {
                id,
                name,
                ip: ip.and_then(Result::ok),
                zone: facts.get("ZONE").map(|zone| (*zone).to_owned()),
            }),
            _ => Err(mistakes),
        }
    }
}

/// Whether kubelet could register under it, and a certificate's common name (64 characters with `system:node:` in it is
/// the X.520 bound, which nobody enforces; a name of AWS has at most 63) could hold it.
pub(crate) fn is_node_name(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label =
        |l: &str| !l.is_empty() && l.bytes().all(ok) && !l.starts_with('-') && !l.ends_with('-');
    name.len() <= 63 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_boot_unit_writes() {
        let text = "NODE_ID=AROAX:i-0abc\nNODE_NAME=ip-10-0-0-1.eu-central-1.compute.internal\nNODE_IP=10.0.0.1\n";
        let facts = NodeFacts::parse(text).unwrap();
        assert_eq!(facts.id.as_str(), "AROAX:i-0abc");
        let name = "ip-10-0-0-1.eu-central-1.compute.internal";
        assert_eq!(facts.name.as_deref(), Some(name));
        assert_eq!(facts.ip, Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn every_mistake_at_once() {
        let mistakes = NodeFacts::parse("NODE_NAME=Upper/../x\nnonsense\nNODE_IP=x\n").unwrap_err();
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(NodeFacts::load(Path::new("/absent/node.env")).is_err());
        for bad in ["a..b", "-a", "", &"a".repeat(64)] {
            assert!(!is_node_name(bad), "{bad}");
        }
    }
}
