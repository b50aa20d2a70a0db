//! What must hold between the manifests of one node.

use std::collections::BTreeMap;
use std::fmt;

use super::manifest::PodSummary;

/// Manifests that can't lie in one manifest directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetProblem {
    /// Several files hold a pod of one name: kubelet would let them flap.
    SamePod {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// The files, at least two.
        files: Vec<String>,
    },
    /// Several pods want one port of the host: the later one never starts.
    SameHostPort {
        /// `TCP`, `UDP` or `SCTP`.
        protocol: String,
        /// The port.
        port: u16,
        /// The files, at least two.
        files: Vec<String>,
    },
    /// One file name occurs more than once.
    SameFile {
        /// The name.
        file: String,
    },
}

impl SetProblem {
    /// The files it is about.
    pub fn files(&self) -> Vec<&str> {
        match self {
            Self::SamePod { files, .. } | Self::SameHostPort { files, .. } => {
                files.iter().map(String::as_str).collect()
            }
            Self::SameFile { file } => vec![file],
        }
    }
}

impl fmt::Display for SetProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SamePod {
                namespace,
                name,
                files,
            } => {
                write!(
                    f,
                    "pod {namespace}/{name} is in several files: {}",
                    files.join(", ")
                )
            }
            Self::SameHostPort {
                protocol,
                port,
                files,
            } => {
                write!(
                    f,
                    "host port {port}/{protocol} is wanted by several pods: {}",
                    files.join(", ")
                )
            }
            Self::SameFile { file } => write!(f, "the file name {file} occurs more than once"),
        }
    }
}

impl std::error::Error for SetProblem {}

/// Checks all manifests of one node against each other. `hostIP` is not looked at: one port is one port.
pub fn check_set(manifests: &[(String, PodSummary)]) -> Vec<SetProblem> {
    let mut pods: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    let mut ports: BTreeMap<(&str, u16), Vec<String>> = BTreeMap::new();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (file, pod) in manifests {
        pods.entry((&pod.namespace, &pod.name))
            .or_default()
            .push(file.clone());
        for (protocol, port) in &pod.host_ports {
            ports
                .entry((protocol, *port))
                .or_default()
                .push(file.clone());
        }
        *names.entry(file).or_default() += 1;
    }
    let several = |files: &Vec<String>| files.len() > 1;
    let same_file = names.into_iter().filter(|(_, count)| *count > 1);
    let same_pod = pods.into_iter().filter(|(_, files)| several(files));
    let same_port = ports.into_iter().filter(|(_, files)| several(files));
    same_file
        .map(|(file, _)| SetProblem::SameFile {
            file: file.to_owned(),
        })
        .chain(
            same_pod.map(|((namespace, name), files)| SetProblem::SamePod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                files,
            }),
        )
        .chain(
            same_port.map(|((protocol, port), files)| SetProblem::SameHostPort {
                protocol: protocol.to_owned(),
                port,
                files,
            }),
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn pod(name: &str, ports: &[u16]) -> PodSummary {
        PodSummary {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            host_ports: ports
                .iter()
                .map(|port| ("TCP".to_owned(), *port))
                .collect::<BTreeSet<_>>(),
            host_network: true,
            host_paths: Vec::new(),
            termination_grace_seconds: 30,
        }
    }

    #[test]
    fn pods_of_different_names_and_ports_fit() {
        let set = [
            ("a.yaml".to_owned(), pod("a", &[1])),
            ("b.yaml".to_owned(), pod("b", &[2])),
        ];
        assert_eq!(check_set(&set), []);
    }

    #[test]
    fn every_clash_names_its_files() {
        let set = [
            ("a.yaml".to_owned(), pod("a", &[1, 2])),
            ("b.yaml".to_owned(), pod("a", &[2])),
            ("b.yaml".to_owned(), pod("c", &[3])),
        ];
        let found: Vec<String> = check_set(&set).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "the file name b.yaml occurs more than once",
                "pod kube-system/a is in several files: a.yaml, b.yaml",
                "host port 2/TCP is wanted by several pods: a.yaml, b.yaml",
            ]
        );
    }
}
