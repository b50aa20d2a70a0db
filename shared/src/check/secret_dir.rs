//! The secret directory of a pod: its files, their digest, and the path a manifest names.
//!
//! A pod's secrets lie in one immutable directory whose name is the digest of all of them. So the pod's manifest
//! changes, and the pod restarts, exactly when one of its secrets does.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

pub use crate::secret::SecretBytes;

/// Where the secret directories of all pods lie on a node: `<SECRETS_ROOT>/<pod>/<digest>`.
pub const SECRETS_ROOT: &str = "/etc/kubernetes/secrets";

/// Separates this digest from every other SHA-256 in the platform, and from a later framing.
const DIGEST_DOMAIN: &[u8] = b"platform secret directory v1\0";

/// One file of a secret directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    /// What the file holds.
    pub bytes: SecretBytes,
    /// Permission bits, such as `0o600`.
    pub mode: u32,
    /// Its numeric owner and group on the node.
    pub owner: (u32, u32),
}

/// What a node makes of a file beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, such as `0o600`.
    pub mode: u32,
    /// Its numeric owner and group.
    pub owner: (u32, u32),
}

/// Permission bits of a file that belongs to root.
impl From<u32> for Attributes {
    fn from(mode: u32) -> Self {
        Self {
            mode,
            owner: (0, 0),
        }
    }
}

/// The digest that names a secret directory: lower-case hex SHA-256 over names, modes, contents, and the owners that
/// are not root.
///
/// Every variable part is preceded by its length and the whole by the number of files, so two different directories
/// can't give one byte string. The order is the map's, which is by name. Owners follow after the last file, so a
/// directory that is root's alone has the digest that it had before owners counted.
pub fn secret_dir_digest<A, B>(files: &BTreeMap<String, (A, B)>) -> String
where
    A: Copy + Into<Attributes>,
    B: AsRef<[u8]>,
{
    let mut hash = Sha256::new();
    hash.update(DIGEST_DOMAIN);
    hash.update(length(files.len()));
    for (name, (attributes, bytes)) in files {
        let attributes: Attributes = (*attributes).into();
        hash.update(length(name.len()));
        hash.update(name.as_bytes());
        hash.update(attributes.mode.to_be_bytes());
        hash.update(length(bytes.as_ref().len()));
        hash.update(bytes.as_ref());
    }
    for (at, (attributes, _)) in files.values().enumerate() {
        let (uid, gid) = (*attributes).into().owner;
        if (uid, gid) != (0, 0) {
            hash.update(length(at));
            hash.update(uid.to_be_bytes());
            hash.update(gid.to_be_bytes());
        }
    }
    hex::encode(hash.finalize())
}

/// [`secret_dir_digest`] of files in memory.
pub fn digest_of(files: &BTreeMap<String, SecretFile>) -> String {
    let borrowed: BTreeMap<String, (Attributes, &[u8])> = files
        .iter()
        .map(|(name, file)| {
            let attributes = Attributes {
                mode: file.mode,
                owner: file.owner,
            };
            (name.clone(), (attributes, file.bytes.expose()))
        })
        .collect();
    secret_dir_digest(&borrowed)
}

/// The absolute path of a secret directory on a node.
pub fn secret_dir_path(pod: &str, digest: &str) -> String {
    format!("{SECRETS_ROOT}/{pod}/{digest}")
}

/// The pod and digest that a path under [`SECRETS_ROOT`] names; `None` for any other path.
pub fn parse_secret_dir_path(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix(SECRETS_ROOT)?.strip_prefix('/')?;
    let (pod, digest) = rest.split_once('/')?;
    let digest = digest.strip_suffix('/').unwrap_or(digest);
    let is_digest = digest.len() == 64
        && digest
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (is_digest && !pod.is_empty()).then_some((pod, digest))
}

/// Whether a secret directory is one of the pod's own: the one named after it, or a further one, `POD_WHAT`. No pod's
/// name holds an underscore, so none can be taken for another's.
pub fn is_own_directory(directory: &str, pod: &str) -> bool {
    let owner = directory
        .split_once('_')
        .map_or(directory, |(owner, _)| owner);
    owner == pod
}

/// What mounting a path of the host shows a pod of the secrets of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretMount<'a> {
    /// Nothing.
    None,
    /// One secret directory, as [`secret_dir_path`] writes it.
    Directory {
        /// Whose.
        pod: &'a str,
        /// Its digest.
        digest: &'a str,
    },
    /// Something at or below [`SECRETS_ROOT`] that is no secret directory.
    Part,
    /// All of them: it is above [`SECRETS_ROOT`].
    All,
}

/// Looks at a path however it is spelled: `/etc//kubernetes/./` is above the secrets too.
pub fn secret_mount(path: &str) -> SecretMount<'_> {
    let plain = |path: &'static str| path.split('/').filter(|part| !part.is_empty());
    let mut root = plain(SECRETS_ROOT);
    let mut own = path.split('/').filter(|part| !matches!(*part, "" | "."));
    loop {
        match (root.next(), own.next()) {
            (Some(a), Some(b)) if a == b => {}
            (Some(_), Some(_)) => return SecretMount::None,
            (Some(_), None) => return SecretMount::All,
            (None, _) => break,
        }
    }
    match parse_secret_dir_path(path) {
        Some((pod, digest)) => SecretMount::Directory { pod, digest },
        None => SecretMount::Part,
    }
}

