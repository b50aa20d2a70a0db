//! Command-line flags against the lists of the binaries that will read them: one unknown flag and the pod never starts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Finding, Severity};

/// How alike (0 to 1) two names must be for "did you mean".
const LIKENESS: f64 = 0.85;

/// Where a list comes from decides how sure a missing flag is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Every flag of the binary itself.
    Binary,
    /// Written from knowledge; may lack some.
    Knowledge,
}

/// A binary's name, where its list comes from, and the list: one flag a line, `deprecated` behind some.
const LISTS: &[(&str, Source, &str)] = &[
    (
        "cloud-controller-manager",
        Source::Knowledge,
        include_str!("flags/cloud-controller-manager.txt"),
    ),
    ("etcd", Source::Binary, include_str!("flags/etcd.txt")),
    (
        "kube-apiserver",
        Source::Binary,
        include_str!("flags/kube-apiserver.txt"),
    ),
    (
        "kube-controller-manager",
        Source::Binary,
        include_str!("flags/kube-controller-manager.txt"),
    ),
    (
        "kube-proxy",
        Source::Knowledge,
        include_str!("flags/kube-proxy.txt"),
    ),
    (
        "kube-scheduler",
        Source::Binary,
        include_str!("flags/kube-scheduler.txt"),
    ),
    (
        "kubectl",
        Source::Knowledge,
        include_str!("flags/kubectl.txt"),
    ),
    ("kubelet", Source::Binary, include_str!("flags/kubelet.txt")),
];

/// One flag on a container's command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flag {
    /// Path of the word it stands in, such as `spec.containers[0].command[3]`.
    pub(crate) path: String,
    /// The name without dashes.
    pub(crate) name: String,
    /// What stands behind `=`.
    pub(crate) value: Option<String>,
    /// Whether it began with one dash only.
    short: bool,
}

/// Checks every container of a pod whose command is a binary with a known list; one without a command is taken to run the
/// binary of its image's name.
pub(crate) fn check(pod: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, container) in containers(pod) {
        let binary = container
            .pointer("/command/0")
            .and_then(Value::as_str)
            .unwrap_or_else(|| image_name(container));
        let binary = binary.rsplit('/').next().unwrap_or_default();
        let Some((_, source, list)) = LISTS.iter().find(|(name, _, _)| *name == binary) else {
            continue;
        };
        let known = parse_list(list);
        for flag in flags_of(&path, container) {
            findings.extend(check_flag(&flag, binary, *source, &known));
        }
    }
    findings
}

/// An image's name without its tag or digest.
fn image_name(container: &Value) -> &str {
    let image = container.get("image").and_then(Value::as_str);
    let image = image
        .unwrap_or_default()
        .split('@')
        .next()
        .unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// The containers that have a command line, with their paths.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = (String, &Value)> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(move |kind| {
            let list = pod
                .pointer(&format!("/spec/{kind}"))
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            list.enumerate()
                .map(move |(i, container)| (format!("spec.{kind}[{i}]"), container))
        })
}

/// The flags in a container's `command` (after the binary) and `args`.
pub(crate) fn flags_of(path: &str, container: &Value) -> Vec<Flag> {
    let mut flags = Vec::new();
    for (key, skipped) in [("command", 1), ("args", 0)] {
        let words = container
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
            .skip(skipped);
        for (i, word) in words {
            let Some(word) = word.as_str() else { continue };
            // Behind this everything is an argument.
            if word == "--" {
                return flags;
            }
            let Some(body) = word.strip_prefix('-') else {
                continue;
            };
            let (short, body) = body
                .strip_prefix('-')
                .map_or((true, body), |body| (false, body));
            let (name, value) = body
                .split_once('=')
                .map_or((body, None), |(name, value)| (name, Some(value.to_owned())));
            if !name.is_empty() {
                flags.push(Flag {
                    path: format!("{path}.{key}[{i}]"),
                    name: name.to_owned(),
                    value,
                    short,
                });
            }
        }
    }
    flags
}

fn check_flag(
    flag: &Flag,
    binary: &str,
    source: Source,
    known: &BTreeMap<&str, bool>,
) -> Option<Finding> {
    let finding =
        |severity, message, help| Some(Finding::in_field(severity, &flag.path, message, help));
    // etcd reads flags with Go's own package, to which one dash and two are the same.
    if flag.short && binary != "etcd" && flag.name.chars().count() > 1 {
        let help = Some(format!("write --{}", flag.name));
        return finding(
            Severity::Error,
            format!("{binary} takes -{} for several short flags", flag.name),
            help,
        );
    }
    // Kubernetes also takes underscores for hyphens.
    let name = if binary == "etcd" {
        flag.name.clone()
    } else {
        flag.name.replace('_', "-")
    };
    match (known.get(name.as_str()), source) {
        (Some(false), _) => None,
        (Some(true), _) => finding(
            Severity::Warning,
            format!("--{name} of {binary} is deprecated"),
            None,
        ),
        (None, Source::Binary) => finding(
            Severity::Error,
            format!("{binary} has no flag --{name}: it would not start"),
            nearest(&name, known),
        ),
        (None, Source::Knowledge) => finding(
            Severity::Warning,
            format!(
                "--{name} is not in platformctl's list of {binary}'s flags, which may be incomplete"
            ),
            nearest(&name, known),
        ),
    }
}

