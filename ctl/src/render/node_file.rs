//! `GROUP/node.yaml`: what a group's machines need besides files.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use shared::bundle::{InvalidTimeSpan, Mode, Restart, TimeSpan, Unpack};
use shared::check::yaml::parse_document;
use shared::names::{EntryPath, UnitName};

use super::RenderFailure;

/// The units that an agent restarts unless its own configuration says otherwise.
pub const RESTARTABLE_UNITS: [&str; 2] = ["kubelet.service", "containerd.service"];

/// After which time without a word a machine may be taken to be gone, where the file says none: at rest a machine writes
/// its status every five minutes.
const GONE_AFTER: TimeSpan = TimeSpan::from_secs(11 * 60);

/// How alike (0 to 1) two names must be for "did you mean".
const LIKENESS: f64 = 0.8;

/// What `node.yaml` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFile {
    /// Units to restart when a host file changes.
    pub restarts: Vec<RestartRule>,
    /// Artifacts of the machines.
    pub artifacts: Vec<ArtifactPlace>,
    /// What its machines do about etcd, where they run it.
    pub etcd: Option<EtcdRule>,
    /// The file, for messages about it.
    file: String,
}

/// A unit and the host files that it reads only at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartRule {
    /// The unit.
    pub unit: UnitName,
    /// Paths below `host/`, each a file or a directory with all in it.
    pub on: Vec<String>,
}

/// How the group's machines run etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdRule {
    /// The file of the release that its configuration is made from.
    pub base: EntryPath,
    /// Manifests that a machine without a member does not run.
    pub hold_back: Vec<EntryPath>,
    /// How long a machine says nothing until it may be taken to be gone.
    pub gone_after: TimeSpan,
}

/// Where an artifact goes on a machine; which bytes it has, the artifact list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactPlace {
    /// Its name in the artifact list.
    pub name: String,
    /// An absolute path: of the file, or of the directory that it is unpacked into.
    pub path: String,
    /// Permission bits of each file.
    pub mode: Mode,
    /// How its bytes become files.
    pub unpack: Unpack,
    /// The unit to restart when it changed.
    pub restart: Option<UnitName>,
}

impl NodeFile {
    /// Reads the text of `file`.
    ///
    /// # Errors
    /// Every field that is unknown, missing or of the wrong form.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<RenderFailure>> {
        let mut reader = Reader {
            file,
            failures: Vec::new(),
        };
        let mut node = Self {
            file: file.to_owned(),
            ..Self::default()
        };
        if super::addons::documents(text).is_empty() {
            return Ok(node);
        }
        let value = parse_document(text.as_bytes()).map_err(|problems| {
            let failure = |p: shared::check::yaml::YamlProblem| RenderFailure {
                file: file.to_owned(),
                line: p.line,
                path: p.path,
                message: p.message,
                help: None,
            };
            problems.into_iter().map(failure).collect::<Vec<_>>()
        })?;
        if let Some(object) = reader.object(&value, "", &["restarts", "artifacts", "etcd"]) {
            for (path, item) in reader.items(object, "restarts", "") {
                node.restarts.extend(reader.restart(&path, item));
            }
            for (path, item) in reader.items(object, "artifacts", "") {
                node.artifacts.extend(reader.artifact(&path, item));
            }
            node.etcd = object
                .get("etcd")
                .and_then(|etcd| reader.etcd("etcd", etcd));
        }
        if reader.failures.is_empty() {
            Ok(node)
        } else {
            Err(reader.failures)
        }
    }

    /// The restarts as an index has them: every path that is a directory is replaced by the files in it.
    ///
    /// # Errors
    /// Every path that no file of the release has.
    pub fn restarts_for<'a>(
        &self,
        files: impl Iterator<Item = &'a EntryPath> + Clone,
    ) -> Result<Vec<Restart>, Vec<RenderFailure>> {
        let mut units: BTreeMap<&UnitName, Vec<EntryPath>> = BTreeMap::new();
        let mut failures = Vec::new();
        for (i, rule) in self.restarts.iter().enumerate() {
            for (j, prefix) in rule.on.iter().enumerate() {
                let directory = format!("{}/", prefix.trim_end_matches('/'));
                let is_meant = |path: &&EntryPath| {
                    path.as_str() == prefix || path.as_str().starts_with(&directory)
                };
                let found: Vec<EntryPath> = files.clone().filter(is_meant).cloned().collect();
                if found.is_empty() {
                    let known = files.clone().map(EntryPath::as_str);
                    failures.push(RenderFailure {
                        file: self.file.clone(),
                        line: None,
                        path: Some(format!("restarts[{i}].on[{j}]")),
                        message: format!("no file of the release is {prefix} or lies in it"),
                        help: nearest(prefix, known.filter(|p| p.starts_with("host/"))),
                    });
                }
                units.entry(&rule.unit).or_default().extend(found);
            }
        }
        if !failures.is_empty() {
            return Err(failures);
        }
        let restarts = units.into_iter().map(|(unit, mut on)| {
            on.sort();
            on.dedup();
            Restart {
                unit: unit.clone(),
                on,
            }
        });
        Ok(restarts.collect())
    }
}

