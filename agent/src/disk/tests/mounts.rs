//! What a manifest may show its pod of the secrets on the node.

use super::*;

/// What is said where etcd's manifest mounts `path` instead of its own secrets.
fn mounting(path: &str) -> String {
    let draft = Draft::usual(1);
    let tree = draft.tree();
    let of = |pod: &str| -> String {
        let prefix = format!("secrets/{pod}/");
        let file = tree.keys().find(|file| file.starts_with(&prefix)).unwrap();
        format!("/etc/kubernetes/{}", file.rsplit_once('/').unwrap().0)
    };
    let own = of("etcd");
    let release = draft.release();
    let mut index = release.index().clone();
    let mut contents = std::collections::BTreeMap::new();
    for (entry, bytes) in release.files() {
        let mut bytes = bytes.expose().to_vec();
        if entry.path.as_str() == "manifests/etcd.yaml" {
            let path = path.replace("OTHER", &of("kube-apiserver"));
            bytes = String::from_utf8(bytes)
                .unwrap()
                .replace(&own, &path)
                .into_bytes();
            let mut files = index.files.iter_mut();
            let file = files.find(|file| file.path == entry.path).unwrap();
            file.sha256 = Sha256Digest::of(&bytes);
            file.bytes = bytes.len() as u64;
        }
        contents.insert(entry.path.clone(), bytes.into());
    }
    let release = Release::new(index, contents).unwrap();
    let node = Node::new();
    node.open().check(release, NOW).unwrap_err().to_string()
}

#[test]
fn a_pod_sees_no_secrets_but_its_own() {
    for path in ["/", "/etc", "/etc/./kubernetes/"] {
        let text = mounting(path);
        assert!(text.contains("is above the secrets of all pods"), "{text}");
    }
    let text = mounting("OTHER");
    assert!(
        text.contains("is the secret directory of another pod"),
        "{text}"
    );
}
