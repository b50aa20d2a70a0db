//! `GROUP/rollout.yaml`: how a group's releases are rolled out.

use std::time::Duration;

use serde_json::{Map, Value};
use shared::bundle::{MachineTimes, MaxUnavailable, Probe, ProbeCheck, RolloutPolicy, TimeSpan};
use shared::check::yaml::{YamlProblem, parse_document};
use shared::names::EntryPath;

use super::RenderFailure;
use super::node_file::{Reader, field};

/// The deadline where the file says none: longer than the grace period, the pull of images and the start of an API server.
const DEADLINE: TimeSpan = TimeSpan::from_secs(15 * 60);
/// The settle time where the file says none: longer than kubelet takes to look at its directory (20 s).
const SETTLE: TimeSpan = TimeSpan::from_secs(30);
/// Period and timeout of a probe where the file says none.
const PERIOD: TimeSpan = TimeSpan::from_secs(5);
/// Failures in a row where the file says none: six minutes. An API server has a minute to end in, takes 41 seconds to be ready
/// again, and its image may have to be pulled first.
const FAILURES: u32 = 72;
/// From the end of a static pod until its heir is ready, measured for an API server (41 s), and a bit.
const START: Duration = Duration::from_secs(60);
/// The pull of an image of 150 MB over 10 Mbit/s, and a bit.
const PULL: Duration = Duration::from_secs(180);

const KINDS: [&str; 4] = ["http", "tcp", "file", "kubelet"];

/// Reads the text of `file`; none where it says nothing.
///
/// # Errors
/// Every field that is unknown, missing or of the wrong form.
pub fn parse_rollout(file: &str, text: &str) -> Result<Option<RolloutPolicy>, Vec<RenderFailure>> {
    if super::addons::documents(text).is_empty() {
        return Ok(None);
    }
    let value = parse_document(text.as_bytes()).map_err(|problems| {
        let failure = |p: YamlProblem| RenderFailure {
            file: file.to_owned(),
            line: p.line,
            path: p.path,
            message: p.message,
            help: None,
        };
        problems.into_iter().map(failure).collect::<Vec<_>>()
    })?;
    let mut reader = Reader {
        file,
        failures: Vec::new(),
    };
    let policy = policy(&mut reader, &value);
    match policy {
        Some(policy) if reader.failures.is_empty() => Ok(Some(policy)),
        _ => Err(reader.failures),
    }
}

/// What is wrong with a policy beside its form. `most` is the number of nodes that may be away at once, where the group's
/// kind says so.
#[must_use]
pub fn rollout_problems<'a>(
    file: &str,
    policy: &RolloutPolicy,
    files: impl Iterator<Item = &'a EntryPath> + Clone,
    most: Option<(u32, u32)>,
) -> Vec<RenderFailure> {
    let mut problems = policy.problems(|path| files.clone().any(|f| f == path));
    if let Some((most, members)) = most {
        // A share is published as a number that is small enough.
        if let MaxUnavailable::Nodes(wanted) = policy.max_unavailable
            && wanted > most
        {
            problems.push((
                "max_unavailable".to_owned(),
                format!(
                    "is {wanted}, but of {members} etcd members only {most} may be away at once"
                ),
            ));
        }
    }
    let failure = |(path, message)| RenderFailure {
        file: file.to_owned(),
        line: None,
        path: Some(path),
        message,
        help: None,
    };
    problems.into_iter().map(failure).collect()
}

/// What of a policy's times does not go together on machines whose pods have at most `longest_grace` to end in.
#[must_use]
pub fn timing_problems(
    file: &str,
    policy: &RolloutPolicy,
    longest_grace: Duration,
) -> Vec<RenderFailure> {
    let machine = MachineTimes {
        longest_grace,
        start: START,
        pull: PULL,
    };
    let failure = |(path, message)| RenderFailure {
        file: file.to_owned(),
        line: None,
        path: Some(path),
        message,
        help: None,
    };
    let found = policy.timing_problems(&machine).into_iter();
    found.map(failure).collect()
}

