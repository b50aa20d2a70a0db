//! The attack fixtures: one directory an attack below `tests/fixtures/attacks`, made by the example `make_attacks`.
//!
//! A directory holds `attack.toml` (a [`Description`]), `bucket/` (the objects of the secrets bucket as the attacker
//! left it), `node/` (what the machine was installed with) and, where the attack needs a node that has a release
//! already, `before/`: the objects of the bucket that the node adopts first.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

/// The environment of every fixture.
pub const ENVIRONMENT: &str = "local";
/// The group of the node under attack.
pub const GROUP: &str = "secure";
/// The node under attack.
pub const NODE: &str = "secure-1";
/// The bucket that `bucket/` stands for.
pub const BUCKET: &str = "platform-local-secrets";
/// What an attack does and how it must end.
pub const DESCRIPTION: &str = "attack.toml";
/// The table of all attacks, beside their directories.
pub const TABLE: &str = "README.md";

/// What `attack.toml` says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The attack in one sentence.
    pub does: String,
    /// Files, relative to the node's own directory, that are cut off in the middle after `before/` was adopted.
    #[serde(default)]
    pub cut: Vec<String>,
    /// The same, removed.
    #[serde(default)]
    pub remove: Vec<String>,
    /// How it must end.
    pub expect: Expect,
}

/// How an attack must end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Expect {
    /// No attack: the node adopts this release. It shows that the suite can tell the two apart.
    Adopted {
        /// The release.
        release: u64,
    },
    /// The node refuses, and nothing below its /etc/kubernetes is touched.
    Refused {
        /// What its error must say.
        text: String,
        /// The phase and kind in its status object; none where it can't open its own state, so that only its output tells.
        status: Option<Named>,
    },
    /// `platformctl status` does not believe a status object, and names it.
    Disbelieved {
        /// The node that the object's key names.
        node: String,
        /// What the objection must say.
        text: String,
    },
}

/// Where and how the agent says that it failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The phase.
    pub phase: String,
    /// The kind, which metrics use too.
    pub kind: String,
}

/// One fixture.
#[derive(Debug, Clone)]
pub struct Attack {
    /// The directory's name.
    pub name: String,
    /// The directory.
    pub directory: PathBuf,
    /// What its `attack.toml` says.
    pub description: Description,
}

/// Where the fixtures are.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/attacks")
}

/// Every fixture, by name.
///
/// # Errors
/// A directory without a description that parses.
pub fn all() -> anyhow::Result<Vec<Attack>> {
    let directory = directory();
    let mut attacks = Vec::new();
    for entry in
        fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let path = entry.path().join(DESCRIPTION);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let description =
            toml::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        attacks.push(Attack {
            name: entry.file_name().to_string_lossy().into_owned(),
            directory: entry.path(),
            description,
        });
    }
    attacks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(attacks)
}

/// The names in the first column of the table in `README.md`, in its order.
#[must_use]
pub fn names_in_table(table: &str) -> Vec<&str> {
    table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect()
}
