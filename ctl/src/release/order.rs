//! The order in which a node writes a release's files.

use shared::names::{EntryPath, Place};

/// Pods that others wait for come first; the rest follow by name.
const FIRST: [&str; 2] = ["etcd.yaml", "kube-apiserver.yaml"];

/// The sort key of a file: everything that a manifest may refer to, then the manifests.
#[must_use]
pub fn write_order(path: &EntryPath) -> (u8, usize, String) {
    let kind = match path.place() {
        Place::Agent(_) => 0,
        Place::Secret { .. } => 1,
        Place::Host(_) => 2,
        Place::Addon(_) => 3,
        Place::Manifest(_) => 4,
    };
    let rank = match path.place() {
        Place::Manifest(name) => FIRST.iter().position(|f| *f == name).unwrap_or(FIRST.len()),
        _ => 0,
    };
    (kind, rank, path.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_referred_to_comes_first() {
        let mut paths: Vec<EntryPath> = [
            "manifests/addons-applier.yaml",
            "manifests/kube-scheduler.yaml",
            "manifests/kube-apiserver.yaml",
            "manifests/etcd.yaml",
            "secrets/etcd/ca.crt",
            "agent/group.key",
            "host/kubelet.yaml",
        ]
        .iter()
        .map(|p| EntryPath::new(*p).unwrap())
        .collect();
        paths.sort_by_cached_key(write_order);
        let names: Vec<&str> = paths.iter().map(EntryPath::as_str).collect();
        assert_eq!(
            names,
            [
                "agent/group.key",
                "secrets/etcd/ca.crt",
                "host/kubelet.yaml",
                "manifests/etcd.yaml",
                "manifests/kube-apiserver.yaml",
                "manifests/addons-applier.yaml",
                "manifests/kube-scheduler.yaml",
            ]
        );
    }
}
