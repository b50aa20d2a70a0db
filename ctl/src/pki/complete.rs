//! Bringing a keyring's PKI up to date: what is missing is made, what is due is made again, nothing else is touched.

use std::collections::BTreeMap;

use jiff::Timestamp;
use shared::documents::{AtRest, AuthorityName, Pki, Rotating};

use super::{
    Names, PkiError, issue, new_authority, new_bootstrap_token, new_encryption_key, new_key_pair,
    new_ssh_key, specs, stale,
};

/// Makes what `pki` lacks and what is due at `now`. Gives a line for each thing it made, for people to read; none where
/// nothing was to be done. Leaves that this build does not know are left alone: a newer one put them there.
///
/// # Errors
/// What could not be made; `pki` may then be half done, and must not be kept.
pub fn complete(
    pki: &mut Option<Pki>,
    names: &Names,
    now: Timestamp,
) -> Result<Vec<String>, PkiError> {
    let mut made = Vec::new();
    let pki = match pki {
        Some(pki) => pki,
        none => {
            made.push("made the cluster's PKI, tokens and keys".to_owned());
            none.insert(Pki {
                authorities: BTreeMap::new(),
                leaves: BTreeMap::new(),
                service_accounts: Rotating::new(new_key_pair()?),
                encryption: Rotating::new(new_encryption_key()),
                at_rest: AtRest::default(),
                bootstrap: Rotating::new(new_bootstrap_token()),
                ssh: new_ssh_key(&format!("platform-{}", names.environment))?,
                rotations: BTreeMap::new(),
            })
        }
    };
    let is_first = !made.is_empty();
    for name in AuthorityName::ALL {
        if pki.authorities.contains_key(&name) {
            continue;
        }
        let authority = new_authority(&names.environment, name, 1, now)?;
        if !is_first {
            made.push(format!("made the authority {}", authority.name));
        }
        pki.authorities.insert(name, Rotating::new(authority));
    }
    for spec in specs(names) {
        let authority = pki
            .authorities
            .get(&spec.authority)
            .ok_or_else(|| PkiError::Missing(format!("{} authority", spec.authority)))?
            .issuer();
        let why = match pki.leaves.get(spec.name) {
            Some(leaf) => match stale(leaf, &spec, authority, now) {
                Some(stale) => format!("made the certificate {} again: {stale}", spec.name),
                None => continue,
            },
            None => format!("made the certificate {}", spec.name),
        };
        let leaf = issue(&spec, authority, now)?;
        if !is_first {
            made.push(why);
        }
        pki.leaves.insert(spec.name.to_owned(), leaf);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::leaf::tests::names;
    use super::super::{LEAF_LIFE, inspect, next_generation};
    use super::*;

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    fn fresh() -> Pki {
        let mut pki = None;
        assert_eq!(complete(&mut pki, &names(), now()).unwrap().len(), 1);
        pki.unwrap()
    }

    /// What completing again changes, by name of the leaf.
    fn again(before: &Pki, names: &Names, at: Timestamp) -> (Vec<String>, Vec<String>, Pki) {
        let mut after = Some(before.clone());
        let said = complete(&mut after, names, at).unwrap();
        let after = after.unwrap();
        let changed = after
            .leaves
            .iter()
            .filter(|(name, leaf)| before.leaves.get(*name) != Some(leaf));
        let changed = changed.map(|(name, _)| name.clone()).collect();
        (said, changed, after)
    }

    #[test]
    fn what_is_there_and_not_due_is_left_to_the_byte() {
        let pki = fresh();
        for days in [0, 100, 240] {
            let at = now() + SignedDuration::from_hours(24 * days);
            let (said, _, after) = again(&pki, &names(), at);
            assert!(said.is_empty(), "{said:?}");
            assert_eq!(after, pki);
        }
    }

    #[test]
    fn leaves_renew_and_nothing_beside_them() {
        let pki = fresh();
        let late = now() + LEAF_LIFE - SignedDuration::from_hours(24 * 100);
        let (said, changed, after) = again(&pki, &names(), late);
        assert_eq!(changed.len(), pki.leaves.len());
        assert_eq!(said.len(), changed.len());
        assert!(said.iter().all(|s| s.contains("a third")), "{said:?}");
        assert_eq!(after.authorities, pki.authorities);
        assert_eq!(after.service_accounts, pki.service_accounts);
        assert_eq!(
            (after.encryption, after.bootstrap, after.ssh),
            (pki.encryption, pki.bootstrap, pki.ssh)
        );
    }

    #[test]
    fn another_zone_remakes_what_names_it_and_a_promoted_authority_what_it_issued() {
        let pki = fresh();
        let mut other = names();
        other.zone = "example.org".to_owned();
        assert_eq!(again(&pki, &other, now()).1, ["apiserver"]);

        let mut rotated = pki.clone();
        let front = rotated
            .authorities
            .get_mut(&AuthorityName::FrontProxy)
            .unwrap();
        let generation = next_generation(front.trusted());
        assert_eq!(generation, 2);
        front
            .stage(new_authority("dev", AuthorityName::FrontProxy, generation, now()).unwrap())
            .unwrap();
        assert!(again(&rotated, &names(), now()).0.is_empty());
        rotated
            .authorities
            .get_mut(&AuthorityName::FrontProxy)
            .unwrap()
            .promote()
            .unwrap();
        let (_, changed, after) = again(&rotated, &names(), now());
        assert_eq!(changed, ["front-proxy-client"]);
        let leaf = after.leaves.get("front-proxy-client").unwrap();
        let facts = inspect(&leaf.certificate).unwrap();
        assert_eq!(facts.issuer, "dev front-proxy CA 2");
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_unknown_is_kept() {
        let mut pki = fresh();
        pki.leaves.remove("admin");
        let known = pki.leaves.get("addons").unwrap().clone();
        pki.leaves.insert("of-a-newer-build".to_owned(), known);
        let (said, changed, after) = again(&pki, &names(), now());
        assert_eq!(said, ["made the certificate admin"]);
        assert_eq!(changed, ["admin"]);
        assert!(after.leaves.contains_key("of-a-newer-build"));
    }
}
