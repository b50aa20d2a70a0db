//! Reading a certificate back, to see whether it still is what is wanted.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use shared::documents::{Authority, Certified};
use shared::trust::sign::is_due;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::x509::X509Name;

use super::leaf::LeafSpec;

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// From when on it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// The subject's common name.
    pub common_name: String,
    /// The subject's organisation.
    pub organization: Option<String>,
    /// The issuer's common name.
    pub issuer: String,
    /// The DNS names it is for.
    pub dns_names: BTreeSet<String>,
    /// The addresses it is for.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether it may serve, and whether it may come as a client.
    pub sides: (bool, bool),
    /// The identifier of its own key.
    pub key_identifier: Vec<u8>,
    /// The identifier of the key that signed it.
    pub issuer_key_identifier: Vec<u8>,
}

/// Why a certificate is made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stale {
    /// It does not parse.
    Damaged,
    /// Under a third of its life is left.
    Due {
        /// When it ends.
        not_after: Timestamp,
    },
    /// It is for another subject, other names, or another use.
    Other,
    /// Its authority is not the one that issues now.
    Issuer,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("it was damaged"),
            Self::Due { not_after } => {
                write!(
                    f,
                    "under a third of its life was left, until {not_after:.0}"
                )
            }
            Self::Other => f.write_str("the environment wants other names in it"),
            Self::Issuer => f.write_str("another authority issues now"),
        }
    }
}

/// Why a leaf must be made again; none where it is what `spec` wants, from `authority`, with a third of its life left.
#[must_use]
pub fn stale(
    leaf: &Certified,
    spec: &LeafSpec,
    authority: &Authority,
    now: Timestamp,
) -> Option<Stale> {
    let (Some(facts), Some(issuer)) = (inspect(&leaf.certificate), inspect(&authority.certificate))
    else {
        return Some(Stale::Damaged);
    };
    if facts.issuer != authority.name || facts.issuer_key_identifier != issuer.key_identifier {
        return Some(Stale::Issuer);
    }
    let as_wanted = facts.common_name == spec.common_name
        && facts.organization == spec.organization
        && facts.dns_names == spec.dns_names
        && facts.addresses == spec.addresses
        && facts.sides == spec.usage.sides();
    if !as_wanted {
        return Some(Stale::Other);
    }
    let not_after = facts.not_after;
    // One that ends with its authority cannot be had any longer by making it again.
    let can_live_longer = not_after < issuer.not_after;
    let life = not_after.duration_since(facts.not_before);
    (can_live_longer && is_due(not_after, now, life)).then_some(Stale::Due { not_after })
}

/// Reads the first certificate of a PEM text; none where it does not parse.
#[must_use]
pub fn inspect(pem: &str) -> Option<CertificateFacts> {
    let (_, block) = parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = block.parse_x509().ok()?;
    let validity = certificate.validity();
    let mut facts = CertificateFacts {
        not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
        not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        common_name: common_name(certificate.subject())?,
        organization: organization(certificate.subject()),
        issuer: common_name(certificate.issuer())?,
        dns_names: BTreeSet::new(),
        addresses: BTreeSet::new(),
        sides: (false, false),
        key_identifier: Vec::new(),
        issuer_key_identifier: Vec::new(),
    };
    facts.read_extensions(&certificate);
    Some(facts)
}

impl CertificateFacts {
    fn read_extensions(&mut self, certificate: &X509Certificate<'_>) {
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        match name {
                            GeneralName::DNSName(dns) => {
                                self.dns_names.insert((*dns).to_owned());
                            }
                            GeneralName::IPAddress(bytes) => self.addresses.extend(address(bytes)),
                            _ => {}
                        }
                    }
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    self.sides = (usage.server_auth, usage.client_auth);
                }
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    self.key_identifier = id.0.to_vec();
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    let id = id.key_identifier.as_ref();
                    self.issuer_key_identifier = id.map(|id| id.0.to_vec()).unwrap_or_default();
                }
                _ => {}
            }
        }
    }
}

fn common_name(name: &X509Name<'_>) -> Option<String> {
    let first = name.iter_common_name().next()?;
    first.as_str().ok().map(str::to_owned)
}