pub(super) struct Reader<'a> {
    pub(super) file: &'a str,
    pub(super) failures: Vec<RenderFailure>,
}

impl Reader<'_> {
    pub(super) fn fail(&mut self, path: &str, message: impl Into<String>, help: Option<String>) {
        self.failures.push(RenderFailure {
            file: self.file.to_owned(),
            line: None,
            path: (!path.is_empty()).then(|| path.to_owned()),
            message: message.into(),
            help,
        });
    }

    pub(super) fn object<'v>(
        &mut self,
        value: &'v Value,
        path: &str,
        known: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let Some(object) = value.as_object() else {
            self.fail(path, "must be an object", None);
            return None;
        };
        for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
            let help = nearest(key, known.iter().copied())
                .or_else(|| Some(format!("fields: {}", known.join(", "))));
            self.fail(&field(path, key), "unknown field", help);
        }
        Some(object)
    }

    pub(super) fn items<'v>(
        &mut self,
        object: &'v Map<String, Value>,
        key: &str,
        path: &str,
    ) -> Vec<(String, &'v Value)> {
        let path = field(path, key);
        match object.get(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items
                .iter()
                .enumerate()
                .map(|(i, item)| (format!("{path}[{i}]"), item))
                .collect(),
            Some(_) => {
                self.fail(&path, "must be a list", None);
                Vec::new()
            }
        }
    }

    /// A string; a missing one is told only where it must be there.
    pub(super) fn text<'v>(
        &mut self,
        object: &'v Map<String, Value>,
        key: &str,
        path: &str,
        required: bool,
    ) -> Option<&'v str> {
        match object.get(key) {
            Some(Value::String(text)) => return Some(text),
            Some(_) => self.fail(&field(path, key), "must be a string", None),
            None if required => self.fail(&field(path, key), "is missing", None),
            None => {}
        }
        None
    }

    fn unit(&mut self, path: &str, text: &str) -> Option<UnitName> {
        if !RESTARTABLE_UNITS.contains(&text) {
            let help = nearest(text, RESTARTABLE_UNITS.into_iter())
                .or_else(|| Some(format!("units: {}", RESTARTABLE_UNITS.join(", "))));
            let message = format!("{text:?} is no unit that an agent restarts");
            self.fail(path, message, help);
            return None;
        }
        UnitName::new(text).ok()
    }

    fn restart(&mut self, path: &str, item: &Value) -> Option<RestartRule> {
        let object = self.object(item, path, &["unit", "on"])?;
        let unit = self.text(object, "unit", path, true);
        let unit = unit.and_then(|unit| self.unit(&field(path, "unit"), unit));
        let items = self.items(object, "on", path);
        if items.is_empty() {
            self.fail(&field(path, "on"), "names no host file", None);
        }
        let mut on = Vec::new();
        for (path, item) in items {
            match item.as_str() {
                Some(text) if text.starts_with("host/") => on.push(text.to_owned()),
                _ => self.fail(&path, "must be a path that begins with host/", None),
            }
        }
        unit.map(|unit| RestartRule { unit, on })
    }

    fn etcd(&mut self, path: &str, item: &Value) -> Option<EtcdRule> {
        let object = self.object(item, path, &["base", "hold_back", "gone_after"])?;
        let base = self.text(object, "base", path, true);
        let base = base.and_then(|base| self.entry(&field(path, "base"), base, "secrets/"));
        let mut hold_back = Vec::new();
        for (path, item) in self.items(object, "hold_back", path) {
            let text = item.as_str().unwrap_or_default();
            hold_back.extend(self.entry(&path, text, "manifests/"));
        }
        let gone_after = match self.text(object, "gone_after", path, false) {
            None => Some(GONE_AFTER),
            Some(text) => match text.parse() {
                Ok(span) => Some(span),
                Err(e) => {
                    let e: InvalidTimeSpan = e;
                    self.fail(&field(path, "gone_after"), e.to_string(), None);
                    None
                }
            },
        };
        Some(EtcdRule {
            base: base?,
            hold_back,
            gone_after: gone_after?,
        })
    }

    fn entry(&mut self, path: &str, text: &str, below: &str) -> Option<EntryPath> {
        match EntryPath::new(text) {
            Ok(entry) if text.starts_with(below) => Some(entry),
            _ => {
                let message = format!("must be a path that begins with {below}");
                self.fail(path, message, None);
                None
            }
        }
    }

    fn artifact(&mut self, path: &str, item: &Value) -> Option<ArtifactPlace> {
        let known = ["name", "path", "mode", "unpack", "restart"];
        let object = self.object(item, path, &known)?;
        let name = self.text(object, "name", path, true);
        let place = self.text(object, "path", path, true);
        if place.is_some_and(|place| !place.starts_with('/')) {
            self.fail(&field(path, "path"), "must be an absolute path", None);
        }
        let mode = self.text(object, "mode", path, true);
        let bits = mode.and_then(|text| u32::from_str_radix(text, 8).ok());
        if mode.is_some() && bits.is_none_or(|bits| bits & !0o755 != 0 || bits & 0o400 == 0) {
            let help = "write \"0755\" or less".to_owned();
            self.fail(&field(path, "mode"), "is no file mode", Some(help));
        }
        let unpack = match self.text(object, "unpack", path, false) {
            None | Some("none") => Unpack::None,
            Some("tar-zst") => Unpack::TarZst,
            Some(_) => {
                self.fail(&field(path, "unpack"), "must be none or tar-zst", None);
                Unpack::None
            }
        };
        let restart = match self.text(object, "restart", path, false) {
            Some(unit) => self.unit(&field(path, "restart"), unit),
            None => None,
        };
        Some(ArtifactPlace {
            name: name?.to_owned(),
            path: place?.to_owned(),
            mode: Mode::new(bits?),
            unpack,
            restart,
        })
    }
}

