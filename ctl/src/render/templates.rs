//! The templates of all groups: the embedded ones, or those of a working directory, never a mixture.
//!
//! | below `manifests/` | becomes |
//! | --- | --- |
//! | `GROUP/NAME.yaml.j2` | a static pod |
//! | `GROUP/files/POD/NAME.j2` | a file of that pod's secret directory, for configuration that is no secret |
//! | `GROUP/host/PATH.j2` | a file of the host |
//! | `GROUP/node.yaml` | what the group's machines need besides files; no template |
//! | `GROUP/rollout.yaml` | how the group's releases are rolled out; no template |
//! | `addons/NAME.yaml.j2` | API objects, for the groups that have the pod `addons` |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use shared::names::EntryPath;

use super::embedded::EMBEDDED;

/// The end of every template's name; what is left without it is the name on a node.
const SUFFIX: &str = ".j2";
/// The end of the name of a template that is a pod or holds API objects.
const YAML_SUFFIX: &str = ".yaml.j2";
/// A directory under `manifests/` that is no group: its objects go through the API server.
const ADDONS: &str = "addons";
/// Directories may nest this deep, which a link in a circle would exceed.
const MAX_DEPTH: usize = 8;

/// Templates by place and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateSet {
    groups: BTreeMap<String, GroupTemplates>,
    addons: BTreeMap<String, String>,
}

/// The templates of one group. Every key is the name that the result has on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupTemplates {
    /// Static pods by file name, such as `etcd.yaml`.
    pub pods: BTreeMap<String, String>,
    /// Files of a pod's secret directory, by pod and name.
    pub files: BTreeMap<(String, String), String>,
    /// Files of the host, by path below `host/`.
    pub host: BTreeMap<String, String>,
    /// The text of `node.yaml`.
    pub node: Option<String>,
    /// The text of `rollout.yaml`.
    pub rollout: Option<String>,
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
            set.add(path, source);
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
        for (top, path) in list(dir, &mut problems) {
            if !path.is_dir() || top.starts_with('.') {
                continue;
            }
            if top != ADDONS {
                set.groups.entry(top.clone()).or_default();
            }
            set.load_below(&top, &path, 1, &mut problems);
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

    fn load_below(&mut self, prefix: &str, dir: &Path, depth: usize, problems: &mut Vec<String>) {
        for (name, path) in list(dir, problems) {
            let place = format!("{prefix}/{name}");
            if name == "README.md" || name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                if depth < MAX_DEPTH {
                    self.load_below(&place, &path, depth + 1, problems);
                } else {
                    problems.push(format!("{place}: directories nest too deep"));
                }
                continue;
            }
            match fs::read_to_string(&path) {
                Ok(source) => {
                    if let Err(problem) = self.place(&place, &source) {
                        problems.push(format!("{place}: {problem}"));
                    }
                }
                Err(error) => problems.push(format!("{place}: {error}")),
            }
        }
    }

    /// Adds or replaces one template, by its path below `manifests/`; a path that has no meaning there is left out.
    pub fn add(&mut self, path: &str, source: &str) {
        let _ = self.place(path, source);
    }

    fn place(&mut self, path: &str, source: &str) -> Result<(), String> {
        let parts: Vec<&str> = path.split('/').collect();
        let source = source.to_owned();
        match parts.as_slice() {
            [ADDONS, name] => {
                self.addons.insert(yaml_name(name)?, source);
            }
            [ADDONS, ..] => return Err("addons have no directories of their own".to_owned()),
            [name, "node.yaml"] => self.group_mut(name).node = Some(source),
            [name, "rollout.yaml"] => self.group_mut(name).rollout = Some(source),
            [name, "files", pod, file] => {
                let file = plain_name(file)?;
                entry_path(&format!("secrets/{pod}/{file}"))?;
                self.group_mut(name)
                    .files
                    .insert(((*pod).to_owned(), file), source);
            }
            [_, "files", ..] => {
                return Err("the files of a pod are files/POD/NAME.j2".to_owned());
            }
            [name, "host", below @ ..] if !below.is_empty() => {
                let place = plain_name(&below.join("/"))?;
                entry_path(&format!("host/{place}"))?;
                self.group_mut(name).host.insert(place, source);
            }
            [name, file] => {
                let file = yaml_name(file)?;
                self.group_mut(name).pods.insert(file, source);
            }
            _ => {
                return Err(
                    "a group has templates, node.yaml, rollout.yaml, and the directories files/ and host/"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }

    fn group_mut(&mut self, name: &str) -> &mut GroupTemplates {
        self.groups.entry(name.to_owned()).or_default()
    }

    /// The groups there are templates for, sorted.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }

    /// One group's templates; `None` when there is no such group.
    pub fn group(&self, group: &str) -> Option<&GroupTemplates> {
        self.groups.get(group)
    }

    /// The templates of API objects, by the name without `.j2`.
    pub fn addons(&self) -> &BTreeMap<String, String> {
        &self.addons
    }
}

fn yaml_name(template: &str) -> Result<String, String> {
    if template.ends_with(YAML_SUFFIX) {
        plain_name(template)
    } else {
        Err(format!("a template's name ends with {YAML_SUFFIX}"))
    }
}

/// The name that a template's result has on a node.
fn plain_name(template: &str) -> Result<String, String> {
    let name = template.strip_suffix(SUFFIX);
    name.filter(|name| !name.is_empty())
        .map(str::to_owned)
        .ok_or_else(|| format!("a template's name ends with {SUFFIX}"))
}

fn entry_path(path: &str) -> Result<(), String> {
    EntryPath::new(path)
        .map(drop)
        .map_err(|error| error.to_string())
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
        let bad = [
            "addons/deeper/a.yaml.j2",
            "addons/plain.yaml",
            "secure/etcd.yaml",
            "secure/etcd.yaml.j2~",
            "secure/files/audit.yaml.j2",
            "secure/files/etcd/plain.yaml",
            "secure/host/a b.j2",
            "secure/host/plain.yaml",
            "secure/other/a.yaml.j2",
        ];
        let good = [
            "addons/README.md",
            "secure/.swp",
            "secure/good.yaml.j2",
            "secure/node.yaml",
            "secure/files/etcd/config.yaml.j2",
            "secure/host/kubelet/config.yaml.j2",
        ];
        for path in bad.iter().chain(&good) {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let problems = TemplateSet::load(dir.path()).unwrap_err().problems;
        let named: Vec<&str> = problems
            .iter()
            .map(|p| p.split_once(": ").unwrap().0)
            .collect();
        assert_eq!(named, bad, "{problems:#?}");
    }

    #[test]
    fn every_place_has_its_meaning() {
        let mut set = TemplateSet::default();
        for path in [
            "addons/dns.yaml.j2",
            "secure/etcd.yaml.j2",
            "secure/node.yaml",
            "secure/files/etcd/config.yaml.j2",
            "secure/host/kubelet/config.yaml.j2",
        ] {
            set.add(path, path);
        }
        let secure = set.group("secure").unwrap();
        assert_eq!(set.addons()["dns.yaml"], "addons/dns.yaml.j2");
        assert_eq!(secure.pods["etcd.yaml"], "secure/etcd.yaml.j2");
        assert_eq!(secure.node.as_deref(), Some("secure/node.yaml"));
        assert_eq!(secure.host.len(), 1);
        assert!(secure.host.contains_key("kubelet/config.yaml"));
        let file = ("etcd".to_owned(), "config.yaml".to_owned());
        assert!(secure.files.contains_key(&file));
    }
}
