//! What there is to say of a group's rollout, from what is published, what the nodes agree on, and what they report. Pure.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use shared::documents::{Halt, NodeStatus, Pause, RolloutDocument};
use shared::names::{NodeId, ReleaseNumber};
use shared::rollout::{GONE_AFTER, NodeSeen, SILENT_AFTER};

use crate::output;
use crate::status::{NodeReport, printable};

/// Cells of a bar.
const BAR: usize = 20;

/// A group's rollout.
#[derive(Debug, Clone, Serialize)]
pub struct RolloutView {
    /// The published release.
    pub release: Option<ReleaseNumber>,
    /// Nodes that count: those that have reported within the hour, and are not forgotten.
    pub nodes: usize,
    /// Those of them that have the release.
    pub done: usize,
    /// The nodes in transition.
    pub holders: Vec<HolderView>,
    /// Where it stands.
    #[serde(flatten)]
    pub state: RolloutState,
    /// The pause in force, whatever the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
}

/// A node in transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HolderView {
    /// Which.
    pub node: NodeId,
    /// The release that it adopts.
    pub release: ReleaseNumber,
    /// Since when, by the store's clock.
    pub since: Timestamp,
    /// Where it says that it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transition: Option<String>,
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RolloutState {
    /// Nothing is published.
    Nothing,
    /// No node has reported, so there is nobody to adopt it.
    NoNodes,
    /// Every node has it.
    Complete,
    /// Nodes are on their way.
    UnderWay {
        /// What each node that does not have it yet says of itself.
        waiting: Vec<String>,
    },
    /// Only nodes that do not report are missing.
    Silent {
        /// Which, with their ages.
        nodes: Vec<String>,
    },
    /// Only nodes that a person holds are missing.
    Held {
        /// Which.
        nodes: Vec<String>,
    },
    /// A node halted it.
    Halted {
        /// Which, why, and when.
        halt: Halt,
        /// The last lines of what its probe saw.
        lines: Vec<String>,
    },
    /// An operator paused the group before it was complete.
    Paused {
        /// Who, why, and for how long.
        pause: Pause,
    },
    /// What the nodes agree on cannot be read: they stay as they are.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// Whether to go on waiting for a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Wait,
    /// There is nothing left to wait for.
    Done,
    /// It will not go on by itself; why, over several lines perhaps.
    Stopped(String),
}

impl RolloutView {
    /// Puts it together; `document` is what was read, or why it could not be.
    #[must_use]
    pub fn of(
        release: Option<ReleaseNumber>,
        document: Result<Option<&RolloutDocument>, String>,
        reports: &[NodeReport],
        now: Timestamp,
    ) -> Self {
        let empty = RolloutDocument::empty();
        let (document, unreadable) = match document {
            Ok(found) => (found.unwrap_or(&empty), None),
            Err(why) => (&empty, Some(why)),
        };
        let nodes = Nodes::of(release, document, reports, now);
        let paused = document.pause_at(now).cloned();
        let state = match (unreadable, release) {
            (Some(why), _) => RolloutState::Unreadable { why },
            (None, None) => RolloutState::Nothing,
            (None, Some(release)) => state(release, document, paused.as_ref(), &nodes),
        };
        let holders = document.holders.iter().map(|holder| HolderView {
            node: holder.node.clone(),
            release: holder.release,
            since: holder.since,
            transition: transition_of(reports, &holder.node),
        });
        Self {
            release,
            nodes: nodes.counted,
            done: nodes.done,
            holders: holders.collect(),
            state,
            paused,
        }
    }

    /// Whether to go on waiting for `release`; a newer one that was published meanwhile ends it.
    #[must_use]
    pub fn verdict(&self, release: ReleaseNumber) -> Verdict {
        if let Some(newer) = self.release.filter(|newer| *newer > release) {
            return Verdict::Stopped(format!("release {newer} was published meanwhile"));
        }
        match &self.state {
            RolloutState::Complete | RolloutState::NoNodes => Verdict::Done,
            RolloutState::Nothing | RolloutState::UnderWay { .. } => Verdict::Wait,
            stopped => Verdict::Stopped(stopped.to_string()),
        }
    }

