//! `artifacts.toml`: which bytes each artifact's name stands for.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use shared::digest::Sha256Digest;
use shared::durable::{self, Attributes};
use shared::limits;

use crate::exit::mistake;

/// The list's name in the working directory.
pub const FILE: &str = "artifacts.toml";
/// The artifact that every node's agent becomes.
pub const AGENT: &str = "platform-agent";

const HEAD: &str = "# The artifacts of the environments' machines: which bytes each name stands for. Written by `platformctl artifacts`;\n\
                    # commit it: it is what a review sees of them.\n";

/// An artifact's bytes, and where they are from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactEntry {
    /// Its name, as `node.yaml` uses it.
    pub name: String,
    /// Its version, for people; part of the signed target's name.
    pub version: String,
    /// Where it was read: a URL, or the name of a file.
    pub source: String,
    /// Digest of what was read there.
    pub source_sha256: Sha256Digest,
    /// The one file of that archive which it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Whether it is many files: a tar archive under zstd.
    #[serde(default)]
    pub archive: bool,
    /// Digest of the bytes that nodes fetch.
    pub sha256: Sha256Digest,
    /// Their length.
    pub bytes: u64,
}

/// The list, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArtifactList {
    entries: BTreeMap<String, ArtifactEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    artifact: Vec<ArtifactEntry>,
}

// === impl ArtifactEntry ===

impl ArtifactEntry {
    /// The name of the signed target.
    #[must_use]
    pub fn target(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// Everything that is wrong with it.
    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for (what, text) in [("name", &self.name), ("version", &self.version)] {
            if !is_plain(text) {
                mistakes.push(format!(
                    "{FILE}: {what} {text:?} is not 1 to 48 of letters, digits and ._-, without a leading dot"
                ));
            }
        }
        if self.bytes == 0 || self.bytes > limits::ARTIFACT_BYTES {
            let bytes = self.bytes;
            mistakes.push(format!(
                "{FILE}: artifact {} has {bytes} bytes; 1 to {} are allowed",
                self.name,
                limits::ARTIFACT_BYTES
            ));
        }
        mistakes
    }
}

fn is_plain(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= 48 && !text.starts_with('.') && text.bytes().all(ok)
}

// === impl ArtifactList ===

impl ArtifactList {
    /// Reads the list of a working directory; an empty one where there is none.
    ///
    /// # Errors
    /// A [`crate::exit::Mistake`] with everything that is wrong with it.
    pub fn load(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let document: Document =
            toml::from_str(text).map_err(|e| mistake(format!("{FILE}: {e}")))?;
        let mut list = Self::default();
        let mut mistakes = Vec::new();
        for entry in document.artifact {
            mistakes.extend(entry.mistakes());
            let name = entry.name.clone();
            if list.entries.insert(name.clone(), entry).is_some() {
                mistakes.push(format!("{FILE}: artifact {name} is there twice"));
            }
        }
        match mistakes.is_empty() {
            true => Ok(list),
            false => Err(mistake(mistakes.join("\n"))),
        }
    }

    /// Writes the list.
    ///
    /// # Errors
    /// What could not be written.
    pub fn save(&self, directory: &Path) -> anyhow::Result<()> {
        let text = self.text().into_bytes();
        durable::write_file(&directory.join(FILE), &text, Attributes::mode(0o644))?;
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        // A JSON text is a TOML text for everything that a source or a name holds.
        let quoted = |t: &dyn std::fmt::Display| serde_json::Value::String(t.to_string());
        for e in self.entries.values() {
            text.push_str("\n[[artifact]]\n");
            let mut line = |key: &str, value: String| text.push_str(&format!("{key} = {value}\n"));
            line("name", quoted(&e.name).to_string());
            line("version", quoted(&e.version).to_string());
            line("source", quoted(&e.source).to_string());
            line("source_sha256", quoted(&e.source_sha256).to_string());
            if let Some(member) = &e.member {
                line("member", quoted(member).to_string());
            }
            if e.archive {
                line("archive", "true".to_owned());
            }
            line("sha256", quoted(&e.sha256).to_string());
            line("bytes", e.bytes.to_string());
        }
        text
    }

    /// Puts an entry in, in place of one of its name.
    ///
    /// # Errors
    /// A [`crate::exit::Mistake`] for an entry that breaks a rule, or other bytes under a version that has some.
    pub fn put(&mut self, entry: ArtifactEntry) -> anyhow::Result<()> {
        let mut mistakes = entry.mistakes();
        if let Some(old) = self.entries.get(&entry.name)
            && old.version == entry.version
            && old.sha256 != entry.sha256
        {
            mistakes.push(format!(
                "artifact {} {} is listed with other bytes ({}): a version names one content, so give another --version",
                old.name,
                old.version,
                old.sha256.short()
            ));
        }
        if !mistakes.is_empty() {
            return Err(mistake(mistakes.join("\n")));
        }
        self.entries.insert(entry.name.clone(), entry);
        Ok(())
    }

    /// Takes an entry out.
    pub fn remove(&mut self, name: &str) -> Option<ArtifactEntry> {
        self.entries.remove(name)
    }

    /// One entry.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ArtifactEntry> {
        self.entries.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &ArtifactEntry> {
        self.entries.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(version: &str, bytes: &[u8]) -> ArtifactEntry {
        ArtifactEntry {
            name: "crictl".into(),
            version: version.into(),
            source: "https://example/\"quoted\"\\crictl.tgz".into(),
            source_sha256: Sha256Digest::of(b"tgz"),
            member: Some("crictl".into()),
            archive: false,
            sha256: Sha256Digest::of(bytes),
            bytes: bytes.len() as u64,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut list = ArtifactList::default();
        list.put(entry("v1.36.0", b"one")).unwrap();
        assert_eq!(ArtifactList::parse(&list.text()).unwrap(), list);
        assert_eq!(list.get("crictl").unwrap().target(), "crictl-v1.36.0");
    }

    #[test]
    fn a_version_names_one_content() {
        let mut list = ArtifactList::default();
        list.put(entry("v1", b"one")).unwrap();
        list.put(entry("v1", b"one")).unwrap();
        assert!(list.put(entry("v1", b"two")).is_err());
        list.put(entry("v2", b"two")).unwrap();
        assert!(list.put(entry("../v3", b"two")).is_err());
        assert!(list.put(entry("v4", b"")).is_err());
    }

    #[test]
    fn every_mistake_at_once() {
        let one = ArtifactEntry {
            bytes: 0,
            ..entry("v 1", b"x")
        };
        let list = ArtifactList {
            entries: [("a".to_owned(), one.clone()), ("b".to_owned(), one)].into(),
        };
        let error = ArtifactList::parse(&list.text()).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 5, "{error}");
        assert!(ArtifactList::parse("[[artifact]]\nnam = 1\n").is_err());
    }
}