fn policy(reader: &mut Reader<'_>, value: &Value) -> Option<RolloutPolicy> {
    let known = ["max_unavailable", "deadline", "settle", "probes"];
    let object = reader.object(value, "", &known)?;
    let max_unavailable = match object.get("max_unavailable") {
        None => Some(MaxUnavailable::Nodes(1)),
        Some(value) => match serde_json::from_value(value.clone()) {
            Ok(max) => Some(max),
            Err(_) => {
                let what = "write a number of nodes from 1, or a share such as \"25%\"";
                reader.fail("max_unavailable", what, None);
                None
            }
        },
    };
    let deadline = span(reader, object, "deadline", "", DEADLINE);
    let settle = span(reader, object, "settle", "", SETTLE);
    let mut probes = Vec::new();
    for (path, item) in reader.items(object, "probes", "") {
        probes.extend(probe(reader, &path, item));
    }
    Some(RolloutPolicy {
        max_unavailable: max_unavailable?,
        deadline: deadline?,
        settle: settle?,
        probes,
        waiver: None,
    })
}

fn span(
    reader: &mut Reader<'_>,
    object: &Map<String, Value>,
    key: &str,
    path: &str,
    default: TimeSpan,
) -> Option<TimeSpan> {
    match object.get(key).map(|value| value.as_str().map(str::parse)) {
        None => Some(default),
        Some(Some(Ok(span))) => Some(span),
        Some(_) => {
            let what = "write a whole number and ms, s, m or h, such as 90s";
            reader.fail(&field(path, key), what, None);
            None
        }
    }
}

fn count(
    reader: &mut Reader<'_>,
    object: &Map<String, Value>,
    key: &str,
    path: &str,
    default: u32,
) -> Option<u32> {
    let Some(value) = object.get(key) else {
        return Some(default);
    };
    let read = value.as_u64().and_then(|n| u32::try_from(n).ok());
    if read.is_none() {
        reader.fail(&field(path, key), "must be a whole number", None);
    }
    read
}

fn probe(reader: &mut Reader<'_>, path: &str, item: &Value) -> Option<Probe> {
    let known = [
        "name",
        "http",
        "tcp",
        "file",
        "kubelet",
        "period",
        "timeout",
        "success_threshold",
        "failure_threshold",
    ];
    let object = reader.object(item, path, &known)?;
    let name = reader.text(object, "name", path, true);
    let kinds: Vec<&str> = KINDS
        .into_iter()
        .filter(|kind| object.contains_key(*kind))
        .collect();
    let check = match kinds.as_slice() {
        [kind] => {
            let path = field(path, kind);
            object
                .get(*kind)
                .and_then(|v| check(reader, &path, kind, v))
        }
        _ => {
            let what = format!("needs exactly one of {}", KINDS.join(", "));
            reader.fail(path, what, None);
            None
        }
    };
    let period = span(reader, object, "period", path, PERIOD);
    let timeout = span(reader, object, "timeout", path, PERIOD);
    let successes = count(reader, object, "success_threshold", path, 1);
    let failures = count(reader, object, "failure_threshold", path, FAILURES);
    Some(Probe {
        name: name?.to_owned(),
        check: check?,
        period: period?,
        timeout: timeout?,
        success_threshold: successes?,
        failure_threshold: failures?,
    })
}

