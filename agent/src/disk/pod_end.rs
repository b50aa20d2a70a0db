//! Waiting until a pod whose manifest was removed is gone.

use std::time::Duration;

use shared::check::manifest::PodSummary;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodEnded {
    /// Nothing listens on its host ports any more, or it had none.
    Gone,
    /// It was still there when the time was over.
    StillThere,
}

/// Waits for the end of pods.
pub trait PodEnd: Send + Sync {
    /// Returns once `pod` no longer holds its host ports, or when its grace period and kubelet's list period are over.
    fn wait(&self, pod: &PodSummary) -> PodEnded;
}

/// Looks at the host's listening sockets.
#[derive(Debug)]
pub struct HostPorts;

impl HostPorts {
    /// Over `/proc` and the system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self
    }
}

impl PodEnd for HostPorts {
    fn wait(&self, _pod: &PodSummary) -> PodEnded {
        let _ = Duration::ZERO;
        todo!()
    }
}
