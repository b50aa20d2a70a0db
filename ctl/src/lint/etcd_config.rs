//! The keys of etcd's configuration file: etcd passes over one that it does not know, and a default is in force in its place.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use shared::check::yaml::join_key;

use super::fields::nearest;
use super::{Finding, Severity};

const LIST: &str = include_str!("fields/etcd.txt");
/// The sections that the list has keys of.
const SECTIONS: [&str; 2] = ["client-transport-security", "peer-transport-security"];

/// Checks a file that etcd's configuration is made from.
pub(super) fn check(file: &Value) -> Vec<Finding> {
    let Some(map) = file.as_object() else {
        return Vec::new();
    };
    let (top, below) = lists();
    let mut findings = unknown(map, &top, "");
    for section in SECTIONS {
        if let Some(keys) = map.get(section).and_then(Value::as_object) {
            findings.extend(unknown(keys, &below, section));
        }
    }
    findings
}

fn unknown(map: &Map<String, Value>, known: &BTreeSet<&str>, at: &str) -> Vec<Finding> {
    let unknown = map
        .keys()
        .filter(|key| !known.contains(key.as_str()) && !key.starts_with("experimental-"));
    unknown
        .map(|key| {
            let message =
                "is not among the keys of etcd's configuration file that platformctl knows: etcd would pass over it"
                    .to_owned();
            let help = nearest(key, known.iter().copied());
            Finding::in_field(Severity::Warning, &join_key(at, key), message, help)
        })
        .collect()
}

/// The keys of the file, and those of its sections.
fn lists() -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
    let lines = LIST.lines().filter(|line| {
        let is_text = line.starts_with('#') || line.ends_with(':') || line.is_empty();
        !is_text
    });
    let (below, top): (Vec<_>, Vec<_>) = lines.partition(|line| line.starts_with("  "));
    let below = below.into_iter().map(str::trim_start);
    (top.into_iter().collect(), below.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_that_etcd_would_pass_over_is_told_with_its_place() {
        let good = json!({
            "quota-backend-bytes": 1, "experimental-x": 1,
            "client-transport-security": {"cert-file": "x"}, "peer-transport-security": {"client-cert-auth": true},
        });
        assert!(check(&good).is_empty());
        let bad = json!({
            "quota-backend-byte": 1, "cert-file": "it belongs below",
            "client-transport-security": {"cert-fil": "x"}, "peer-transport-security": {"quota-backend-bytes": 1},
        });
        let found = check(&bad).into_iter();
        let helps: std::collections::BTreeMap<_, _> =
            found.map(|f| (f.path.unwrap(), f.help)).collect();
        let paths: Vec<&str> = helps.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "cert-file",
                "client-transport-security.cert-fil",
                "peer-transport-security.quota-backend-bytes",
                "quota-backend-byte",
            ]
        );
        assert_eq!(
            helps["quota-backend-byte"].as_deref(),
            Some("did you mean quota-backend-bytes?")
        );
        let (top, below) = lists();
        assert_eq!((top.len() > 60, below.len()), (true, 10));
        // What the agent adds is in the list too.
        assert!(shared::etcd::OWNED_KEYS.iter().all(|key| top.contains(key)));
    }
}
