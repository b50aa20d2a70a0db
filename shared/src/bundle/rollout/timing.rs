//! Whether the times of a policy leave a machine the time that it needs.

use std::time::Duration;

use super::{RolloutPolicy, TimeSpan};

/// What one machine is seen to need: what a policy has to leave time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineTimes {
    /// The longest grace period of the release's pods.
    pub longest_grace: Duration,
    /// From the end of the old pod until the new one is ready, its image being there.
    pub start: Duration,
    /// Pulling the image.
    pub pull: Duration,
}

impl RolloutPolicy {
    /// What of its times does not go together: with them a good release would be reverted, or nobody would have the time to
    /// go back. Told at publish and not part of [`RolloutPolicy::problems`], which an agent holds against copies that it
    /// already lives by.
    #[must_use]
    pub fn timing_problems(&self, machine: &MachineTimes) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let span = |time: Duration| {
            let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            TimeSpan::from_millis(milliseconds)
        };
        let deadline = self.deadline.get();
        let back = machine.longest_grace + machine.start;
        if deadline / 4 < back {
            all.push((
                "deadline".to_owned(),
                format!(
                    "is {}, and a quarter of it is there to go back in: a pod's grace period and the start of its heir take \
                     {}, so write at least {}",
                    self.deadline,
                    span(back),
                    span(back * 4)
                ),
            ));
        }
        let needed = back + machine.pull;
        for (at, probe) in self.probes.iter().enumerate() {
            let patience = probe.period.get().saturating_mul(probe.failure_threshold);
            let field = |name: &str| format!("probes[{at}].{name}");
            let times = format!(
                "times period is {}, after which the release counts as bad",
                span(patience)
            );
            if patience < needed {
                all.push((
                    field("failure_threshold"),
                    format!(
                        "{times}: a pod's grace period, the pull of its image and its start may take {}",
                        span(needed)
                    ),
                ));
            }
            if patience > deadline / 2 {
                let what = format!("{times}: that is more than half of deadline");
                all.push((field("failure_threshold"), what));
            }
            let success = probe.period.get().saturating_mul(probe.success_threshold);
            let healthy = success.max(self.settle.get()) + probe.timeout.get();
            if healthy > deadline / 4 {
                all.push((
                    field("success_threshold"),
                    format!(
                        "times period, settle and timeout take {}, more than the quarter of deadline that is left for them",
                        span(healthy)
                    ),
                ));
            }
        }
        all
    }
}
