//! `platformctl artifacts`.

use std::path::Path;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::names::GroupName;

use super::EnvironmentArg;
use crate::artifact::{AGENT, ArtifactEntry, ArtifactList, FILE, convert, fetch, is_url, keep};
use crate::context::Workspace;
use crate::exit::{Outcome, mistake};
use crate::output::{self, Format};
use crate::release::render_input;
use crate::render::render;

#[derive(Debug, Args)]
pub(super) struct ArtifactsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read an artifact from a file or a URL, and list it in artifacts.toml; the next publish uploads it, so no bucket is
    /// needed yet. `platform-agent` is the agent that every node updates itself to then.
    Add(AddArgs),
    /// Show the list, and which group uses what where.
    List(ListArgs),
    /// Take an artifact off the list; one that a node.yaml uses stays. Its bytes stay in the bucket until no kept release names them
    /// and `gc` collects them.
    Rm(RmArgs),
}

#[derive(Debug, Args)]
// Its --version is the artifact's.
#[command(disable_version_flag = true)]
struct AddArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The name under which node.yaml asks for it.
    name: String,
    /// A file, or a URL (https or http). A .tgz becomes an archive of its executables, or one of its files.
    #[arg(value_name = "FILE|URL")]
    source: String,
    /// What it must be, before any conversion; required for a URL.
    #[arg(long, value_name = "DIGEST")]
    sha256: Option<Sha256Digest>,
    /// For people, and for the target's name; by default the first digits of the digest.
    #[arg(long, value_name = "TEXT")]
    version: Option<String>,
    /// Take this one file out of a .tgz.
    #[arg(long, value_name = "FILE")]
    member: Option<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct RmArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The artifact.
    name: String,
}

impl ArtifactsArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        match self.verb {
            Verb::Add(args) => args.run(directory).await,
            Verb::List(args) => args.run(directory),
            Verb::Rm(args) => args.run(directory),
        }
    }
}

impl AddArgs {
    async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        if self.sha256.is_none() && is_url(&self.source) {
            return Err(mistake(
                "--sha256 is missing: what a server gives is listed only if it is what its publisher says (most publish a \
                 .sha256 file beside it)",
            ));
        }
        Workspace::open(directory, &self.environment.environment)?;
        let mut list = ArtifactList::load(directory)?;
        let read = fetch(&self.source).await?;
        let source_sha256 = Sha256Digest::of(&read);
        if let Some(pinned) = self.sha256.filter(|pinned| *pinned != source_sha256) {
            return Err(mistake(format!(
                "{} has the digest {source_sha256}, not {pinned}: nothing was listed",
                self.source
            )));
        }
        let converted = convert(read, self.member.as_deref())
            .map_err(|e| mistake(format!("{} cannot be an artifact: {e:#}", self.source)))?;
        let sha256 = Sha256Digest::of(&converted.bytes);
        let entry = ArtifactEntry {
            version: self.version.unwrap_or_else(|| sha256.short()),
            name: self.name,
            source: self.source,
            source_sha256,
            member: self.member,
            archive: converted.archive,
            sha256,
            bytes: converted.bytes.len() as u64,
        };
        list.put(entry.clone())?;
        keep(directory, &sha256, &converted.bytes)?;
        list.save(directory)
            .with_context(|| format!("{} was not listed", entry.name))?;
        output::line(format!(
            "listed {} {} ({} bytes, {}) in {FILE}; commit it, and publish to deliver it",
            entry.name,
            entry.version,
            entry.bytes,
            entry.sha256.short()
        ));
        Ok(Outcome::Done)
    }
}

impl ListArgs {
    fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let list = ArtifactList::load(directory)?;
        let uses = uses(&workspace)?;
        let used_by = |name: &str| -> Vec<(&GroupName, &String)> {
            let of_name = uses.iter().filter(|(n, _, _)| n == name);
            of_name.map(|(_, group, path)| (group, path)).collect()
        };
        if self.output == Format::Json {
            let all: Vec<Value> = list
                .iter()
                .map(|e| {
                    let uses: Vec<Value> = used_by(&e.name)
                        .iter()
                        .map(|(group, path)| json!({"group": group, "path": path}))
                        .collect();
                    json!({"artifact": e, "target": e.target(), "uses": uses})
                })
                .collect();
            output::line(serde_json::to_string_pretty(&all)?);
            return Ok(Outcome::Done);
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["NAME", "VERSION", "BYTES", "SHA256", "USED BY", "SOURCE"]);
        for e in list.iter() {
            let mut users: Vec<String> = used_by(&e.name)
                .iter()
                .map(|(group, path)| format!("{group}:{path}"))
                .collect();
            if e.name == AGENT {
                users.push("every node".to_owned());
            }
            table.add_row([
                e.name.clone(),
                e.version.clone(),
                e.bytes.to_string(),
                e.sha256.short(),
                users.join(", "),
                e.source.clone(),
            ]);
        }
        output::line(table.trim_fmt());
        Ok(Outcome::Done)
    }
}

impl RmArgs {
    fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let workspace = Workspace::open(directory, &self.environment.environment)?;
        let mut list = ArtifactList::load(directory)?;
        let users: Vec<String> = uses(&workspace)?
            .iter()
            .filter(|(name, _, _)| *name == self.name)
            .map(|(_, group, path)| format!("manifests/{group}/node.yaml ({path})"))
            .collect();
        if !users.is_empty() {
            return Err(mistake(format!(
                "artifact {} is used by {}: take it out there first",
                self.name,
                users.join(" and ")
            )));
        }
        if list.remove(&self.name).is_none() {
            let name = &self.name;
            return Err(mistake(format!("there is no artifact {name} in {FILE}")));
        }
        list.save(directory)?;
        output::line(format!("{} is off the list", self.name));
        Ok(Outcome::Done)
    }
}

/// Artifact, group and place, as the groups' node.yaml have them.
fn uses(workspace: &Workspace) -> anyhow::Result<Vec<(String, GroupName, String)>> {
    let mut all = Vec::new();
    for group in &workspace.groups {
        let rendered = render(&render_input(
            workspace,
            group,
            None,
            jiff::Timestamp::now(),
        )?)?;
        let places = rendered.node.artifacts.into_iter();
        all.extend(places.map(|p| (p.name, group.clone(), p.path)));
    }
    Ok(all)
}