fn check(reader: &mut Reader<'_>, path: &str, kind: &str, value: &Value) -> Option<ProbeCheck> {
    match kind {
        "http" => {
            let object = reader.object(value, path, &["url", "ca", "certificate", "key"])?;
            let url = reader.text(object, "url", path, true).map(str::to_owned);
            let mut place = |key: &str| -> Result<Option<EntryPath>, ()> {
                let Some(text) = reader.text(object, key, path, false) else {
                    return Ok(None);
                };
                EntryPath::new(text).map(Some).map_err(|e| {
                    reader.fail(&field(path, key), e.to_string(), None);
                })
            };
            let (ca, certificate, key) = (place("ca"), place("certificate"), place("key"));
            Some(ProbeCheck::Http {
                url: url?,
                ca: ca.ok()?,
                certificate: certificate.ok()?,
                key: key.ok()?,
            })
        }
        "tcp" => {
            let object = reader.object(value, path, &["address"])?;
            let address = reader.text(object, "address", path, true)?.to_owned();
            Some(ProbeCheck::Tcp { address })
        }
        "file" => {
            let object = reader.object(value, path, &["path"])?;
            let path = reader.text(object, "path", path, true)?.to_owned();
            Some(ProbeCheck::File { path })
        }
        _ => {
            let object = reader.object(value, path, &["port"])?;
            let port = count(reader, object, "port", path, 10248)?;
            let read = u16::try_from(port).ok();
            if read.is_none() {
                reader.fail(&field(path, "port"), "must be a port", None);
            }
            Some(ProbeCheck::Kubelet { port: read? })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "max_unavailable: 1
deadline: 10m
probes:
  - {name: kubelet, kubelet: {}}
  - name: apiserver
    http: {url: \"https://127.0.0.1:6443/readyz\", ca: secrets/kube-apiserver/ca.crt}
    period: 2s
    success_threshold: 3
";

    #[test]
    fn a_good_file_is_read() {
        let policy = parse_rollout("secure/rollout.yaml", GOOD).unwrap().unwrap();
        assert_eq!(policy.deadline, TimeSpan::from_secs(600));
        assert_eq!(policy.settle, SETTLE);
        assert_eq!(policy.probes[0].check, ProbeCheck::Kubelet { port: 10248 });
        assert_eq!(policy.probes[1].period, TimeSpan::from_secs(2));
        assert_eq!(parse_rollout("x", "# nothing\n").unwrap(), None);
    }

    #[test]
    fn every_mistake_is_told_with_its_field() {
        let text = "max_unavailable: 0
dedline: 1m
settle: soon
probes:
  - {name: a, tcp: {address: \"127.0.0.1:1\"}, file: {path: /x}}
  - {kubelet: {port: 70000}, period: 5}
  - {name: b, http: {url: x, ca: /etc/ca.crt}}
";
        let found = parse_rollout("secure/rollout.yaml", text).unwrap_err();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected = [
            "dedline: unknown field (did you mean deadline?)",
            "max_unavailable: write a number",
            "settle: write a whole number",
            "probes[0]: needs exactly one of",
            "probes[1].name: is missing",
            "probes[1].kubelet.port: must be a port",
            "probes[1].period: write a whole number",
            "probes[2].http.ca: ",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            let expected = format!("secure/rollout.yaml: {expected}");
            assert!(found.starts_with(&expected), "{found}\n{expected}");
        }
    }

    #[test]
    fn etcds_quorum_caps_it_and_files_must_be_there() {
        let policy = parse_rollout("f", GOOD).unwrap().unwrap();
        let paths: Vec<EntryPath> = vec!["secrets/kube-apiserver/ca.crt".parse().unwrap()];
        let found = |policy: &RolloutPolicy, paths: &[EntryPath], most| {
            let found = rollout_problems("f", policy, paths.iter(), most);
            let paths: Vec<String> = found.into_iter().filter_map(|f| f.path).collect();
            paths
        };
        assert!(found(&policy, &paths, Some((1, 3))).is_empty());
        assert_eq!(found(&policy, &[], None), ["probes[1].http.ca"]);
        let two = RolloutPolicy {
            max_unavailable: MaxUnavailable::Nodes(2),
            ..policy
        };
        assert_eq!(found(&two, &paths, Some((1, 3))), ["max_unavailable"]);
        assert!(found(&two, &paths, Some((2, 5))).is_empty());
        let share = |share| RolloutPolicy {
            max_unavailable: MaxUnavailable::Percent(share),
            ..two.clone()
        };
        assert!(found(&share(100), &paths, Some((1, 3))).is_empty());
        for (percent, most, members, number) in [(100, 1, 3, 1), (40, 2, 5, 2), (1, 2, 5, 1)] {
            assert_eq!(
                share(percent).with_share_of(most, members).max_unavailable,
                MaxUnavailable::Nodes(number)
            );
        }
    }

    #[test]
    fn a_good_release_has_the_time_to_become_healthy_and_a_bad_one_to_go_back() {
        let found = |text: &str, grace| {
            let policy = parse_rollout("f", text).unwrap().unwrap();
            let found = timing_problems("f", &policy, Duration::from_secs(grace));
            let paths: Vec<String> = found.into_iter().filter_map(|f| f.path).collect();
            paths
        };
        let probe = |more: &str| format!("probes:\n  - {{name: a, kubelet: {{}}{more}}}\n");
        assert!(
            found(&probe(""), 60).is_empty(),
            "the defaults, and an API server's grace period"
        );
        for shipped in [
            include_str!("../../../manifests/secure/rollout.yaml"),
            include_str!("../../../manifests/compute/rollout.yaml"),
        ] {
            assert!(found(shipped, 60).is_empty());
        }
        let threshold = ["probes[0].failure_threshold"];
        assert_eq!(found(&probe(", failure_threshold: 24"), 60), threshold);
        assert_eq!(found(&probe(", failure_threshold: 91"), 60), threshold);
        assert_eq!(found("deadline: 7m\n", 60), ["deadline"]);
        assert_eq!(
            found(&probe(", success_threshold: 60"), 60),
            ["probes[0].success_threshold"]
        );
    }
}
