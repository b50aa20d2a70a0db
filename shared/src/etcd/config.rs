//! etcd's configuration file: the base of the release, and what only the node knows.

use serde_json::{Map, Value, json};

use super::facts::MemberFacts;
use super::memory::Memory;

/// The keys that the agent writes: the base has none of them.
pub const OWNED_KEYS: [&str; 9] = [
    "name",
    "data-dir",
    "listen-peer-urls",
    "listen-client-urls",
    "initial-advertise-peer-urls",
    "advertise-client-urls",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
];

/// Keys that no base may have: with them etcd leaves its cluster, forgets what it acknowledged, finds other members than the
/// fence names, or keeps its log where nobody looks.
pub const HARMFUL_KEYS: [&str; 4] = [
    "force-new-cluster",
    "unsafe-no-fsync",
    "wal-dir",
    "unsafe-overwrite-db",
];
/// How all keys begin by which etcd would find members elsewhere.
const DISCOVERY: &str = "discovery";
/// Without it etcd takes changes of the membership after which it has no quorum.
const STRICT: &str = "strict-reconfig-check";

/// Where a member listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// For its peers: addresses, not names.
    pub peer_url: String,
    /// For clients: loopback and the machine's own address.
    pub client_urls: Vec<String>,
    /// For probes, where it is not what the base says.
    pub metrics_url: Option<String>,
}

/// A base that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigProblem {
    /// It is no YAML.
    #[error("the base of etcd's configuration is no YAML")]
    Yaml(#[source] serde_yaml::Error),
    /// It is no mapping.
    #[error("the base of etcd's configuration is no mapping")]
    Mapping,
    /// It has a key that the agent writes.
    #[error("the base of etcd's configuration has {0}, which only the node knows")]
    Owned(&'static str),
    /// It has a key that may cost the cluster its data.
    #[error(
        "the base of etcd's configuration has {0}, with which a member may lose its data or its cluster"
    )]
    Harmful(String),
    /// It lets etcd take every change of its membership.
    #[error("the base of etcd's configuration has {STRICT} other than true")]
    Careless,
    /// It could not be written as JSON: a bug.
    #[error("etcd's configuration cannot be encoded: this is a bug")]
    Encode(#[source] serde_json::Error),
}

fn mapping(base: &str) -> Result<Map<String, Value>, ConfigProblem> {
    match serde_yaml::from_str(base).map_err(ConfigProblem::Yaml)? {
        Value::Object(map) => Ok(map),
        _ => Err(ConfigProblem::Mapping),
    }
}

/// Everything that is wrong with a base.
#[must_use]
pub fn base_problems(base: &str) -> Vec<ConfigProblem> {
    match mapping(base) {
        Ok(map) => {
            let owned = OWNED_KEYS.into_iter().filter(|key| map.contains_key(*key));
            let harmful = map
                .keys()
                .filter(|key| HARMFUL_KEYS.contains(&key.as_str()) || key.starts_with(DISCOVERY));
            let careless = map.get(STRICT).is_some_and(|value| *value != json!(true));
            owned
                .map(ConfigProblem::Owned)
                .chain(harmful.cloned().map(ConfigProblem::Harmful))
                .chain(careless.then_some(ConfigProblem::Careless))
                .collect()
        }
        Err(problem) => vec![problem],
    }
}

/// The file: a line with what the node remembers, then JSON, which is YAML. `data` is where etcd finds its data.
///
/// # Errors
/// [`ConfigProblem`] of the base.
pub fn render_config(
    base: &str,
    own: &MemberFacts,
    listen: &Listen,
    token: &str,
    data: &str,
    memory: &Memory,
) -> Result<String, ConfigProblem> {
    if let Some(problem) = base_problems(base).into_iter().next() {
        return Err(problem);
    }
    let mut map = mapping(base)?;
    let initial: Vec<String> = memory
        .initial
        .iter()
        .map(|m| format!("{}={}", m.name, m.peer_url))
        .collect();
    let owned: [&str; 9] = [
        &own.name,
        data,
        &listen.peer_url,
        &listen.client_urls.join(","),
        &own.peer_url,
        &own.client_url,
        &initial.join(","),
        memory.state(),
        token,
    ];
    for (key, value) in OWNED_KEYS.into_iter().zip(owned) {
        map.insert(key.to_owned(), json!(value));
    }
    map.insert(STRICT.to_owned(), json!(true));
    if let Some(url) = &listen.metrics_url {
        map.insert("listen-metrics-urls".to_owned(), json!(url));
    }
    let body = serde_json::to_string_pretty(&map).map_err(ConfigProblem::Encode)?;
    let line = memory.line().map_err(ConfigProblem::Encode)?;
    Ok(format!("{line}{body}\n"))
}

#[cfg(test)]
mod tests {
    use super::super::facts::Generation;
    use super::super::memory::remembered;
    use super::super::step::testing::member;
    use super::*;

    #[test]
    fn a_sealed_file_names_nobody_but_the_node() {
        let own = member(1);
        let listen = Listen {
            peer_url: "https://10.0.0.1:2380".to_owned(),
            client_urls: vec![
                "https://127.0.0.1:2379".to_owned(),
                "https://10.0.0.1:2379".to_owned(),
            ],
            metrics_url: None,
        };
        let memory = Memory::sealed(Generation::FIRST, &own);
        let base = "listen-metrics-urls: http://127.0.0.1:2381\nsnapshot-count: 10000\n";
        let text = render_config(base, &own, &listen, "dev-1", "/var/lib/etcd/1", &memory).unwrap();
        assert_eq!(remembered(&text), Some(memory));
        let read: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(read["initial-cluster"], "n1=https://n1:2380");
        assert_eq!(read["initial-cluster-state"], "existing");
        assert_eq!(
            read["listen-client-urls"],
            "https://127.0.0.1:2379,https://10.0.0.1:2379"
        );
        assert_eq!(read["snapshot-count"], 10_000);
        assert_eq!(
            read["strict-reconfig-check"], true,
            "whatever the base says"
        );
        for harmful in [
            "force-new-cluster: true",
            "unsafe-no-fsync: true",
            "wal-dir: /var/lib/etcd/wal",
            "discovery: https://discovery.etcd.io/x",
            "discovery-srv: example.com",
            "strict-reconfig-check: false",
            "strict-reconfig-check: \"no\"",
        ] {
            assert_eq!(base_problems(harmful).len(), 1, "{harmful}");
        }
        assert!(base_problems("strict-reconfig-check: true").is_empty());
        for owned in OWNED_KEYS {
            assert_eq!(base_problems(&format!("{owned}: x\n")).len(), 1, "{owned}");
        }
        assert_eq!(base_problems("[]").len(), 1);
        assert_eq!(base_problems("a: [").len(), 1);
    }
}
