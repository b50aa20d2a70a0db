//! What systemd is told: READY, STATUS, WATCHDOG, STOPPING.

use std::future::pending;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, sleep_until};

/// How much longer the start may take from each sign of progress on.
const START_MICROSECONDS: u32 = 120_000_000;

/// The service manager, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    /// Whether anybody listens.
    listens: bool,
    ready: bool,
    said: String,
    /// How often to feed the watchdog, where one is set, and to ask for more time before READY.
    feed_every: Option<Duration>,
    fed: Instant,
}

impl ServiceManager {
    /// The one that started this process, by its environment (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            listens: std::env::var_os("NOTIFY_SOCKET").is_some(),
            // A third of the period: two feeds may be late before the third would be missed.
            feed_every: sd_notify::watchdog_enabled().map(|period| period / 3),
            ..Self::none()
        }
    }

    /// Nobody: tests, and runs by hand.
    #[must_use]
    pub fn none() -> Self {
        Self {
            listens: false,
            ready: false,
            said: String::new(),
            feed_every: None,
            fed: Instant::now(),
        }
    }

    /// Whether [`ServiceManager::ready`] has been called.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The files on disk match a verified release. Said once.
    pub fn ready(&mut self) {
        if !self.ready {
            self.ready = true;
            self.send(&[NotifyState::Ready]);
        }
    }

    /// One line for `systemctl status`; said again only when it changes.
    pub fn status(&mut self, line: String) {
        if self.said != line {
            self.send(&[NotifyState::Status(&line)]);
            self.said = line;
        }
    }

    /// The loop has got on.
    pub fn feed(&mut self) {
        self.fed = Instant::now();
        // The watchdog watches only from READY on: before it, a loop that gets on asks for more time to start, and one
        // that hangs is ended by TimeoutStartSec.
        if self.listens && !self.ready {
            self.send(&[NotifyState::ExtendTimeoutUsec(START_MICROSECONDS)]);
        }
        if self.feed_every.is_some() {
            self.send(&[NotifyState::Watchdog]);
        }
    }

    /// Returns when the watchdog is to be fed; never, where none is set. Cancel-safe.
    pub async fn hungry(&self) {
        match self.feed_every {
            Some(every) => sleep_until(self.fed + every).await,
            None => pending().await,
        }
    }

    /// The process is about to end.
    pub fn stopping(&mut self) {
        self.send(&[NotifyState::Stopping]);
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if self.listens
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::debug!(%error, "cannot notify the service manager");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_hungry_a_while_after_the_last_feed() {
        let mut manager = ServiceManager {
            feed_every: Some(Duration::from_secs(20)),
            ..ServiceManager::none()
        };
        let began = Instant::now();
        manager.hungry().await;
        assert_eq!(began.elapsed().as_secs(), 20);
        manager.feed();
        manager.hungry().await;
        assert_eq!(began.elapsed().as_secs(), 40);
    }
}