fn nearest(name: &str, known: &BTreeMap<&str, bool>) -> Option<String> {
    let candidates = known
        .keys()
        .map(|key| (strsim::jaro_winkler(key, name), key));
    let (_, best) = candidates
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!("did you mean --{best}?"))
}

/// The flags of a list, each with whether it is deprecated.
fn parse_list(list: &str) -> BTreeMap<&str, bool> {
    let lines = list
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            line.split_once(' ')
                .map_or((line, false), |(name, mark)| (name, mark == "deprecated"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(command: &[&str]) -> Vec<(Severity, String)> {
        let pod = json!({"spec": {"containers": [{"command": command}]}});
        check(&pod)
            .into_iter()
            .map(|f| {
                (
                    f.severity,
                    format!(
                        "{} {} {}",
                        f.path.unwrap(),
                        f.message,
                        f.help.unwrap_or_default()
                    ),
                )
            })
            .collect()
    }

    #[test]
    fn the_lists_are_whole() {
        for (binary, _, list) in LISTS {
            let flags = parse_list(list);
            assert!(flags.len() > 50, "{binary}");
            assert!(
                flags
                    .keys()
                    .all(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')),
                "{binary}"
            );
        }
        let deprecated = |list| {
            parse_list(list)
                .values()
                .filter(|deprecated| **deprecated)
                .count()
        };
        assert_eq!(deprecated(include_str!("flags/kube-scheduler.txt")), 7);
    }

    #[test]
    fn known_flags_in_every_spelling_pass() {
        assert_eq!(
            found(&[
                "/usr/local/bin/kube-apiserver",
                "--profiling=false",
                "--etcd_servers=x",
                "-v=2",
                "--secure-port",
                "6443"
            ]),
            []
        );
        assert_eq!(found(&["etcd", "-name=x", "--data-dir", "-"]), []);
        assert_eq!(found(&["something-else", "--nope"]), []);
    }

    #[test]
    fn an_unknown_flag_is_an_error_with_a_suggestion() {
        let found = found(&["kube-apiserver", "--etcd-server=x", "--", "--not-a-flag"]);
        assert_eq!(
            found,
            [(
                Severity::Error,
                "spec.containers[0].command[1] kube-apiserver has no flag --etcd-server: it would not start did you mean --etcd-servers?".to_owned()
            )]
        );
    }

    #[test]
    fn a_long_flag_with_one_dash_is_an_error() {
        assert_eq!(found(&["kube-scheduler", "-config=x"]).len(), 1);
    }

    #[test]
    fn deprecated_flags_and_those_a_modest_list_lacks_are_warnings() {
        for command in [
            ["kube-scheduler", "--profiling=false"],
            ["etcd", "--experimental-initial-corrupt-check"],
            ["kube-proxy", "--nope"],
        ] {
            let found = found(&command);
            assert!(
                matches!(found.as_slice(), [(Severity::Warning, _)]),
                "{command:?}: {found:?}"
            );
        }
    }

    #[test]
    fn args_and_init_containers_count() {
        let pod = json!({"spec": {"initContainers": [{"command": ["kubelet"], "args": ["--nope", "--container-runtime=x"]}]}});
        let paths: Vec<_> = check(&pod).into_iter().map(|f| f.path.unwrap()).collect();
        assert_eq!(
            paths,
            [
                "spec.initContainers[0].args[0]",
                "spec.initContainers[0].args[1]"
            ]
        );
    }

    #[test]
    fn a_container_without_a_command_runs_what_its_image_is_named_after() {
        let image = "registry:5000/provider-aws/cloud-controller-manager:v1.36.1@sha256:00";
        let pod = json!({"spec": {"containers": [
            {"image": image, "args": ["--cloud-provider=aws", "--configure-cloud-rotes=false"]},
            {"image": "coredns/coredns:v1", "args": ["-conf", "/etc/coredns/Corefile"]},
        ]}});
        let found: Vec<_> = check(&pod);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path.as_deref(), Some("spec.containers[0].args[1]"));
        assert_eq!(
            found[0].help.as_deref(),
            Some("did you mean --configure-cloud-routes?")
        );
    }

    /// The unit of agent/dist with what user data adds to it: kubelet exits at a flag that it does not know.
    #[test]
    fn kubelets_own_unit_uses_flags_that_it_has() {
        let unit = crate::userdata::DIST
            .iter()
            .find(|(name, _)| *name == "systemd/kubelet.service");
        let unit = unit.expect("the unit").1.replace("\\\n", " ");
        let line = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="));
        let user_data = include_str!("../../../cloudinit/user-data.j2");
        let credentials = user_data.lines().filter_map(|line| {
            let (_, value) = line.split_once("KUBELET_CREDENTIALS=")?;
            Some(value.trim_end_matches('"'))
        });
        let words: Vec<&str> = credentials
            .chain(line)
            .flat_map(str::split_whitespace)
            .filter(|word| word.starts_with('-'))
            .collect();
        assert_eq!(words.len(), 3 + 5, "{words:?}");
        let command: Vec<&str> = ["kubelet"].into_iter().chain(words).collect();
        assert_eq!(found(&command), []);
        assert_eq!(found(&["kubelet", "--provider-idd=x"]).len(), 1);
    }
}
