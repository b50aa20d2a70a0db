//! Being asked to end: whoever runs nodes has to end them too.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

/// Enough for the runtime to look at what has come: a signal that is pending is only known once it has.
const GLANCE: Duration = Duration::from_millis(1);

/// Ctrl-C, SIGTERM, and the terminal that goes away.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Ctrl-C or SIGTERM: somebody means it.
    BySomebody,
    /// The terminal went away.
    ByTheTerminal,
}

impl StopSignals {
    /// Listens from now on; a signal that comes before it is waited for is not lost.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them; cancel-safe.
    pub(crate) async fn asked(&mut self) {
        self.heard().await;
    }

    /// Whether one has come already, and was not waited for yet. It counts as heard then.
    pub(crate) async fn came(&mut self) -> bool {
        tokio::select! {
            biased;
            _ = self.heard() => true,
            () = sleep(GLANCE) => false,
        }
    }

    /// The same as [`StopSignals::asked`], and who it was.
    pub(crate) async fn heard(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::BySomebody,
            _ = self.terminate.recv() => Asked::BySomebody,
            _ = self.hangup.recv() => Asked::ByTheTerminal,
        }
    }
}