fn organization(name: &X509Name<'_>) -> Option<String> {
    let first = name.iter_organization().next()?;
    first.as_str().ok().map(str::to_owned)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::*;
    use shared::documents::AuthorityName;

    use super::super::leaf::tests::names;
    use super::super::{LEAF_LIFE, issue, new_authority, specs};
    use super::*;

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    fn etcd(generation: u32) -> Authority {
        new_authority("dev", AuthorityName::Etcd, generation, now()).unwrap()
    }

    fn spec(name: &str) -> LeafSpec {
        let mut all = specs(&names()).into_iter();
        all.find(|s| s.name == name).unwrap()
    }

    #[test]
    fn what_was_issued_reads_as_it_was_wanted() {
        let authority = etcd(1);
        for spec in specs(&names()) {
            let leaf = issue(&spec, &authority, now()).unwrap();
            let facts = inspect(&leaf.certificate).unwrap();
            assert_eq!(facts.dns_names, spec.dns_names);
            assert_eq!(facts.addresses, spec.addresses);
            assert_eq!(facts.issuer, "dev etcd CA 1");
            assert_eq!(
                stale(&leaf, &spec, &authority, now()),
                None,
                "{}",
                spec.name
            );
        }
    }

    #[test]
    fn anything_that_is_wanted_otherwise_makes_it_stale() {
        let (spec, authority) = (spec("etcd-server"), etcd(1));
        let leaf = issue(&spec, &authority, now()).unwrap();
        let changes: [fn(&mut LeafSpec); 5] = [
            |s| s.common_name.push('x'),
            |s| s.organization = Some("o".to_owned()),
            |s| s.dns_names.extend(["more.example.com".to_owned()]),
            |s| s.addresses.clear(),
            |s| s.usage = super::super::Usage::Server,
        ];
        for change in changes {
            let mut other = spec.clone();
            change(&mut other);
            assert_eq!(
                stale(&leaf, &other, &authority, now()),
                Some(Stale::Other),
                "{other:?}"
            );
        }
        assert_eq!(stale(&leaf, &spec, &etcd(2), now()), Some(Stale::Issuer));
        // The same name on another key.
        assert_eq!(stale(&leaf, &spec, &etcd(1), now()), Some(Stale::Issuer));
        let damaged = Certified {
            certificate: leaf.certificate.replace("MI", "!!"),
            ..leaf
        };
        assert_eq!(
            stale(&damaged, &spec, &authority, now()),
            Some(Stale::Damaged)
        );
    }

    #[test]
    fn no_leaf_outlives_its_authority_and_one_that_ends_with_it_is_left() {
        let (spec, authority) = (spec("etcd-client"), etcd(1));
        let late = now() + super::super::AUTHORITY_LIFE - SignedDuration::from_hours(24 * 30);
        let leaf = issue(&spec, &authority, late).unwrap();
        let end = inspect(&authority.certificate).unwrap().not_after;
        assert_eq!(inspect(&leaf.certificate).unwrap().not_after, end);
        let nearly = end - SignedDuration::from_hours(1);
        assert_eq!(stale(&leaf, &spec, &authority, nearly), None);
    }

    proptest! {
        /// Renewed exactly when under a third of its life is left, whenever it was made and looked at.
        #[test]
        fn a_third_of_life_is_the_line(made in 0i64..100_000_000, seconds in 0i64..40_000_000) {
            let made = now() + SignedDuration::from_secs(made);
            let (spec, authority) = (spec("etcd-client"), etcd(1));
            let leaf = issue(&spec, &authority, made).unwrap();
            let facts = inspect(&leaf.certificate).unwrap();
            prop_assert_eq!(facts.not_after.duration_since(made), LEAF_LIFE);
            prop_assert_eq!(made.duration_since(facts.not_before), SignedDuration::from_hours(1));
            let at = made + SignedDuration::from_secs(seconds);
            let left = facts.not_after.duration_since(at).as_secs();
            let life = facts.not_after.duration_since(facts.not_before).as_secs();
            let due = stale(&leaf, &spec, &authority, at).is_some();
            prop_assert_eq!(due, left < life / 3, "{} of {}", left, life);
        }
    }
}