pub(super) fn field(path: &str, key: &str) -> String {
    shared::check::yaml::join_key(path, key)
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let (_, best) = known
        .map(|candidate| (strsim::jaro_winkler(candidate, name), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!("did you mean {best}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "restarts:
  - unit: kubelet.service
    on: [host/kubelet/, host/kubelet/config.yaml]
artifacts:
  - {name: kubelet, path: /opt/bin/kubelet, mode: \"0755\", restart: kubelet.service}
  - {name: cni, path: /opt/cni/bin, mode: \"0755\", unpack: tar-zst}
";

    fn paths(paths: &[&str]) -> Vec<EntryPath> {
        paths.iter().map(|p| EntryPath::new(*p).unwrap()).collect()
    }

    #[test]
    fn a_good_file_is_read_and_its_directories_are_expanded() {
        let node = NodeFile::parse("secure/node.yaml", GOOD).unwrap();
        assert_eq!(node.artifacts.len(), 2);
        assert_eq!(node.artifacts[1].unpack, Unpack::TarZst);
        let files = paths(&[
            "host/kubelet/config.yaml",
            "host/kubelet/ca.crt",
            "host/kubelet2",
            "manifests/a.yaml",
        ]);
        let restarts = node.restarts_for(files.iter()).unwrap();
        assert_eq!(restarts.len(), 1);
        assert_eq!(
            restarts[0].on,
            paths(&["host/kubelet/ca.crt", "host/kubelet/config.yaml"])
        );
        assert_eq!(
            NodeFile::parse("x", "# nothing\n").unwrap().restarts,
            vec![]
        );
    }

    #[test]
    fn a_path_without_a_file_is_named_with_its_field() {
        let text = "restarts: [{unit: kubelet.service, on: [host/kubelet/confg.yaml]}]\n";
        let node = NodeFile::parse("secure/node.yaml", text).unwrap();
        let files = paths(&["host/kubelet/config.yaml"]);
        let failures = node.restarts_for(files.iter()).unwrap_err();
        assert_eq!(
            failures[0].to_string(),
            "secure/node.yaml: restarts[0].on[0]: no file of the release is host/kubelet/confg.yaml or lies in it \
             (did you mean host/kubelet/config.yaml?)"
        );
    }

    #[test]
    fn every_mistake_is_told_with_its_field() {
        let text = "restart: []
etcd: {base: host/x, hold_back: [etcd.yaml], gone_after: soon, x: 1}
restarts:
  - {unit: kubelt.service, on: [kubelet/config.yaml], when: now}
  - {on: host/x}
artifacts:
  - {name: kubelet, path: opt/kubelet, mode: \"0777\", unpack: zip, restart: sshd.service}
  - kubelet
";
        let found = NodeFile::parse("secure/node.yaml", text).unwrap_err();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected = [
            "restart: unknown field (did you mean restarts?)",
            "restarts[0].when: unknown field (fields: unit, on)",
            "restarts[0].unit: \"kubelt.service\" is no unit that an agent restarts (did you mean kubelet.service?)",
            "restarts[0].on[0]: must be a path that begins with host/",
            "restarts[1].unit: is missing",
            "restarts[1].on: must be a list",
            "restarts[1].on: names no host file",
            "artifacts[0].path: must be an absolute path",
            "artifacts[0].mode: is no file mode",
            "artifacts[0].unpack: must be none or tar-zst",
            "artifacts[0].restart: \"sshd.service\" is no unit that an agent restarts (units: ",
            "artifacts[1]: must be an object",
            "etcd.x: unknown field (fields: base, hold_back, gone_after)",
            "etcd.base: must be a path that begins with secrets/",
            "etcd.hold_back[0]: must be a path that begins with manifests/",
            "etcd.gone_after: \"soon\" is no length of time",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                found.starts_with(&format!("secure/node.yaml: {expected}")),
                "{found}\n{expected}"
            );
        }
    }
}