    /// Whether somebody has to do something before it goes on, or has paused it.
    #[must_use]
    pub fn needs_somebody(&self) -> bool {
        let stands = matches!(
            self.state,
            RolloutState::Halted { .. } | RolloutState::Unreadable { .. }
        );
        stands || self.paused.is_some()
    }

    /// For people: a bar, and what there is to say; the first line without an indent.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let Some(release) = self.release else {
            let unreadable = match &self.state {
                RolloutState::Unreadable { why } => Some(why.clone()),
                _ => None,
            };
            return unreadable
                .into_iter()
                .chain(self.paused.as_ref().map(said_of))
                .collect();
        };
        let bar = bar(self.done, self.nodes);
        let count = format!(
            "{} of {} nodes have release {release}",
            self.done, self.nodes
        );
        let text = self.state.to_string();
        let mut parts = text.lines();
        let first = parts.next().unwrap_or_default();
        let mut lines = vec![format!("{bar} {count}: {first}")];
        lines.extend(parts.map(|line| format!("  {line}")));
        for holder in &self.holders {
            let transition = holder.transition.as_deref().unwrap_or("no word of it yet");
            lines.push(format!(
                "  {} has a slot for release {} since {:.0}: {transition}",
                holder.node, holder.release, holder.since
            ));
        }
        let is_told = matches!(self.state, RolloutState::Paused { .. });
        if let Some(pause) = self.paused.as_ref().filter(|_| !is_told) {
            lines.push(format!("  {}", said_of(pause)));
        }
        lines
    }
}

/// The nodes of a group, sorted by what they lack.
struct Nodes {
    counted: usize,
    done: usize,
    waiting: Vec<String>,
    held: Vec<String>,
    silent: Vec<String>,
    /// Silent for so long that nobody waits for them, unless all are.
    gone: Vec<String>,
}

impl Nodes {
    fn of(
        release: Option<ReleaseNumber>,
        document: &RolloutDocument,
        reports: &[NodeReport],
        now: Timestamp,
    ) -> Self {
        let mut all = Self {
            counted: 0,
            done: 0,
            waiting: Vec::new(),
            held: Vec::new(),
            silent: Vec::new(),
            gone: Vec::new(),
        };
        for report in reports {
            let Ok(status) = &report.status else {
                // It is there, and what it says is not believed; a fresh node has no key yet. The nodes do not count it,
                // so a rollout that they ended is ended.
                let is_over = |r: ReleaseNumber| document.good >= Some(r) && !document.is_halted(r);
                if release.is_some_and(is_over) {
                    continue;
                }
                all.counted += 1;
                let why = report.objection(release, now).unwrap_or_default();
                all.waiting.push(format!(
                    "{}: {why} (`platformctl forget {}` if the machine is gone)",
                    report.node, report.node
                ));
                continue;
            };
            let written_at = NodeSeen::of(status).written_at;
            let age = now.duration_since(written_at);
            let forgotten = document.forgotten.iter();
            let is_forgotten =
                |f: &&shared::documents::Forgotten| f.node == status.node && f.at >= written_at;
            if forgotten.filter(is_forgotten).count() > 0 {
                continue;
            }
            let node = &report.node;
            let silent = || format!("{node} (for {})", output::age(age.unsigned_abs()));
            // A slot of its own was cleared: it stays in the way until it reports again or is forgotten.
            let was_cleared = document.unavailable.iter().any(|u| u.node == status.node);
            if age > GONE_AFTER && !was_cleared {
                all.gone.push(silent());
                continue;
            }
            all.counted += 1;
            if age > SILENT_AFTER {
                all.silent.push(silent());
            } else if status.release >= release {
                all.done += 1;
            } else if let Some(hold) = &status.hold {
                all.held
                    .push(format!("{node} ({})", printable(&hold.reason)));
            } else {
                all.waiting.push(format!("{node}: {}", word_of(status)));
            }
        }
        all
    }
}

