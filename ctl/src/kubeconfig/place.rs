//! Where a kubeconfig is written.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use shared::durable::{self, Attributes};

use super::document::Kubeconfig;
use super::merge::{Merged, merge};

/// Largest kubeconfig, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// The file that is merged into: the first of `KUBECONFIG`, as kubectl does, or `~/.kube/config`. A link is followed, so
/// that it stays one.
#[must_use]
pub fn merge_target(variable: Option<&OsStr>, home: &Path) -> PathBuf {
    let first = variable.and_then(|paths| {
        let mut paths = std::env::split_paths(paths);
        paths.find(|path| !path.as_os_str().is_empty())
    });
    let path = first.unwrap_or_else(|| home.join(".kube/config"));
    std::fs::canonicalize(&path).unwrap_or(path)
}

/// Writes the kubeconfig, mode 0600, in one step: merged into what is there, or in its place. Says whether comments were
/// lost.
///
/// # Errors
/// What is there and is no kubeconfig, or a file that cannot be read or written.
pub fn write(path: &Path, kubeconfig: &Kubeconfig, merging: bool) -> anyhow::Result<bool> {
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let merged = if merging {
        let text = read(path).with_context(|| format!("cannot read {}", path.display()))?;
        merge(&text, kubeconfig).with_context(|| format!("{} was left as it is", path.display()))?
    } else {
        Merged {
            text: kubeconfig.text(),
            lost_comments: false,
        }
    };
    durable::write_file(path, merged.text.as_bytes(), Attributes::mode(0o600))?;
    Ok(merged.lost_comments)
}

fn read(path: &Path) -> std::io::Result<String> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(e),
        Ok(m) if m.len() > LARGEST => return Err(std::io::Error::other("more than 16 MiB")),
        Ok(_) => {}
    }
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::tests::issued;
    use super::*;

    #[test]
    fn the_first_of_the_variable_and_links_are_followed() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let at = |v: Option<&str>| merge_target(v.map(OsStr::new), &home);
        assert_eq!(at(None), home.join(".kube/config"));
        assert_eq!(at(Some("")), home.join(".kube/config"));
        assert_eq!(at(Some(":/a:/b")), Path::new("/a"));
        fs::create_dir(home.join(".kube")).unwrap();
        fs::write(home.join("real"), "").unwrap();
        std::os::unix::fs::symlink(home.join("real"), home.join(".kube/config")).unwrap();
        assert_eq!(at(None), home.join("real"));
    }

    #[test]
    fn only_the_owner_reads_it_and_what_does_not_parse_stays() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".kube/config");
        let issued = issued();
        assert!(!write(&path, &issued, true).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write(&path, &issued, true).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::write(&path, "a: [").unwrap();
        assert!(write(&path, &issued, true).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a: [");
        write(&path, &issued, false).unwrap();
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .starts_with("apiVersion: v1")
        );
    }
}
