//! IPv4 networks. The platform's network is IPv4 only.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network in CIDR notation; a single address is a `/32`. No bit below the prefix is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    /// The first address.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// How many leading bits all addresses share: 0 to 32.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The `n`th address from the network's own (0); none when that lies outside. Kubernetes gives the 1st of the
    /// service network to `kubernetes.default`, and by custom the 10th is the cluster's DNS.
    pub fn nth(&self, n: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from(u32::from(self.network).checked_add(n)?);
        self.contains(address).then_some(address)
    }

    /// Whether the address lies inside.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.network)
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Why a text is no [`Cidr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// The part before the slash is no IPv4 address.
    #[error("is not an IPv4 address or CIDR block")]
    Address,
    /// It is IPv6.
    #[error("is IPv6; the platform's network is IPv4 only")]
    Ipv6,
    /// The part after the slash is not 0 to 32.
    #[error("has a prefix length that is not 0 to 32")]
    Prefix,
    /// Bits below the prefix are set, so it is unclear what was meant.
    #[error("has bits set below its prefix; the network is {0}")]
    HostBits(Cidr),
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(a, p)| (a, Some(p)));
        if address.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(CidrError::Ipv6);
        }
        let address: Ipv4Addr = address.parse().map_err(|_| CidrError::Address)?;
        let prefix = match prefix {
            None => 32,
            Some(digits) if digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits
                    .parse()
                    .ok()
                    .filter(|bits| *bits <= 32)
                    .ok_or(CidrError::Prefix)?
            }
            Some(_) => return Err(CidrError::Prefix),
        };
        let network = Ipv4Addr::from(u32::from(address) & mask(prefix));
        let cidr = Self { network, prefix };
        if network == address {
            Ok(cidr)
        } else {
            Err(CidrError::HostBits(cidr))
        }
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn parses_strictly() {
        assert_eq!(cidr("192.0.2.7").to_string(), "192.0.2.7/32");
        assert_eq!(cidr("0.0.0.0/0").to_string(), "0.0.0.0/0");
        for (text, why) in [
            ("10.0.0.0/33", CidrError::Prefix),
            ("10.0.0.0/", CidrError::Prefix),
            ("10.0.0.0/+8", CidrError::Prefix),
            ("10.0.0/8", CidrError::Address),
            ("10.0.0.256", CidrError::Address),
            ("", CidrError::Address),
            ("2001:db8::/32", CidrError::Ipv6),
            ("10.1.0.0/8", CidrError::HostBits(cidr("10.0.0.0/8"))),
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(why), "{text}");
        }
    }

    #[test]
    fn counts_addresses() {
        assert_eq!(
            cidr("10.101.0.0/16").nth(10),
            Some(Ipv4Addr::new(10, 101, 0, 10))
        );
        assert_eq!(cidr("10.101.0.0/29").nth(10), None);
        assert_eq!(cidr("255.255.255.255").nth(1), None);
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_again(address: u32, prefix in 0u8..=32) {
            let masked = Ipv4Addr::from(address & mask(prefix));
            let network = cidr(&format!("{masked}/{prefix}"));
            prop_assert_eq!(cidr(&network.to_string()), network);
            prop_assert!(network.contains(Ipv4Addr::from(address)));
        }

        #[test]
        fn overlap_is_symmetric_and_means_a_shared_address(a: u32, p in 0u8..=32, b: u32, q in 0u8..=32) {
            let one = Cidr { network: Ipv4Addr::from(a & mask(p)), prefix: p };
            let two = Cidr { network: Ipv4Addr::from(b & mask(q)), prefix: q };
            let shorter = mask(p.min(q));
            prop_assert_eq!(one.overlaps(&two), two.overlaps(&one));
            prop_assert_eq!(one.overlaps(&two), a & shorter == b & shorter);
        }
    }
}
