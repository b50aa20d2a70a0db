//! The infrastructure's description that platformctl was built with.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

use crate::exit::mistake;

/// One file of `terraform/`, by its path within it.
macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../terraform/", $path)))),*]
    };
}

/// Every file of `terraform/`, by path within it. A test keeps the table equal to the directory.
pub const EMBEDDED: &[(&str, &str)] = files![
    "README.md",
    "api.tf",
    "iam.tf",
    "machines.tf",
    "network.tf",
    "outputs.tf",
    "provider.tf",
    "security.tf",
    "variables.tf",
    "versions.tf",
];

/// The directory of a working directory's own copy.
const OWN: &str = "terraform";
/// The record of chosen provider versions: part of an own copy, though its name begins with a dot.
const PROVIDER_LOCK: &str = ".terraform.lock.hcl";

/// The files to run with: the working directory's own `terraform/` as a whole, or else the embedded ones.
///
/// # Errors
/// An own copy that cannot be read or holds no configuration.
pub(super) fn files_for(directory: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let own = directory.join(OWN);
    if !own.is_dir() {
        return Ok(EMBEDDED
            .iter()
            .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
            .collect());
    }
    let mut files = BTreeMap::new();
    read_below(&own, "", &mut files)?;
    if !files.keys().any(|path| is_configuration(path)) {
        return Err(mistake(format!(
            "{} holds no .tf file: put the whole configuration there (`platformctl init` writes it out), or remove the \
             directory to use the one that is built in",
            own.display()
        )));
    }
    Ok(files)
}

/// Whether the engine reads a file of that name by itself.
pub(super) fn is_configuration(path: &str) -> bool {
    [".tf", ".tf.json", ".tofu", ".tofu.json"]
        .iter()
        .any(|end| path.ends_with(end))
}

/// Hidden files, values and states are somebody's own runs, not configuration.
fn is_wanted(name: &str) -> bool {
    (!name.starts_with('.') || name == PROVIDER_LOCK)
        && !name.contains(".tfstate")
        && !name.contains(".tfvars")
}

fn read_below(
    directory: &Path,
    prefix: &str,
    into: &mut BTreeMap<String, Vec<u8>>,
) -> anyhow::Result<()> {
    let unreadable = || format!("cannot read {}", directory.display());
    for entry in std::fs::read_dir(directory).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !is_wanted(&name) {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            read_below(&path, &format!("{prefix}{name}/"), into)?;
        } else {
            let bytes =
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            into.insert(format!("{prefix}{name}"), bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_table_is_the_directory() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let embedded = files_for(Path::new("/nonexistent")).unwrap();
        let mut there = files_for(&top).unwrap();
        // What a developer's own run leaves behind is ignored by git.
        there.remove(PROVIDER_LOCK);
        assert_eq!(embedded, there);
    }

    #[test]
    fn an_own_copy_wins_as_a_whole_and_without_what_runs_leave() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("terraform");
        std::fs::create_dir_all(own.join("modules/net")).unwrap();
        std::fs::create_dir(own.join(".terraform")).unwrap();
        let error = files_for(directory.path()).unwrap_err();
        assert!(error.to_string().contains("holds no .tf file"), "{error}");
        for path in [
            "main.tf",
            "modules/net/main.tf",
            PROVIDER_LOCK,
            ".terraform/x.tf",
            "terraform.tfstate",
            "mine.auto.tfvars",
        ] {
            std::fs::write(own.join(path), "x").unwrap();
        }
        let files = files_for(directory.path()).unwrap();
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(names, [PROVIDER_LOCK, "main.tf", "modules/net/main.tf"]);
    }
}
