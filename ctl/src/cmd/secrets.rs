//! `platformctl secrets`.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _, stdin, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use shared::documents::OwnFile;
use shared::durable::{self, Attributes};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::EnvironmentArg;
use crate::context::Context;
use crate::exit::{Outcome, mistake};
use crate::keyring;
use crate::output::{self, Format};
use crate::secrets::{
    ChangedMeanwhile, FileMode, Owner, Scratch, SecretName, get, list, put, read_value, remove,
    replace,
};

/// Files of your own that a pod needs, encrypted in the keyring and delivered with the next release.
///
/// A file goes to the secret directory of its pod, which restarts with it. A value is never an argument: it comes from a
/// file or from standard input.
#[derive(Debug, Args)]
pub(super) struct SecretsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the files' names, sizes, modes and owners; never what they hold.
    List(ListArgs),
    /// Write a file to standard output, or to a file of mode 0600.
    Get(GetArgs),
    /// Store a file, in the place of the one of that name.
    Put(PutArgs),
    /// Change a file with $VISUAL or $EDITOR.
    Edit(EditArgs),
    /// Remove a file.
    Rm(RmArgs),
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
struct GetArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The file: GROUP/POD/NAME.
    name: SecretName,
    /// Where to; a file that is there is replaced only with --force.
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write to a terminal too, or over a file that is there.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct PutArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The file: GROUP/POD/NAME.
    name: SecretName,
    /// Where to read it; standard input where none is named.
    file: Option<PathBuf>,
    /// Its mode on a node, between 0400 and 0644; by default 0600, or as it was.
    #[arg(long)]
    mode: Option<FileMode>,
    /// Its owner on a node, as numbers; by default 0:0, or as it was.
    #[arg(long, value_name = "UID:GID")]
    owner: Option<Owner>,
}

#[derive(Debug, Args)]
struct EditArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The file: GROUP/POD/NAME.
    name: SecretName,
}

#[derive(Debug, Args)]
struct RmArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// The file: GROUP/POD/NAME.
    name: SecretName,
}

impl SecretsArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        match self.verb {
            Verb::List(args) => args.run(directory).await,
            Verb::Get(args) => args.run(directory).await,
            Verb::Put(args) => args.run(directory).await,
            Verb::Edit(args) => args.run(directory).await,
            Verb::Rm(args) => args.run(directory).await,
        }
    }
}

impl EnvironmentArg {
    /// The environment, which must have the file's group.
    async fn open_for(&self, directory: &Path, name: &SecretName) -> anyhow::Result<Context> {
        let context = Context::open(directory, &self.environment).await?;
        context.workspace.select(&[name.group.to_string()])?;
        Ok(context)
    }
}

impl ListArgs {
    async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let found = keyring::read(&context).await?;
        let all = found.map(|k| list(&k.content)).unwrap_or_default();
        if self.output == Format::Json {
            output::line(serde_json::to_string_pretty(&all)?);
            return Ok(Outcome::Done);
        }
        if all.is_empty() {
            output::note("the keyring holds no files of operators'");
            return Ok(Outcome::Done);
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["NAME", "BYTES", "MODE", "OWNER"]);
        for file in all {
            table.add_row([
                format!("{}/{}/{}", file.group, file.pod, file.name),
                file.bytes.to_string(),
                file.mode.to_string(),
                format!("{}:{}", file.uid, file.gid),
            ]);
        }
        output::line(table.trim_fmt());
        Ok(Outcome::Done)
    }
}

impl GetArgs {
    async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let to_terminal = self.out.is_none() && stdout().is_terminal();
        if to_terminal && !self.force {
            return Err(mistake(
                "standard output is a terminal, which may keep what it shows: pipe it on, name a file with --out, or \
                 say --force",
            ));
        }
        if let Some(out) = self.out.as_ref().filter(|out| out.exists() && !self.force) {
            return Err(mistake(format!(
                "{} is there already, and was not changed; --force replaces it",
                out.display()
            )));
        }
        let context = self.environment.open_for(directory, &self.name).await?;
        let found = keyring::read_required(&context).await?;
        let bytes = &get(&found.content, &self.name)?.bytes;
        match self.out {
            Some(out) => {
                durable::write_file(&out, bytes.expose(), Attributes::mode(0o600))?;
            }
            None => {
                let mut out = stdout().lock();
                out.write_all(bytes.expose())
                    .and_then(|()| out.flush())
                    .context("cannot write to standard output")?;
            }
        }
        Ok(Outcome::Done)
    }
}

