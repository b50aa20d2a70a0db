//! A short-lived kubeconfig for an operator: its certificate is issued when it is asked for, from the keyring's authority.

mod document;
mod merge;
mod place;

use jiff::{SignedDuration, Timestamp};
use shared::documents::{AuthorityName, Pki};
use shared::secret::SecretText;

pub use document::Kubeconfig;
pub use merge::{MergeError, Merged, merge};
pub use place::{merge_target, write};

use crate::pki::{Names, PkiError, issue_for, specs};

/// How long it is good for by default.
pub const DEFAULT_LIFETIME: SignedDuration = SignedDuration::from_hours(12);
/// The shortest life that is of use.
pub const SHORTEST: SignedDuration = SignedDuration::from_mins(5);
/// The longest: what is issued so cannot be called back but by rotating the authority.
pub const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 7);

/// The certificate in the keyring of which this is a short-lived likeness.
const LIKE: &str = "admin";

/// Issues a client certificate of the cluster's administrators, good for `lifetime` from `now`, and puts it into a
/// kubeconfig of the environment's public API name.
///
/// # Errors
/// A keyring that was not completed or is damaged.
pub fn issue_admin(
    pki: &Pki,
    names: &Names,
    lifetime: SignedDuration,
    now: Timestamp,
) -> Result<Kubeconfig, PkiError> {
    let missing = |what: &str| PkiError::Missing(what.to_owned());
    let mut all = specs(names).into_iter();
    let spec = all
        .find(|spec| spec.name == LIKE)
        .ok_or_else(|| missing("certificate admin"))?;
    let authority = pki
        .authorities
        .get(&AuthorityName::Cluster)
        .ok_or_else(|| missing("cluster authority"))?;
    let certified = issue_for(&spec, authority.issuer(), now, lifetime)?;
    let ends = crate::pki::inspect(&certified.certificate).map_or(now, |facts| facts.not_after);
    Ok(Kubeconfig {
        name: names.environment.clone(),
        server: names.public_api_url(),
        authority: authority.trust_bundle(),
        certificate: certified.certificate,
        key: SecretText::new(certified.key.expose().to_owned()),
        ends,
    })
}

/// Reads a lifetime such as `12h`, `90m` or `2d`.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_lifetime(text: &str) -> Result<SignedDuration, String> {
    let lifetime: SignedDuration = text
        .parse()
        .or_else(|_| days(text).ok_or(()))
        .map_err(|()| format!("{text} is no duration: write it like 12h, 90m or 2d"))?;
    if (SHORTEST..=LONGEST).contains(&lifetime) {
        Ok(lifetime)
    } else {
        Err(format!("{text} is not between 5m and 7d"))
    }
}

fn days(text: &str) -> Option<SignedDuration> {
    let days: i64 = text.strip_suffix('d')?.parse().ok()?;
    Some(SignedDuration::from_hours(days.checked_mul(24)?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pki::{complete, inspect};
    use crate::testing::environment;

    pub(crate) fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    pub(crate) fn issued() -> Kubeconfig {
        let names = Names::of(&environment(""));
        let mut pki = None;
        complete(&mut pki, &names, now()).unwrap();
        issue_admin(&pki.unwrap(), &names, DEFAULT_LIFETIME, now()).unwrap()
    }

    #[test]
    fn it_is_the_administrators_and_ends_soon() {
        let issued = issued();
        let facts = inspect(&issued.certificate).unwrap();
        assert_eq!(facts.organization.as_deref(), Some("system:masters"));
        assert_eq!(facts.not_after, now() + DEFAULT_LIFETIME);
        assert_eq!(facts.sides, (false, true));
        assert_eq!(issued.server, "https://kube.example.com:6443");
        assert!(!format!("{issued:?}").contains("PRIVATE"));
    }

    #[test]
    fn lifetimes() {
        assert_eq!(parse_lifetime("12h"), Ok(DEFAULT_LIFETIME));
        assert_eq!(parse_lifetime("2d"), Ok(SignedDuration::from_hours(48)));
        assert_eq!(parse_lifetime("90m"), Ok(SignedDuration::from_mins(90)));
        for bad in ["", "12", "1m", "8d", "-1h", "soon", "99999999999999999d"] {
            assert!(parse_lifetime(bad).is_err(), "{bad}");
        }
    }
}
