//! The look at the probes before a release is begun: what fails already can only warn.

use std::collections::BTreeSet;
use std::time::Duration;

use shared::bundle::Probe;
use shared::documents::Phase;

use crate::disk::CheckedRelease;
use crate::engine::Agent;
use crate::engine::failure::Stop;
use crate::engine::state::{Adoption, State};
use crate::rollout::{Prober, Sight};

/// Beyond the pause between two tries of a probe.
const SLACK: Duration = Duration::from_secs(5);

impl Agent {
    /// Whether a release is adopted without a slot: it asks for none, or is this node's first, or is here already.
    pub(super) fn needs_no_slot(&self, checked: &CheckedRelease) -> bool {
        let on_disk = self.release();
        let index = checked.release().index();
        index.rollout.is_none() || on_disk.is_none() || on_disk == Some(index.release)
    }

    /// Before the plan: which probes fail already.
    pub(in crate::engine) async fn baseline(
        &mut self,
        adoption: Adoption,
        checked: CheckedRelease,
    ) -> Result<State, Stop> {
        let release = checked.number();
        if !self.needs_no_slot(&checked)
            && let Some(policy) = checked.release().index().rollout.clone()
        {
            let prober = Prober::new(&policy.probes, checked.release());
            let sights = self
                .try_probes(&prober, policy.probes.iter().collect())
                .await?;
            let mut failed_before = failing(&sights);
            // One failure may be a hiccup, and a probe that can only warn protects nobody.
            let again: Vec<&Probe> = policy
                .probes
                .iter()
                .filter(|probe| failed_before.contains(&probe.name))
                .collect();
            if let Some(pause) = again.iter().map(|probe| probe.period.get()).max() {
                let sleep = self.clock.sleep(pause);
                self.network(
                    Phase::Baseline,
                    || "the pause between two tries of a probe".to_owned(),
                    pause + SLACK,
                    sleep,
                )
                .await?;
                failed_before = failing(&self.try_probes(&prober, again).await?);
            }
            if !failed_before.is_empty() {
                tracing::warn!(%release, probes = ?failed_before, "these fail already, and can only warn");
            }
            self.rollouts.baseline = Some((release, tokio::time::Instant::now(), failed_before));
        }
        Ok(State::Plan(adoption, checked))
    }
}

/// The names of those that failed.
fn failing(sights: &[(String, Sight)]) -> BTreeSet<String> {
    let failing = sights.iter().filter(|(_, sight)| !sight.ok);
    failing.map(|(name, _)| name.clone()).collect()
}