impl PutArgs {
    async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let name = &self.name;
        let context = self.environment.open_for(directory, name).await?;
        let bytes = match &self.file {
            Some(path) => {
                let file = std::fs::File::open(path)
                    .map_err(|e| mistake(format!("cannot read {}: {e}", path.display())))?;
                read_value(name, file).with_context(|| format!("{} is refused", path.display()))?
            }
            None => read_value(name, stdin().lock()).context("standard input is refused")?,
        };
        if bytes.is_empty() {
            return Err(mistake(format!(
                "there is nothing in what was given for {name}; nothing was changed"
            )));
        }
        // A file may be put before the first publish, which may need it.
        if keyring::read(&context).await?.is_none() {
            keyring::read_or_create(&context).await?;
        }
        let mut changed = false;
        keyring::modify(&context, |content| {
            let before = get(content, name).ok();
            let mode = self.mode.map(|m| m.0).or(before.map(|b| b.mode));
            let owner = self.owner.map(|o| (o.uid, o.gid));
            let (uid, gid) = owner.or(before.map(|b| (b.uid, b.gid))).unwrap_or_default();
            let file = OwnFile {
                bytes: bytes.clone(),
                mode: mode.unwrap_or(shared::bundle::Mode::new(0o600)),
                uid,
                gid,
            };
            let differs = put(content, &context.workspace.environment, name, &file)?;
            changed |= differs;
            Ok(differs)
        })
        .await?;
        output::line(if changed {
            format!("stored {name}; the next publish delivers it")
        } else {
            format!("{name} is the same already; nothing was changed")
        });
        Ok(Outcome::Done)
    }
}

impl RmArgs {
    async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let name = &self.name;
        let context = self.environment.open_for(directory, name).await?;
        let mut was_there = false;
        keyring::modify(&context, |content| match remove(content, name) {
            Ok(()) => {
                was_there = true;
                Ok(true)
            }
            // The answer to our own write was lost.
            Err(_) if was_there => Ok(false),
            Err(error) => Err(error),
        })
        .await?;
        output::line(format!(
            "removed {name}; the next publish takes it from the nodes"
        ));
        Ok(Outcome::Done)
    }
}

impl EditArgs {
    async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let name = &self.name;
        let context = self.environment.open_for(directory, name).await?;
        let found = keyring::read_required(&context).await?;
        let before = get(&found.content, name)?.clone();
        let scratch = Scratch::new(&Scratch::places(), &name.name, before.bytes.expose())?;
        if !scratch.is_in_memory() {
            output::note(format!(
                "no file system in memory was found: {} is on disk while you edit it",
                scratch.path().display()
            ));
        }
        edit(scratch.path()).await?;
        let bytes = read_value(name, scratch.open()?);
        let stored = match bytes {
            Ok(bytes) if bytes == before.bytes => {
                output::line(format!("{name} was not changed"));
                return Ok(Outcome::Done);
            }
            Ok(bytes) => {
                let after = OwnFile {
                    bytes,
                    ..before.clone()
                };
                let environment = &context.workspace.environment;
                keyring::modify(&context, |content| {
                    replace(content, environment, name, &before, &after)
                })
                .await
                .map(drop)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            return Err(not_lost(error, scratch, &self));
        }
        output::line(format!("stored {name}; the next publish delivers it"));
        Ok(Outcome::Done)
    }
}

/// The edit stays where it is: it may have taken an hour.
fn not_lost(error: anyhow::Error, scratch: Scratch, args: &EditArgs) -> anyhow::Error {
    let name = format!("-e {} {}", args.environment.environment, args.name);
    let changed = error.is::<ChangedMeanwhile>();
    let path = scratch.keep();
    let next = if changed {
        format!(
            "look at theirs with `platformctl secrets get {name}`, take over what you need with `secrets edit`, and"
        )
    } else {
        format!(
            "mend that, store it with `platformctl secrets put {name} {}`, and",
            path.display()
        )
    };
    error.context(format!(
        "your edit was not stored. It is kept in {}: {next} remove the file",
        path.display()
    ))
}

/// Runs the operator's editor on the file. Interrupting it does not end this process, which has the file to wipe.
async fn edit(path: &Path) -> anyhow::Result<()> {
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .filter_map(std::env::var_os)
        .find(|value| !value.is_empty())
        .unwrap_or_else(|| OsString::from("vi"));
    let mut script = editor.clone();
    script.push(" \"$@\"");
    // Registered, the signals no longer end the process; the terminal sends them to the editor too.
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    // As other tools do: a shell takes the editor's own arguments apart.
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(&script)
        .arg(&editor)
        .arg(path)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start a shell for the editor")?;
    loop {
        // Cancel-safe: waiting and signals keep their state.
        tokio::select! {
            ended = child.wait() => {
                let ended = ended.context("cannot wait for the editor")?;
                if ended.success() {
                    return Ok(());
                }
                bail!("the editor {} ended with {ended}; nothing was changed", editor.display());
            }
            _ = terminated.recv() => bail!("terminated; nothing was changed"),
            _ = hung_up.recv() => bail!("the terminal is gone; nothing was changed"),
            _ = interrupted.recv() => {}
        }
    }
}
