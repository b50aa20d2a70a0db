//! The values of an environment, each in a type that can only hold a valid one.

use std::fmt;
use std::str::FromStr;

mod kms;
mod recipient;
mod versions;

#[cfg(test)]
mod tests;

pub(crate) use kms::KmsArn;
use kms::check_kms_key;
use recipient::check_recipient;
use versions::{check_etcd, check_kubernetes};

/// Why a value was refused: what is wrong with it, and what to do where that is not obvious.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Reads on after the value: "is not a bucket name: …".
    pub reason: String,
    /// Advice.
    pub help: Option<String>,
}

impl Refused {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            help: None,
        }
    }

    fn but(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Text types whose only way in is a check.
macro_rules! checked {
    ($($(#[$doc:meta])* $name:ident by $check:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Refused;

            fn from_str(text: &str) -> Result<Self, Refused> {
                $check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

checked! {
    /// The name of an environment or platform: 1 to 24 lower-case letters, digits and single hyphens, from a letter.
    /// It becomes part of names of load balancers, which AWS ends at 32 characters.
    Name by check_name;
    /// An AWS region, like `eu-west-1`.
    Region by check_region;
    /// An availability zone: a region and a letter from a to h, like `eu-west-1a`.
    Zone by check_zone;
    /// An AWS account: 12 digits, or an alias.
    Account by check_account;
    /// A name in the AWS configuration's list of profiles.
    Profile by check_profile;
    /// An S3 bucket's name, by S3's rules for general purpose buckets.
    BucketName by check_bucket;
    /// A KMS key: its id, its ARN, an `alias/NAME`, or an alias's ARN.
    KmsKeyId by check_kms_key;
    /// An EC2 instance type, like `t3.medium`.
    InstanceType by check_instance_type;
    /// A machine image: `ami-…`, or an image's name.
    MachineImage by check_image;
    /// A lower-case DNS name of two labels or more, without the final dot.
    DnsName by check_dns_name;
    /// A Kubernetes version of the supported minor, without the `v`.
    KubernetesVersion by check_kubernetes;
    /// An etcd version as the tag of its image, like `3.6.8-0`; at least 3.5.24, the oldest that Kubernetes 1.36 accepts.
    EtcdVersion by check_etcd;
    /// An age X25519 recipient, `age1…`.
    RecoveryRecipient by check_recipient;
}

fn lower_or_digit(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn digits_only(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A DNS label: letters, digits and inner hyphens, at most 63.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.chars().all(|c| lower_or_digit(c) || c == '-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn check_name(text: &str) -> Result<(), Refused> {
    let fits = is_label(text)
        && text.len() <= 24
        && !text.contains("--")
        && text.starts_with(|c: char| c.is_ascii_lowercase());
    if fits {
        Ok(())
    } else {
        Err(Refused::because(
            "is not a name: 1 to 24 lower-case letters, digits and single hyphens, from a letter",
        ))
    }
}

/// Splits `eu-west-1` from what follows it; an availability zone has a letter there.
fn region_and_rest(text: &str) -> Option<(&str, &str)> {
    let (words, last) = text.rsplit_once('-')?;
    let number = last.bytes().take_while(u8::is_ascii_digit).count();
    let mut parts = words.split('-');
    let place = parts
        .next()
        .is_some_and(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_lowercase()));
    let rest: Vec<_> = parts.collect();
    let words_fit = !rest.is_empty()
        && rest
            .iter()
            .all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase()));
    ((1..=2).contains(&number) && place && words_fit)
        .then(|| text.split_at(text.len() - (last.len() - number)))
}

fn check_region(text: &str) -> Result<(), Refused> {
    match region_and_rest(text) {
        Some((_, "")) => Ok(()),
        Some((region, zone)) if zone.len() == 1 && zone.bytes().all(|b| b.is_ascii_lowercase()) => {
            Err(Refused::because("is an availability zone, not a region")
                .but(format!("its region is `{region}`")))
        }
        _ => Err(Refused::because("is not an AWS region").but("a region looks like eu-west-1")),
    }
}

fn check_account(text: &str) -> Result<(), Refused> {
    let id = digits_only(text) && text.len() == 12;
    let alias = is_label(text) && text.len() >= 3 && !text.contains("--") && !digits_only(text);
    if id || alias {
        Ok(())
    } else {
        Err(Refused::because(
            "is neither 12 digits nor an account alias",
        ))
    }
}

fn check_profile(text: &str) -> Result<(), Refused> {
    let fits = !text.is_empty()
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "[]'\"".contains(c));
    if fits {
        Ok(())
    } else {
        Err(Refused::because("is not a profile's name")
            .but("leave the key out to use the AWS SDK's own order"))
    }
}

fn check_bucket(text: &str) -> Result<(), Refused> {
    let why = if !(3..=63).contains(&text.len()) {
        "it must have 3 to 63 characters".to_owned()
    } else if !text
        .chars()
        .all(|c| lower_or_digit(c) || c == '-' || c == '.')
    {
        "only lower-case letters, digits, hyphens and dots".to_owned()
    } else if !text.starts_with(lower_or_digit) || !text.ends_with(lower_or_digit) {
        "it must start and end with a letter or digit".to_owned()
    } else if text.contains("..") {
        "it has two dots in a row".to_owned()
    } else if text.parse::<std::net::Ipv4Addr>().is_ok() {
        "it looks like an IP address".to_owned()
    } else if let Some(prefix) = ["xn--", "sthree-", "amzn-s3-demo-"]
        .into_iter()
        .find(|p| text.starts_with(p))
    {
        format!("S3 keeps the prefix `{prefix}` for itself")
    } else if let Some(suffix) = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"]
        .into_iter()
        .find(|s| text.ends_with(s))
    {
        format!("S3 keeps the suffix `{suffix}` for itself")
    } else {
        return Ok(());
    };
    Err(Refused::because(format!("is not a bucket name: {why}")))
}

fn check_zone(text: &str) -> Result<(), Refused> {
    let region = text.strip_suffix(|letter: char| ('a'..='h').contains(&letter));
    if region.is_some_and(|region| check_region(region).is_ok()) {
        Ok(())
    } else {
        Err(Refused::because("is not an availability zone").but("a zone looks like eu-west-1a"))
    }
}

fn check_instance_type(text: &str) -> Result<(), Refused> {
    let fits = text.split_once('.').is_some_and(|(family, size)| {
        is_label(family) && is_label(size) && family.starts_with(|c: char| c.is_ascii_lowercase())
    });
    if fits {
        Ok(())
    } else {
        Err(Refused::because("is not an instance type")
            .but("an instance type looks like t3.medium"))
    }
}

fn check_image(text: &str) -> Result<(), Refused> {
    if let Some(id) = text.strip_prefix("ami-") {
        let fits = [8, 17].contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        return if fits {
            Ok(())
        } else {
            Err(Refused::because(
                "is not an image id: ami- and 8 or 17 hexadecimal digits",
            ))
        };
    }
    let fits = (3..=128).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "()[] ./-'@_".contains(c));
    if fits {
        Ok(())
    } else {
        Err(Refused::because(
            "is neither an image id (ami-…) nor an image's name",
        ))
    }
}

fn check_dns_name(text: &str) -> Result<(), Refused> {
    let refused = Refused::because("is not a DNS name of two labels or more");
    if text.ends_with('.') {
        return Err(refused.but("leave the final dot out"));
    }
    if text.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(refused.but("write it in lower case"));
    }
    let fits = text.len() <= 253 && text.contains('.') && text.split('.').all(is_label);
    if fits { Ok(()) } else { Err(refused) }
}
