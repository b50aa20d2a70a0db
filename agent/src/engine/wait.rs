//! Waiting, in a way that keeps looking after the disk, feeds the watchdog, and ends when the process is to end.

use std::time::Duration;

use rand::Rng as _;
use tokio::sync::watch;

use super::Agent;

/// The first pause after a failure that may pass; it doubles up to the poll period.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How far a pause strays from its length, so that nodes that were started together do not ask together.
const JITTER: f64 = 0.1;
/// How long work on the disk may keep the watchdog quiet: then systemd may think what it likes.
pub(super) const DISK_PATIENCE: Duration = Duration::from_secs(600);

/// Why some work was not waited for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GaveUp {
    Deadline,
    Shutdown,
}

/// How long to wait for the next poll, before jitter.
pub(super) fn pause_after(transient_failures: u32, poll_interval: Duration) -> Duration {
    match transient_failures {
        0 => poll_interval,
        n => FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(n - 1))
            .min(poll_interval),
    }
}

async fn told_to_stop(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could say so.
        std::future::pending::<()>().await;
    }
}

impl Agent {
    /// How long to wait for the next poll.
    pub(super) fn pause(&self) -> Duration {
        let pause = pause_after(self.transient_failures, self.poll_interval);
        self.etcd
            .hurry()
            .map_or(pause, |hurry| pause.min(hurry))
            .mul_f64(rand::rng().random_range(1.0 - JITTER..=1.0 + JITTER))
    }

    /// Waits for the next poll; false where the process is to end.
    pub(super) async fn wait(&mut self, pause: Duration) -> bool {
        let mut over = self.clock.sleep(pause);
        loop {
            // Every branch may be dropped half-way: the sleep is kept outside, and the others say so themselves.
            tokio::select! {
                () = &mut over => return true,
                () = self.drift.touched() => {
                    self.look_after_disk().await;
                    self.report().await;
                }
                () = self.service_manager.hungry() => self.service_manager.feed(),
                () = told_to_stop(&mut self.shutdown) => return false,
            }
        }
    }

    /// Waits for work that leaves the disk alone: meanwhile the disk is looked after all the same, so an edited file
    /// is back within a second also while the store hangs.
    pub(super) async fn during<F: Future>(
        &mut self,
        limit: Duration,
        work: F,
    ) -> Result<F::Output, GaveUp> {
        let mut work = Box::pin(work);
        let mut over = self.clock.sleep(limit);
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    self.service_manager.feed();
                    return Ok(done);
                }
                () = told_to_stop(&mut self.shutdown) => return Err(GaveUp::Shutdown),
                () = &mut over => return Err(GaveUp::Deadline),
                () = self.drift.touched() => self.look_after_disk().await,
                () = self.service_manager.hungry() => self.service_manager.feed(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_poll_period() {
        let ten = Duration::from_secs(10);
        let seconds: Vec<u64> = (0..7).map(|n| pause_after(n, ten).as_secs()).collect();
        assert_eq!(seconds, [10, 1, 2, 4, 8, 10, 10]);
        assert_eq!(pause_after(u32::MAX, ten), ten);
        let short = Duration::from_millis(300);
        assert_eq!(pause_after(1, short), short, "never above the period");
    }
}
