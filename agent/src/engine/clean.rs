//! What an adoption leaves to do: removing what earlier releases left, once nothing can use it any more, and remembering the
//! time where that failed.

use shared::documents::Phase;
use tokio::time::Instant;

use super::Agent;
use crate::disk::Disk;
use crate::trouble::{Source, chain};

impl Agent {
    /// A release was put on the disk just now: what the one before left stays for its time.
    pub(super) fn keep_leftovers(&mut self) {
        let stay = self.with_disk(|disk| disk.leftovers_stay());
        self.clean_at = stay.map(|stay| Instant::now() + stay);
    }

    /// Remembers that a release was adopted by now. What fails is tried again at each look at the disk.
    pub(super) fn remember_time(&mut self) {
        match self.time_memory.remember(self.clock.now()) {
            Ok(()) => {
                self.troubles.clear(Source::TimeMemory);
            }
            Err(error) => self.trouble(
                Source::TimeMemory,
                Phase::Commit,
                error.kind(),
                chain(&error),
            ),
        }
    }

    /// Does what is left to do on the disk after an adoption, when its time has come.
    pub(super) async fn finish_up(&mut self) {
        if self.hold.is_none() && self.troubles.of(Source::TimeMemory).is_some() {
            self.remember_time();
        }
        self.clean_if_due().await;
    }

    /// Removes what is left of earlier releases when its time has come; what fails is tried again at the next look.
    pub(super) async fn clean_if_due(&mut self) {
        let is_due = self.clean_at.is_some_and(|at| at <= Instant::now());
        // What a node in transition goes back to is among it.
        if !is_due || self.hold.is_some() || !self.recovered || self.has_slot() {
            return;
        }
        match self.on_disk(Disk::clean).await {
            Ok(Ok(directories)) => {
                self.worked = true;
                self.clean_at = None;
                self.troubles.clear(Source::Leftovers);
                tracing::debug!(
                    directories = directories.len(),
                    "removed what earlier releases left"
                );
            }
            Ok(Err(error)) => {
                self.trouble(Source::Leftovers, Phase::Idle, error.kind(), chain(&error));
            }
            Err(error) => self.trouble(Source::Leftovers, Phase::Idle, "internal", chain(&error)),
        }
    }
}
