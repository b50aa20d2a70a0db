//! Names of KMS keys.

use super::{Refused, check_region, digits_only};

pub(super) fn check_kms_key(text: &str) -> Result<(), Refused> {
    let resource = match KmsArn::parse(text) {
        Some(arn) => arn
            .resource
            .strip_prefix("key/")
            .or(Some(arn.resource).filter(|r| r.starts_with("alias/"))),
        None => Some(text).filter(|t| !t.starts_with("arn:") && !t.starts_with("key/")),
    };
    let fits = resource.is_some_and(|resource| match resource.strip_prefix("alias/") {
        Some(alias) => {
            !alias.is_empty()
                && alias
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "/_-".contains(c))
        }
        None => is_key_id(resource),
    });
    if fits {
        Ok(())
    } else {
        Err(Refused::because("is not a KMS key").but("write the key's id, its ARN, or alias/NAME"))
    }
}

/// A UUID, or `mrk-` and 32 hexadecimal digits.
fn is_key_id(text: &str) -> bool {
    let hex = |part: &str| {
        part.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    match text.strip_prefix("mrk-") {
        Some(rest) => rest.len() == 32 && hex(rest),
        None => text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(hex),
    }
}

/// The parts of a KMS ARN that other keys of an environment must agree with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KmsArn<'a> {
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
    resource: &'a str,
}

impl<'a> KmsArn<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let head = (
            parts.next()?,
            parts.next()?.starts_with("aws"),
            parts.next()?,
        );
        let arn = Self {
            region: parts.next()?,
            account: parts.next()?,
            resource: parts.next()?,
        };
        let fits = head == ("arn", true, "kms")
            && check_region(arn.region).is_ok()
            && arn.account.len() == 12
            && digits_only(arn.account);
        fits.then_some(arn)
    }
}
