//! Whether what the probes saw makes a release healthy, or bad.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::bundle::{Probe, RolloutPolicy};

/// What the probes say so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeVerdict {
    /// Not enough has been seen.
    Pending,
    /// Every probe that counts has kept succeeding for long enough.
    Healthy,
    /// This probe, which had succeeded before the release, failed too often in a row.
    Bad(String),
}

#[derive(Clone, Debug, Default)]
struct Streak {
    successes: u32,
    failures: u32,
    /// When the successes began.
    since: Option<Duration>,
}

/// The probes of one release on one node, from its application on.
#[derive(Clone, Debug)]
pub struct ProbeRun {
    /// Those that count: the others can only warn.
    streaks: BTreeMap<String, Streak>,
    thresholds: BTreeMap<String, (u32, u32)>,
    settle: Duration,
}

impl ProbeRun {
    /// Begins. A probe that failed before the release was applied, named in `failed_before`, can only warn; with a waiver,
    /// all of them.
    #[must_use]
    pub fn new(policy: &RolloutPolicy, failed_before: &BTreeSet<String>) -> Self {
        let counts =
            |probe: &&Probe| policy.waiver.is_none() && !failed_before.contains(&probe.name);
        let counting = || policy.probes.iter().filter(counts);
        let limits = |p: &Probe| (p.success_threshold, p.failure_threshold);
        Self {
            streaks: counting()
                .map(|p| (p.name.clone(), Streak::default()))
                .collect(),
            thresholds: counting().map(|p| (p.name.clone(), limits(p))).collect(),
            settle: policy.settle.get(),
        }
    }

    /// Whether a probe counts.
    #[must_use]
    pub fn counts(&self, probe: &str) -> bool {
        self.streaks.contains_key(probe)
    }

    /// A probe was tried at `now`, which is any clock that only grows.
    pub fn saw(&mut self, probe: &str, ok: bool, now: Duration) {
        let Some(streak) = self.streaks.get_mut(probe) else {
            return;
        };
        if ok {
            streak.failures = 0;
            streak.successes = streak.successes.saturating_add(1);
            streak.since.get_or_insert(now);
        } else {
            streak.failures = streak.failures.saturating_add(1);
            streak.successes = 0;
            streak.since = None;
        }
    }

    /// What that comes to at `now`.
    #[must_use]
    pub fn verdict(&self, now: Duration) -> ProbeVerdict {
        // Where nothing counts there is nothing to wait for: a release that mends goes in at once.
        let mut healthy = true;
        for (name, streak) in &self.streaks {
            let (success, failure) = self.thresholds.get(name).copied().unwrap_or((1, 1));
            if streak.failures >= failure {
                return ProbeVerdict::Bad(name.clone());
            }
            let settled = streak
                .since
                .is_some_and(|since| now.saturating_sub(since) >= self.settle);
            healthy &= settled && streak.successes >= success;
        }
        match healthy {
            true => ProbeVerdict::Healthy,
            false => ProbeVerdict::Pending,
        }
    }
}
