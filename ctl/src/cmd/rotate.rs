//! `platformctl rotate`.

use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::documents::Step;

use super::EnvironmentArg;
use crate::context::Context;
use crate::exit::{Outcome, mistake};
use crate::keyring;
use crate::output::{self, Format};
use crate::rotate::{
    Action, Choices, Obstacle, OlderView, Subject, Taken, drop_older, gather, obstacles,
    older_keys, reissue, rotate_signing, take,
};

#[derive(Debug, Args)]
#[command(
    after_help = "All but `signing` change the keyring alone: `platformctl publish` delivers what they change, and says so."
)]
pub(super) struct RotateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make certificates again now, whatever their age.
    Leaves {
        #[command(flatten)]
        environment: EnvironmentArg,
        /// Only these; by default all.
        names: Vec<String>,
    },
    /// Replace the token with which new machines join; `--retire` then ends the old one.
    Tokens {
        #[command(flatten)]
        environment: EnvironmentArg,
        /// End the old token, when every node reports the release with the new one.
        #[arg(long)]
        retire: bool,
        #[command(flatten)]
        waivers: Waivers,
    },
    /// Replace an authority, or the service accounts' key, in three steps with a publish after each: stage, promote,
    /// retire. Without a name: list where each of them is.
    Ca {
        #[command(flatten)]
        environment: EnvironmentArg,
        /// cluster, kubelet-client, etcd, front-proxy or service-accounts.
        name: Option<Subject>,
        /// By default the one that is next.
        #[arg(value_enum, requires = "name")]
        step: Option<StepArg>,
        #[command(flatten)]
        waivers: Waivers,
        /// Retire it though what it has issued may still be in use.
        #[arg(long)]
        without_waiting: bool,
        /// How to show the list.
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Replace the key with which the API server encrypts Secrets, in four steps with a publish after each: stage, promote,
    /// rewrite, retire. A retired key stays in the keyring until it is dropped, which no backup may need it for.
    Encryption {
        #[command(flatten)]
        environment: EnvironmentArg,
        /// By default the one that is next.
        #[arg(value_enum)]
        step: Option<EncryptionStep>,
        #[command(flatten)]
        waivers: Waivers,
    },
    /// Replace the keys that sign releases. Takes effect at once, needs no new user data, and restarts nothing.
    Signing {
        #[command(flatten)]
        environment: EnvironmentArg,
        /// Only these groups; by default all.
        groups: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Waivers {
    /// A node that is not waited for, or a group that has none. It may lose its connections.
    #[arg(long, value_name = "NODE")]
    without: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StepArg {
    /// Trust the successor too.
    Stage,
    /// Issue with the successor.
    Promote,
    /// Trust the successor alone.
    Retire,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EncryptionStep {
    /// Give the API servers a new key that they read with and do not use.
    Stage,
    /// Encrypt with the new key.
    Promote,
    /// Have all that is stored encrypted with the new key; again, with a new certificate, where it came to nothing.
    Rewrite,
    /// Take the old key from the API servers; the keyring keeps it.
    Retire,
    /// Drop the retired keys that no backup needs from the keyring, for ever.
    Drop,
}

impl EncryptionStep {
    const fn action(self) -> Option<Action> {
        match self {
            Self::Stage => Some(Action::Stage),
            Self::Promote => Some(Action::Promote),
            Self::Rewrite => Some(Action::Rewrite),
            Self::Retire => Some(Action::Retire),
            Self::Drop => None,
        }
    }
}

impl From<StepArg> for Action {
    fn from(step: StepArg) -> Self {
        match step {
            StepArg::Stage => Self::Stage,
            StepArg::Promote => Self::Promote,
            StepArg::Retire => Self::Retire,
        }
    }
}

impl RotateArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let open = async |e: &EnvironmentArg| Context::open(directory, &e.environment).await;
        let now = Timestamp::now();
        match self.what {
            What::Leaves { environment, names } => {
                let context = open(&environment).await?;
                for line in reissue(&context, &names, now).await? {
                    output::line(format!("keyring: {line}"));
                }
                next_publish(&context);
            }
            What::Tokens {
                environment,
                retire,
                waivers,
            } => {
                let context = open(&environment).await?;
                let steps = |at: Step| match (retire, at) {
                    (false, Step::Steady) => vec![Action::Stage, Action::Promote],
                    (false, Step::Staged) => vec![Action::Promote],
                    // Out of step: what follows is said by the refusal.
                    (false, Step::Promoted | Step::Rewriting) => vec![Action::Stage],
                    (true, _) => vec![Action::Retire],
                };
                let choices = choices(waivers, false);
                let taken = take(&context, Subject::Tokens, steps, &choices, now)
                    .await
                    .map_err(|e| if retire { e } else { e.context(TOKENS_HINT) })?;
                said(&context, Subject::Tokens, &taken);
            }
            What::Ca {
                environment,
                name: Some(subject),
                step,
                waivers,
                without_waiting,
                ..
            } => {
                let context = open(&environment).await?;
                let steps = |at: Step| vec![step.map_or_else(|| subject.after(at), Action::from)];
                let choices = choices(waivers, without_waiting);
                let taken = take(&context, subject, steps, &choices, now).await?;
                said(&context, subject, &taken);
            }
            What::Ca {
                environment,
                name: None,
                output: format,
                ..
            } => list(&open(&environment).await?, format, now).await?,
            What::Encryption {
                environment,
                step: Some(EncryptionStep::Drop),
                ..
            } => {
                let context = open(&environment).await?;
                for name in Box::pin(drop_older(&context, None, now)).await? {
                    output::line(format!("keyring: dropped {name}, which nothing needs"));
                }
            }
            What::Encryption {
                environment,
                step,
                waivers,
            } => {
                let context = open(&environment).await?;
                let subject = Subject::Encryption;
                let wanted = step.and_then(EncryptionStep::action);
                let steps = |at: Step| vec![wanted.unwrap_or_else(|| subject.after(at))];
                let choices = choices(waivers, false);
                let taken = Box::pin(take(&context, subject, steps, &choices, now)).await?;
                said(&context, subject, &taken);
            }
            What::Signing {
                environment,
                groups,
            } => {
                let context = open(&environment).await?;
                for group in context.workspace.select(&groups)? {
                    let done = rotate_signing(&context, &group, now).await?;
                    let how = if done.resumed {
                        "the change of keys that was begun earlier is done"
                    } else {
                        "new keys sign its releases"
                    };
                    output::line(format!(
                        "{group}: {how}; root {} is in the bucket, and nodes go over to it by themselves",
                        done.root
                    ));
                }
            }
        }
        Ok(Outcome::Done)
    }
}

const TOKENS_HINT: &str =
    "the token was not replaced (if a replacement is under way, end it first: --retire)";

fn choices(waivers: Waivers, without_waiting: bool) -> Choices {
    Choices {
        without: waivers.without.into_iter().collect(),
        without_waiting,
    }
}

fn next_publish(context: &Context) {
    output::line(format!(
        "next: platformctl publish -e {}",
        context.workspace.name
    ));
}

fn said(context: &Context, subject: Subject, taken: &Taken) {
    for waived in &taken.waived {
        output::note(format!("passed over: {waived}"));
    }
    for made in &taken.made {
        output::line(format!("keyring: {made}"));
    }
    let environment = &context.workspace.name;
    let (state, then) = match (subject, taken.action) {
        (Subject::Tokens, Action::Retire) => ("the old token is gone", None),
        (Subject::Tokens, _) => (
            "a new token is made, and the old one is good still",
            Some("tokens --retire"),
        ),
        (Subject::Encryption, Action::Stage) => (
            "a new key is made, which the API servers will read with",
            Some("encryption"),
        ),
        (Subject::Encryption, Action::Promote) => (
            "what is written from now on is encrypted with the new key",
            Some("encryption"),
        ),
        (_, Action::Rewrite) => (
            "the leader of etcd is told to have everything encrypted with the new key",
            Some("encryption"),
        ),
        (Subject::Encryption, Action::Retire) => (
            "the API servers have the old key no more; the keyring keeps it for backups (`rotate encryption drop` ends that)",
            None,
        ),
        (_, Action::Stage) => ("the successor is trusted, and not in use", Some("ca")),
        (_, Action::Promote) => (
            "the successor is in use, and the predecessor trusted still",
            Some("ca"),
        ),
        (_, Action::Retire) => ("the predecessor is trusted no more", None),
    };
    output::line(format!("{subject}: {state}"));
    let groups: Vec<&str> = taken.groups.iter().map(|g| g.as_str()).collect();
    output::line(format!(
        "next: platformctl publish -e {environment} (it changes files of {})",
        groups.join(", ")
    ));
    if let Some(verb) = then {
        let name = if verb == "ca" { subject.as_str() } else { "" };
        output::line(format!(
            "then, when `platformctl status -e {environment}` shows every node on that release: platformctl rotate {verb} {name} -e {environment}"
        ).replace("  ", " "));
    }
}

struct Row {
    subject: Subject,
    step: Step,
    since: Option<Timestamp>,
    next: Action,
    obstacles: Vec<Obstacle>,
}

async fn list(context: &Context, format: Format, now: Timestamp) -> anyhow::Result<()> {
    let found = keyring::read_required(context).await?;
    let evidence = gather(context, &found, now).await?;
    let pki = found.content.pki.as_ref();
    let pki = pki.ok_or_else(|| mistake("the keyring holds no certificates yet: publish first"))?;
    let mut rows = Vec::new();
    let others = [Subject::Tokens, Subject::Encryption];
    for subject in Subject::of_ca().into_iter().chain(others) {
        let Some(step) = subject.step(pki) else {
            continue;
        };
        let next = subject.after(step);
        rows.push(Row {
            subject,
            step,
            since: pki.rotations.get(subject.as_str()).map(|m| m.at),
            next,
            obstacles: obstacles(subject, next, pki, &evidence, now),
        });
    }
    let older = Box::pin(older_keys(context, now)).await?;
    match format {
        Format::Json => {
            let all = rows.iter().map(as_json);
            let all: Vec<Value> = all.chain(older.iter().map(older_as_json)).collect();
            output::line(serde_json::to_string_pretty(&all)?);
        }
        Format::Text => show(&rows, &older),
    }
    Ok(())
}

const fn word(step: Step) -> &'static str {
    match step {
        Step::Steady => "steady",
        Step::Staged => "staged",
        Step::Promoted => "promoted",
        Step::Rewriting => "rewriting",
    }
}

fn as_json(row: &Row) -> Value {
    let waits: Vec<String> = row.obstacles.iter().map(ToString::to_string).collect();
    json!({
        "name": row.subject.as_str(),
        "step": word(row.step),
        "since": row.since,
        "next": row.next.as_str(),
        "waits_for": waits,
    })
}

fn older_as_json(older: &OlderView) -> Value {
    json!({
        "name": format!("encryption/{}", older.name),
        "step": "retired",
        "since": null,
        "next": "drop",
        "waits_for": older.needed_by,
    })
}

fn show(rows: &[Row], older: &[OlderView]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["NAME", "STEP", "SINCE", "NEXT", "WAITS FOR"]);
    for row in rows {
        let waits: Vec<String> = row.obstacles.iter().map(ToString::to_string).collect();
        table.add_row([
            row.subject.to_string(),
            word(row.step).to_owned(),
            row.since
                .map_or_else(|| "-".to_owned(), |t| format!("{t:.0}")),
            row.next.to_string(),
            waits.join("\n"),
        ]);
    }
    for key in older {
        table.add_row([
            format!("encryption/{}", key.name),
            "retired".to_owned(),
            "-".to_owned(),
            "drop".to_owned(),
            key.needed_by.join("\n"),
        ]);
    }
    output::line(table.trim_fmt());
}