fn state(
    release: ReleaseNumber,
    document: &RolloutDocument,
    paused: Option<&Pause>,
    nodes: &Nodes,
) -> RolloutState {
    let Nodes {
        waiting,
        held,
        silent,
        ..
    } = nodes;
    if let Some(halt) = document.halted.as_ref().filter(|h| h.release == release) {
        let failure = document.failure(&halt.by, release);
        return RolloutState::Halted {
            halt: halt.clone(),
            lines: failure.map(|f| f.lines.clone()).unwrap_or_default(),
        };
    }
    let none_on_their_way = waiting.is_empty() && document.holders.is_empty();
    match paused {
        // Nobody is left who could adopt it: that is an outage, and no success.
        _ if nodes.counted == 0 && !nodes.gone.is_empty() => RolloutState::Silent {
            nodes: nodes.gone.clone(),
        },
        _ if nodes.counted == 0 => RolloutState::NoNodes,
        _ if none_on_their_way && held.is_empty() && silent.is_empty() => RolloutState::Complete,
        Some(pause) => RolloutState::Paused {
            pause: pause.clone(),
        },
        None if none_on_their_way && !silent.is_empty() => RolloutState::Silent {
            nodes: silent.clone(),
        },
        None if none_on_their_way => RolloutState::Held {
            nodes: held.clone(),
        },
        None => RolloutState::UnderWay {
            waiting: waiting.clone(),
        },
    }
}

/// What a node that does not have the release says of itself.
fn word_of(status: &NodeStatus) -> String {
    match (&status.error, &status.rollout.waiting) {
        (Some(error), _) => printable(&error.message),
        (None, Some(waiting)) => printable(&waiting.why),
        (None, None) => status.phase.to_string(),
    }
}

fn transition_of(reports: &[NodeReport], node: &NodeId) -> Option<String> {
    let of_node = reports.iter().find(|r| r.node == node.as_str())?;
    let slot = of_node.status.as_ref().ok()?.rollout.slot.as_ref()?;
    word(&slot.transition)
}

/// The word with which a value is written.
#[must_use]
pub(crate) fn word<T: Serialize>(value: &T) -> Option<String> {
    let value = serde_json::to_value(value).ok()?;
    value.as_str().map(|word| word.replace('_', " "))
}

fn said_of(pause: &Pause) -> String {
    let until = pause
        .until
        .map_or_else(String::new, |until| format!(", until {until:.0}"));
    format!(
        "PAUSED by {}{until}: {}",
        printable(&pause.by),
        printable(&pause.reason)
    )
}

impl fmt::Display for RolloutState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing is published"),
            Self::NoNodes => f.write_str("no node has reported"),
            Self::Complete => f.write_str("complete"),
            Self::UnderWay { waiting } => {
                f.write_str("under way")?;
                waiting.iter().try_for_each(|node| write!(f, "\n{node}"))
            }
            Self::Silent { nodes } => write!(
                f,
                "missing are nodes that do not report: {} (`platformctl forget NODE` if they are gone)",
                nodes.join(", ")
            ),
            Self::Held { nodes } => {
                write!(
                    f,
                    "missing are nodes that a person holds: {}",
                    nodes.join(", ")
                )
            }
            Self::Halted { halt, lines } => {
                write!(
                    f,
                    "HALTED by {} at {:.0}: {}",
                    halt.by,
                    halt.at,
                    printable(&halt.reason)
                )?;
                for line in lines {
                    write!(f, "\n  {}", printable(line))?;
                }
                f.write_str(
                    "\nmend it and publish, or `platformctl rollback`, or `platformctl retry`",
                )
            }
            Self::Paused { pause } => {
                write!(f, "{}\n`platformctl resume` lifts it", said_of(pause))
            }
            Self::Unreadable { why } => f.write_str(why),
        }
    }
}

/// How much of it is done, in plain characters.
#[must_use]
pub fn bar(done: usize, of: usize) -> String {
    let filled = (done * BAR).checked_div(of).unwrap_or(0).min(BAR);
    format!("[{}{}]", "=".repeat(filled), " ".repeat(BAR - filled))
}

#[cfg(test)]
mod tests;
