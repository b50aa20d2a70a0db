//! What a starting pod finds mounted.

use std::path::{Path, PathBuf};

use super::observation::{Digest, SecretSet};

/// Where secret directories live, as manifests name them. Other hostPaths (etcd's data, log directories) may change at will.
pub(crate) const SECRETS: &str = "/etc/kubernetes/secrets";

/// Reads every file under each of the absolute `paths`, looked up below `root`. What is missing adds nothing: the
/// set is then smaller than the one allowed, and the judge says so.
pub(crate) fn read(root: &Path, paths: &[String]) -> SecretSet {
    let mut set = SecretSet::new();
    for path in paths {
        let mut pending = vec![(path.trim_end_matches('/').to_owned(), below(root, path))];
        while let Some((name, place)) = pending.pop() {
            if let Ok(entries) = std::fs::read_dir(&place) {
                for entry in entries.flatten() {
                    pending.push((
                        format!("{name}/{}", entry.file_name().to_string_lossy()),
                        entry.path(),
                    ));
                }
            } else if let Ok(content) = std::fs::read(&place) {
                set.insert(name, Digest::of(&content));
            }
        }
    }
    set
}

fn below(root: &Path, absolute: &str) -> PathBuf {
    root.join(absolute.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_directories_below_the_root_and_leaves_out_what_is_missing() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("etc/kubernetes/secrets/etcd/d1");
        std::fs::create_dir_all(place.join("peer")).unwrap();
        std::fs::write(place.join("ca.crt"), "ca").unwrap();
        std::fs::write(place.join("peer/tls.key"), "key").unwrap();

        let set = read(
            root.path(),
            &[
                "/etc/kubernetes/secrets/etcd/d1/".to_owned(),
                "/etc/kubernetes/secrets/etcd/d2".to_owned(),
            ],
        );

        let expected = [("ca.crt", "ca"), ("peer/tls.key", "key")].map(|(file, content)| {
            (
                format!("/etc/kubernetes/secrets/etcd/d1/{file}"),
                Digest::of(content.as_bytes()),
            )
        });
        assert_eq!(set, SecretSet::from(expected));
    }
}
