//! What every agent checks of a release, before it is published: files of two times may not go together.

use std::collections::BTreeMap;

use jiff::Timestamp;
use shared::bundle::Release;
use shared::check::certificate::check_pem_files;
use shared::check::manifest::check_manifest;
use shared::check::secret_dir::{SecretMount, secret_dir_digest, secret_mount};
use shared::check::set::check_set;
use shared::names::Place;

/// Everything that an agent would refuse.
pub(super) fn problems(release: &Release, now: Timestamp) -> Vec<String> {
    let mut problems = Vec::new();
    let directories: BTreeMap<String, String> = release
        .secret_directories()
        .into_iter()
        .map(|(dir, files)| {
            let files = files
                .into_iter()
                .map(|(name, file)| (name.to_owned(), file));
            (dir.to_owned(), secret_dir_digest(&files.collect()))
        })
        .collect();
    let mut pods = Vec::new();
    let mut certificates: BTreeMap<String, BTreeMap<String, &[u8]>> = BTreeMap::new();
    for (entry, bytes) in release.files() {
        match entry.path.place() {
            Place::Manifest(name) => match check_manifest(name, bytes.expose()) {
                Ok(pod) => pods.push((name.to_owned(), pod)),
                Err(found) => {
                    problems.extend(found.into_iter().map(|p| format!("{}: {p}", entry.path)));
                }
            },
            Place::Secret { .. } | Place::Host(_) => {
                if let Some((directory, name)) = entry.path.as_str().rsplit_once('/') {
                    let files = certificates.entry(directory.to_owned()).or_default();
                    files.insert(name.to_owned(), bytes.expose());
                }
            }
            _ => {}
        }
    }
    problems.extend(check_set(&pods).iter().map(ToString::to_string));
    for (file, pod) in &pods {
        for mount in &pod.host_paths {
            let is_there = match secret_mount(&mount.path) {
                SecretMount::Directory { pod, digest } => {
                    directories.get(pod).is_some_and(|d| d == digest)
                }
                SecretMount::None => true,
                SecretMount::Part | SecretMount::All => false,
            };
            if !is_there {
                problems.push(format!(
                    "manifests/{file}: {} is not a secret directory of the release",
                    mount.field
                ));
            }
        }
    }
    for (directory, files) in &certificates {
        let report = check_pem_files(directory, files, now);
        problems.extend(report.problems.iter().map(ToString::to_string));
    }
    problems
}
