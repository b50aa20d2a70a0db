//! Waiting for rollouts: progress until every node has its group's release, or the reason why it stopped.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use shared::names::{GroupName, ReleaseNumber};
use tokio::time::Instant;

use super::{RolloutState, RolloutView, Verdict};
use crate::context::Context;
use crate::keyring::Keyring;
use crate::status::read_group_status;

/// Time between two looks.
const GLANCE: Duration = Duration::from_secs(2);
/// Looks in a row that may fail: the store may be gone for a while.
const FAILURES: u32 = 5;

/// How waiting for a group ended.
#[derive(Debug, Clone, Serialize)]
pub struct Waited {
    /// The group.
    pub group: GroupName,
    /// The release that was waited for.
    pub release: ReleaseNumber,
    /// Whether every node has it.
    pub done: bool,
    /// Why it stopped; none where it is done, or where there was no more time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// The last that was seen of it.
    pub rollout: RolloutView,
    /// When that was.
    pub at: Timestamp,
}

/// How waiting for all groups ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// All nodes of all groups have what was published.
    Done,
    /// A rollout will not go on by itself.
    Stopped,
    /// There was no more time.
    TimedOut,
}

/// Waits for `groups` to be on their releases; `show` is told what each look shows. A rollout that stopped is told and
/// the others are waited for all the same.
///
/// # Errors
/// Looks that fail several times in a row.
pub async fn wait(
    context: &Context,
    keyring: &Keyring,
    groups: &[(GroupName, ReleaseNumber)],
    patience: Duration,
    mut show: impl FnMut(&[Waited]),
) -> anyhow::Result<(Waiting, Vec<Waited>)> {
    let began = Instant::now();
    let mut failures = 0;
    loop {
        match look(context, keyring, groups).await {
            Ok(all) => {
                failures = 0;
                show(&all);
                let open = all.iter().any(|w| !w.done && w.stopped.is_none());
                if !open {
                    let stopped = all.iter().any(|w| w.stopped.is_some());
                    let how = if stopped {
                        Waiting::Stopped
                    } else {
                        Waiting::Done
                    };
                    return Ok((how, all));
                }
                if began.elapsed() >= patience {
                    return Ok((Waiting::TimedOut, all));
                }
            }
            Err(e) if failures + 1 >= FAILURES => return Err(e),
            Err(e) => {
                failures += 1;
                tracing::warn!("the rollout could not be looked at: {e:#}");
            }
        }
        tokio::time::sleep(GLANCE.min(patience.saturating_sub(began.elapsed()))).await;
    }
}

async fn look(
    context: &Context,
    keyring: &Keyring,
    groups: &[(GroupName, ReleaseNumber)],
) -> anyhow::Result<Vec<Waited>> {
    let mut all = Vec::new();
    for (group, release) in groups {
        let (status, _) = read_group_status(context, keyring, group).await?;
        let verdict = status.rollout.verdict(*release);
        all.push(Waited {
            group: group.clone(),
            release: *release,
            done: verdict == Verdict::Done,
            stopped: match verdict {
                Verdict::Stopped(why) => Some(why),
                Verdict::Wait | Verdict::Done => None,
            },
            rollout: status.rollout,
            at: context.store_now(),
        });
    }
    Ok(all)
}

impl Waited {
    /// How it ended, for people: one line, or more where it stopped.
    #[must_use]
    pub fn said(&self) -> String {
        let (group, release, rollout) = (&self.group, self.release, &self.rollout);
        let count = format!("{} of {}", rollout.done, rollout.nodes);
        match (&self.stopped, self.done) {
            (Some(why), _) => {
                let why = why.replace('\n', "\n  ");
                format!("{group}: release {release} has stopped at {count} nodes: {why}")
            }
            (None, true) if rollout.state == RolloutState::NoNodes => {
                format!("{group}: no node has reported, so there is none to wait for")
            }
            (None, true) => format!(
                "{group}: all {} nodes have release {release}",
                rollout.nodes
            ),
            (None, false) => {
                let state = rollout.state.to_string().replace('\n', "\n  ");
                format!("{group}: release {release} is on {count} nodes: {state}")
            }
        }
    }
}
