//! The command line, and how the process logs.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The variable that says what is logged: levels by module (`info`, `warn,agent=debug`).
pub const LOG_VARIABLE: &str = "PLATFORM_AGENT_LOG";

/// Keeps this node's manifests and secrets at the published release.
///
/// Exit codes: 0 done, 1 failed, 2 usage or configuration (a second agent too), 3 it differs: `verify` found that the
/// disk is not as recorded, or a file in the manifest directory that is not the agent's; `once` found that a person holds
/// the node, or that the published release is not on it, for it waits.
#[derive(Debug, Parser)]
#[command(name = "platform-agent", version)]
pub struct Cli {
    /// How log lines are written; auto is text on a terminal and JSON elsewhere.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A verb.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run until stopped: ask, verify, adopt, repair, report.
    Run(ConfigArgs),
    /// One pass: ask, adopt what is new, repair, report. Exits 3 while the node is held, or the published release waits for
    /// its turn, a pause or a halt; 1 where anything failed, also beside an adoption.
    Once(ConfigArgs),
    /// Compare the disk with the ledger, without network and without changing anything. Exits 3 where they differ, and where
    /// kubelet runs a manifest that is not the agent's.
    Verify(ConfigArgs),
    /// Suspend repair and adoption on this node, for a person who works on it; or end that.
    Hold(HoldArgs),
    /// Ask this machine's etcd: its members, a backup now, defragmentation.
    Etcd(EtcdArgs),
}

/// What to ask of etcd.
#[derive(Debug, Args)]
pub struct EtcdArgs {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub verb: EtcdVerb,
}

/// A verb about etcd. Each speaks to the member on this machine, with what the adopted release brought for that.
#[derive(Debug, Subcommand)]
pub enum EtcdVerb {
    /// Show every member: role, version, revision, size, what is wrong with it.
    Members(EtcdMembersArgs),
    /// Take a backup now, whether or not one is due.
    Backup,
    /// Have every member rewrite its database without holes, one at a time, the leader last.
    Defrag,
}

/// How to show members.
#[derive(Debug, Args)]
pub struct EtcdMembersArgs {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which configuration.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// What to hold, and how long.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// End the hold after this time (1h, 30m, 2h 15m); without it, it lasts until lifted.
    #[arg(long = "for", value_name = "TIME", value_parser = positive, conflicts_with = "lift")]
    pub time: Option<SignedDuration>,
    /// End the hold.
    #[arg(long, alias = "release")]
    pub lift: bool,
    /// Why: shown in status, metrics and `systemctl status`.
    #[arg(required_unless_present = "lift", conflicts_with = "lift")]
    pub reason: Option<String>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere (journald, a file).
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

fn positive(text: &str) -> Result<SignedDuration, String> {
    match text.parse::<SignedDuration>() {
        Ok(time) if time.is_positive() => Ok(time),
        Ok(_) => Err("must be longer than nothing".to_owned()),
        Err(_) => Err("must be a time such as 1h, 30m or 2h 15m".to_owned()),
    }
}

/// Sets logging up, to standard error. A filter that does not parse is replaced by `info` and named in the log.
pub fn start_logging(format: LogFormat) {
    let wanted = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| "info".to_owned());
    // Targets and not EnvFilter, whose spans and fields nobody asks for and whose expressions make a tenth of a MiB.
    let (filter, wrong) = match wanted.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(Level::INFO), Some(error)),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let registry = tracing_subscriber::registry();
    // Failing means that somebody set logging up already, who then has it.
    let _ = if text {
        let lines = lines.with_ansi(terminal).with_target(false);
        registry.with(lines.with_filter(filter)).try_init()
    } else {
        let lines = lines.json().flatten_event(true);
        registry.with(lines.with_filter(filter)).try_init()
    };
    if let Some(error) = wrong {
        tracing::warn!(%error, filter = wanted, "{LOG_VARIABLE} does not parse; logging info");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_hold_has_a_reason_or_is_lifted() {
        let parse = |args: &str| {
            let words = ["platform-agent", "hold", "--config", "f"];
            Cli::try_parse_from(words.into_iter().chain(args.split_whitespace()))
        };
        assert!(parse("--for 1h looking").is_ok());
        assert!(parse("looking").is_ok());
        assert!(parse("--lift").is_ok());
        assert!(parse("--release").is_ok());
        assert!(parse("").is_err());
        assert!(parse("--lift why").is_err());
        assert!(parse("--for -1h looking").is_err());
        assert!(parse("--for soon looking").is_err());
    }
}
