//! When things run out, and whether that is soon.

use jiff::{SignedDuration, Timestamp};
use shared::documents::KeyringContent;
use shared::names::GroupName;

use crate::pki::inspect;

/// What runs out within this time is said loudly.
pub const SOON: SignedDuration = SignedDuration::from_hours(24 * 30);

/// Something that runs out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// When.
    pub at: Timestamp,
    /// What, for people.
    pub what: String,
}

impl Expiry {
    /// Whether it has run out, or will within [`SOON`].
    #[must_use]
    pub fn is_soon(&self, now: Timestamp) -> bool {
        self.at.duration_since(now) < SOON
    }
}

/// Everything that runs out, the first first: the keyring's certificates (those that rotate with their successors and
/// predecessors), and each group's published metadata with its root.
#[must_use]
pub fn expiries(
    keyring: &KeyringContent,
    published: &[(GroupName, shared::trust::Expiry)],
) -> Vec<Expiry> {
    let mut all = Vec::new();
    if let Some(pki) = &keyring.pki {
        let authorities = pki.authorities.values().flat_map(|a| a.trusted());
        let authorities = authorities.map(|a| (format!("authority {}", a.name), &a.certificate));
        let leaves = pki.leaves.iter();
        let leaves = leaves.map(|(name, c)| (format!("certificate {name}"), &c.certificate));
        all.extend(authorities.chain(leaves).filter_map(|(what, pem)| {
            let at = inspect(pem)?.not_after;
            Some(Expiry { at, what })
        }));
    }
    for (group, expiry) in published {
        let signatures = expiry.targets.min(expiry.snapshot).min(expiry.timestamp);
        all.push(Expiry {
            at: signatures,
            what: format!("signatures of group {group}"),
        });
        all.push(Expiry {
            at: expiry.root,
            what: format!("root of group {group}"),
        });
    }
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{LEAF_LIFE, Names, complete};

    #[test]
    fn the_first_is_first_and_soon_is_thirty_days() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let days = |d: i64| now + SignedDuration::from_hours(24 * d);
        let mut keyring = KeyringContent::new("dev".parse().unwrap());
        let names = Names {
            environment: "dev".to_owned(),
            zone: "example.com".to_owned(),
            region: "eu-west-1".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            service_ip: [10, 3, 0, 1].into(),
        };
        complete(&mut keyring.pki, &names, now).unwrap();
        let metadata = shared::trust::Expiry {
            root: days(29),
            targets: days(50),
            snapshot: days(40),
            timestamp: days(60),
        };
        let all = expiries(&keyring, &[("secure".parse().unwrap(), metadata)]);
        let pki = keyring.pki.as_ref().unwrap();
        assert_eq!(all.len(), pki.authorities.len() + pki.leaves.len() + 2);
        let first: Vec<_> = all
            .iter()
            .take(2)
            .map(|e| (e.at, e.what.as_str()))
            .collect();
        assert_eq!(
            first,
            [
                (days(29), "root of group secure"),
                (days(40), "signatures of group secure")
            ]
        );
        assert!(all[0].is_soon(now) && !all[1].is_soon(now));
        assert!(all[1].is_soon(days(11)) && all[1].is_soon(days(400)));
        let leaf = all.iter().find(|e| e.what == "certificate admin").unwrap();
        assert_eq!(leaf.at, now + LEAF_LIFE);
    }
}
