//! The templates of all groups: the embedded ones, or those of a working directory, never a mixture.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The end of every template's name; what is left without `.j2` is the manifest's name.
const TEMPLATE_SUFFIX: &str = ".yaml.j2";

/// A directory under `manifests/` that is no group: its objects go through the API server.
const ADDONS: &str = "addons";

/// Every file of `manifests/`, by path within it. A test keeps the table equal to the directory.
pub const EMBEDDED: &[(&str, &str)] = &[
    ("README.md", include_str!("../../../manifests/README.md")),
    (
        "addons/README.md",
        include_str!("../../../manifests/addons/README.md"),
    ),
    (
        "compute/kube-proxy.yaml.j2",
        include_str!("../../../manifests/compute/kube-proxy.yaml.j2"),
    ),
    (
        "secure/etcd.yaml.j2",
        include_str!("../../../manifests/secure/etcd.yaml.j2"),
    ),
    (
        "secure/kube-apiserver.yaml.j2",
        include_str!("../../../manifests/secure/kube-apiserver.yaml.j2"),
    ),
    (
        "secure/kube-controller-manager.yaml.j2",
        include_str!("../../../manifests/secure/kube-controller-manager.yaml.j2"),
    ),
    (
        "secure/kube-scheduler.yaml.j2",
        include_str!("../../../manifests/secure/kube-scheduler.yaml.j2"),
    ),
];

/// Templates by group and file name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateSet {
    groups: BTreeMap<String, BTreeMap<String, String>>,
}

/// Why a working directory's templates can't be used: every mistake in it.
#[derive(Debug, thiserror::Error)]
#[error("the templates in {} can't be used:\n  {}", dir.display(), problems.join("\n  "))]
pub struct TemplatesError {
    /// The `manifests/` directory.
    pub dir: PathBuf,
    /// One line a mistake.
    pub problems: Vec<String>,
}

impl TemplateSet {
    /// The templates that platformctl was built with.
    pub fn embedded() -> Self {
        let mut set = Self::default();
        for (path, source) in EMBEDDED {
            if let Some((group, name)) = path.split_once('/') {
                set.add(group, name, source);
            }
        }
        set
    }

    /// The templates for a working directory: its own `manifests/` as a whole if it has one, else the embedded ones.
    ///
    /// # Errors
    /// Everything in `manifests/` that can't be read or has no meaning there.
    pub fn for_working_dir(working_dir: &Path) -> Result<Self, TemplatesError> {
        let dir = working_dir.join("manifests");
        if dir.is_dir() {
            Self::load(&dir)
        } else {
            Ok(Self::embedded())
        }
    }

    /// Reads a `manifests/` directory.
    ///
    /// # Errors
    /// Everything in it that can't be read or has no meaning there.
    pub fn load(dir: &Path) -> Result<Self, TemplatesError> {
        let mut set = Self::default();
        let mut problems = Vec::new();
        for (group, path) in list(dir, &mut problems) {
            if !path.is_dir() || group == ADDONS {
                continue;
            }
            set.groups.entry(group.clone()).or_default();
            for (name, path) in list(&path, &mut problems) {
                if name == "README.md" || name.starts_with('.') {
                    continue;
                }
                if !name.ends_with(TEMPLATE_SUFFIX) {
                    problems.push(format!(
                        "{group}/{name}: a template's name ends with {TEMPLATE_SUFFIX}"
                    ));
                    continue;
                }
                match fs::read_to_string(&path) {
                    Ok(source) => set.add(&group, &name, &source),
                    Err(error) => problems.push(format!("{group}/{name}: {error}")),
                }
            }
        }
        if problems.is_empty() {
            Ok(set)
        } else {
            Err(TemplatesError {
                dir: dir.to_owned(),
                problems,
            })
        }
    }

    /// Adds or replaces one template; a name that is no template's is left out.
    pub fn add(&mut self, group: &str, name: &str, source: &str) {
        if group != ADDONS && name.ends_with(TEMPLATE_SUFFIX) {
            self.groups
                .entry(group.to_owned())
                .or_default()
                .insert(name.to_owned(), source.to_owned());
        }
    }

    /// The groups there are templates for, sorted.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }

    /// One group's templates by file name; `None` when there is no such group.
    pub fn group(&self, group: &str) -> Option<&BTreeMap<String, String>> {
        self.groups.get(group)
    }
}

/// The name that a template's manifest has on a node.
pub(super) fn manifest_name(template: &str) -> String {
    template.strip_suffix(".j2").unwrap_or(template).to_owned()
}

/// A directory's entries with UTF-8 names, sorted.
fn list(dir: &Path, problems: &mut Vec<String>) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            problems.push(format!("{}: {error}", dir.display()));
            return found;
        }
    };
    for entry in entries {
        match entry.map(|entry| (entry.file_name().into_string(), entry.path())) {
            Ok((Ok(name), path)) => {
                found.insert(name, path);
            }
            Ok((Err(name), _)) => problems.push(format!(
                "{}: the name is not UTF-8",
                Path::new(&name).display()
            )),
            Err(error) => problems.push(format!("{}: {error}", dir.display())),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files_under(dir: &Path, prefix: &str, into: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            if entry.path().is_dir() {
                files_under(&entry.path(), &format!("{name}/"), into);
            } else {
                into.insert(name, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }

    #[test]
    fn the_embedded_table_is_the_directory() {
        let mut on_disk = BTreeMap::new();
        files_under(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests"),
            "",
            &mut on_disk,
        );
        let embedded: BTreeMap<String, String> = EMBEDDED
            .iter()
            .map(|(path, source)| ((*path).to_owned(), (*source).to_owned()))
            .collect();
        assert_eq!(embedded, on_disk);
    }

    #[test]
    fn a_working_directory_of_its_own_wins_whole() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            TemplateSet::for_working_dir(dir.path()).unwrap(),
            TemplateSet::embedded()
        );

        fs::create_dir_all(dir.path().join("manifests/edge")).unwrap();
        fs::create_dir_all(dir.path().join("manifests/addons")).unwrap();
        fs::write(dir.path().join("manifests/edge/proxy.yaml.j2"), "a: 1\n").unwrap();
        let set = TemplateSet::for_working_dir(dir.path()).unwrap();
        assert_eq!(set.groups().collect::<Vec<_>>(), ["edge"]);
    }

    #[test]
    fn every_stray_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("secure")).unwrap();
        for name in ["etcd.yaml", "etcd.yaml.j2~", "good.yaml.j2"] {
            fs::write(dir.path().join("secure").join(name), "").unwrap();
        }
        let problems = TemplateSet::load(dir.path()).unwrap_err().problems;
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