fn length(n: usize) -> [u8; 8] {
    // usize is at most 64 bits on every platform Rust has.
    (n as u64).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mount_is_known_by_what_it_shows() {
        let own = secret_dir_path("etcd", &"a".repeat(64));
        assert!(matches!(
            secret_mount(&own),
            SecretMount::Directory { pod: "etcd", .. }
        ));
        for path in [
            "/",
            "/etc",
            "/etc/",
            "/etc/kubernetes",
            "//etc/./kubernetes/",
        ] {
            assert_eq!(secret_mount(path), SecretMount::All, "{path}");
        }
        for path in [
            SECRETS_ROOT,
            "/etc/kubernetes//secrets/",
            "/etc/kubernetes/secrets/etcd",
        ] {
            assert_eq!(secret_mount(path), SecretMount::Part, "{path}");
        }
        for path in [
            "/etc/ssl",
            "/etc/kubernetes/secrets2",
            "/var/lib/etcd",
            "/etc/kubernetes/pki",
        ] {
            assert_eq!(secret_mount(path), SecretMount::None, "{path}");
        }
    }

    #[test]
    fn a_pod_owns_what_is_named_after_it() {
        assert!(is_own_directory("addons", "addons"));
        assert!(is_own_directory("addons_objects", "addons"));
        for (directory, pod) in [
            ("addons_objects", "addons_objects"),
            ("addons-objects", "addons"),
            ("addons", "add"),
            ("kube-proxy", "kube"),
        ] {
            assert!(!is_own_directory(directory, pod), "{directory} {pod}");
        }
    }

    type Files = BTreeMap<String, (u32, Vec<u8>)>;

    fn files(entries: &[(&str, u32, &[u8])]) -> Files {
        entries
            .iter()
            .map(|(n, m, b)| ((*n).to_owned(), (*m, b.to_vec())))
            .collect()
    }

    #[test]
    fn the_framing_is_part_of_the_contract() {
        // Changing this value restarts every pod of every cluster: do it only with a new domain string.
        assert_eq!(
            secret_dir_digest(&files(&[("a", 0o600, b"x")])),
            "131a405305ed9a08a8510148466961c04c5deeb726d00b549c0ef9ef693d56d3"
        );
    }

    #[test]
    fn bytes_cannot_move_between_name_and_content() {
        let one = secret_dir_digest(&files(&[("ab", 0o600, b"c")]));
        let two = secret_dir_digest(&files(&[("a", 0o600, b"bc")]));
        assert_ne!(one, two);
    }

    #[test]
    fn a_mode_counts() {
        assert_ne!(
            secret_dir_digest(&files(&[("a", 0o600, b"x")])),
            secret_dir_digest(&files(&[("a", 0o400, b"x")]))
        );
    }

    #[test]
    fn paths_round_trip_and_strangers_do_not_parse() {
        let digest = secret_dir_digest(&files(&[]));
        let path = secret_dir_path("etcd", &digest);
        assert_eq!(
            parse_secret_dir_path(&path),
            Some(("etcd", digest.as_str()))
        );
        assert_eq!(
            parse_secret_dir_path("/etc/kubernetes/secrets/etcd/latest"),
            None
        );
        assert_eq!(parse_secret_dir_path("/etc/kubernetes/secretsX/etcd"), None);
    }

    #[test]
    fn debug_shows_nothing() {
        let shown = format!(
            "{:?}",
            SecretFile {
                bytes: SecretBytes::new(b"hunter2".to_vec()),
                mode: 0o600,
                owner: (0, 0),
            }
        );
        assert!(
            !shown.contains("hunter2") && !shown.contains("104"),
            "{shown}"
        );
    }

    fn attributes() -> impl Strategy<Value = Attributes> {
        (0o400u32..0o402, (0u32..2, 0u32..2)).prop_map(|(mode, owner)| Attributes { mode, owner })
    }

    #[test]
    fn an_owner_counts_and_root_is_none() {
        let owned = |owner| {
            let attributes = Attributes { mode: 0o600, owner };
            secret_dir_digest(&BTreeMap::from([("a".to_owned(), (attributes, b"x"))]))
        };
        assert_eq!(
            owned((0, 0)),
            secret_dir_digest(&files(&[("a", 0o600, b"x")]))
        );
        assert_ne!(owned((0, 0)), owned((0, 1)));
        assert_ne!(owned((1, 0)), owned((0, 1)));
    }

    proptest! {
        #[test]
        fn different_directories_have_different_digests(
            a in proptest::collection::btree_map("[a-c]{1,3}", (attributes(), proptest::collection::vec(0u8..3, 0..4)), 0..4),
            b in proptest::collection::btree_map("[a-c]{1,3}", (attributes(), proptest::collection::vec(0u8..3, 0..4)), 0..4),
        ) {
            prop_assert_eq!(a == b, secret_dir_digest(&a) == secret_dir_digest(&b));
        }
    }
}
