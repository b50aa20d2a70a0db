//! One fixture, and how it is written down.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use platform_tests::attacks::{DESCRIPTION, ENVIRONMENT, Expect, GROUP, Named};
use shared::wrap::LocalWrap;

use crate::content::{Files, pod};
use crate::publisher::{Bucket, Publisher, Sealed};

/// The release of a node that has one before the attack.
pub const BEFORE: u64 = 3;
/// What an attacker wants the node to adopt.
pub const NEXT: u64 = 4;

/// A directory of `tests/fixtures/attacks`.
pub struct Fixture {
    pub name: &'static str,
    pub does: &'static str,
    pub bucket: Bucket,
    pub before: Option<Bucket>,
    pub cut: Vec<&'static str>,
    pub remove: Vec<&'static str>,
    pub expect: Expect,
    pub root: Bytes,
    pub wrap_key: Vec<u8>,
}

/// What all attacks begin with.
pub struct Stage {
    /// The publisher whom the node trusts.
    pub publisher: Publisher,
    /// Another group of the same environment.
    pub compute: Publisher,
    /// The files of the release that the node has.
    pub files: Files,
    /// Other files, that would be seen on the node: with a pod more.
    pub changed: Files,
    /// The release that the node has.
    pub release: Sealed,
    /// The bucket with just that release.
    pub before: Bucket,
    wrap_key: Vec<u8>,
}

impl Stage {
    pub async fn new(wrap: &Arc<LocalWrap>, wrap_key: Vec<u8>) -> anyhow::Result<Self> {
        let publisher = Publisher::new(ENVIRONMENT, GROUP, wrap).await?;
        let files = Files::genuine(&publisher)?;
        let release = publisher.release(BEFORE, &files).await?;
        Ok(Self {
            before: publisher.publish(BEFORE, &[&release]).await?,
            compute: Publisher::new(ENVIRONMENT, "compute", wrap).await?,
            changed: files.with(
                "manifests/intruder.yaml",
                pod("intruder", &serde_json::json!([])).as_bytes(),
            ),
            release,
            publisher,
            files,
            wrap_key,
        })
    }

    pub fn fixture(
        &self,
        name: &'static str,
        does: &'static str,
        bucket: Bucket,
        expect: Expect,
    ) -> Fixture {
        Fixture {
            name,
            does,
            bucket,
            before: None,
            cut: Vec::new(),
            remove: Vec::new(),
            expect,
            root: self.publisher.roots[0].clone(),
            wrap_key: self.wrap_key.clone(),
        }
    }

    /// An attack on a node without a release.
    pub fn refused(
        &self,
        name: &'static str,
        does: &'static str,
        bucket: Bucket,
        (phase, kind, text): (&str, &str, &str),
    ) -> Fixture {
        let expect = Expect::Refused {
            text: text.to_owned(),
            status: Some(Named {
                phase: phase.to_owned(),
                kind: kind.to_owned(),
            }),
        };
        self.fixture(name, does, bucket, expect)
    }

    /// The same on a node that has release [`BEFORE`].
    pub fn refused_later(
        &self,
        name: &'static str,
        does: &'static str,
        bucket: Bucket,
        expected: (&str, &str, &str),
    ) -> Fixture {
        let before = Some(self.before.clone());
        Fixture {
            before,
            ..self.refused(name, does, bucket, expected)
        }
    }

    /// A genuine release [`NEXT`] of the changed files.
    pub async fn next(&self) -> anyhow::Result<Sealed> {
        self.publisher.release(NEXT, &self.changed).await
    }

    /// The bucket with this bundle, genuinely signed, as the release [`NEXT`].
    pub async fn publish_next(&self, sealed: &Sealed) -> anyhow::Result<Bucket> {
        self.publisher.publish(NEXT, &[sealed]).await
    }
}

impl Fixture {
    /// Writes the directory below `all`, which must not have it yet.
    pub fn write(&self, all: &Path) -> anyhow::Result<()> {
        let directory = all.join(self.name);
        let node = directory.join("node");
        fs::create_dir_all(&node)?;
        fs::write(node.join("root.json"), &self.root)?;
        fs::write(node.join("wrap.key"), &self.wrap_key)?;
        write_bucket(&directory.join("bucket"), &self.bucket)?;
        if let Some(before) = &self.before {
            write_bucket(&directory.join("before"), before)?;
        }
        fs::write(directory.join(DESCRIPTION), self.description()?)?;
        Ok(())
    }

    fn description(&self) -> anyhow::Result<String> {
        // A JSON string is a TOML string.
        let text = |s: &str| serde_json::to_string(s);
        let mut toml = format!("does = {}\n", text(self.does)?);
        if !self.cut.is_empty() {
            toml.push_str(&format!("cut = {}\n", serde_json::to_string(&self.cut)?));
        }
        if !self.remove.is_empty() {
            let files = serde_json::to_string(&self.remove)?;
            toml.push_str(&format!("remove = {files}\n"));
        }
        toml.push_str("\n[expect]\n");
        toml.push_str(&match &self.expect {
            Expect::Adopted { release } => format!("outcome = \"adopted\"\nrelease = {release}\n"),
            Expect::Refused { text: said, status } => {
                let named = match status {
                    Some(Named { phase, kind }) => format!(
                        "\n[expect.status]\nphase = {}\nkind = {}\n",
                        text(phase)?,
                        text(kind)?
                    ),
                    None => String::new(),
                };
                format!("outcome = \"refused\"\ntext = {}\n{named}", text(said)?)
            }
            Expect::Disbelieved { node, text: said } => format!(
                "outcome = \"disbelieved\"\nnode = {}\ntext = {}\n",
                text(node)?,
                text(said)?
            ),
        });
        Ok(toml)
    }

    /// The fixture's line in the table.
    pub fn row(&self) -> String {
        let (ending, said) = match &self.expect {
            Expect::Adopted { release } => (format!("release {release} is adopted"), String::new()),
            Expect::Refused { text, status } => {
                let named = match status {
                    Some(Named { phase, kind }) => format!("{phase}, {kind}"),
                    None => "at its start".to_owned(),
                };
                (named, code(text))
            }
            Expect::Disbelieved { node, text } => (format!("`status` of {node}"), code(text)),
        };
        format!("| `{}` | {} | {ending} | {said} |\n", self.name, self.does)
    }
}

fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

fn write_bucket(directory: &Path, bucket: &Bucket) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    for (key, bytes) in &bucket.0 {
        let path = directory.join(key);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, bytes)?;
    }
    Ok(())
}
