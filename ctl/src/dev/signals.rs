//! Being asked to end: whoever runs nodes has to end them too.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

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

    /// The same, and who it was.
    pub(crate) async fn heard(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::BySomebody,
            _ = self.terminate.recv() => Asked::BySomebody,
            _ = self.hangup.recv() => Asked::ByTheTerminal,
        }
    }
}
