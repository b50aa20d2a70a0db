//! Time: the injected clock, and what to do when it stepped back.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shared::durable::{self, Attributes, DurableError};
use shared::store::ServerTime;

use crate::rollout::BootTime;

/// How far the store's clock and ours may be apart and still be said to agree.
pub const AGREEMENT: SignedDuration = SignedDuration::from_mins(5);

/// The wall clock and the passing of time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time of day.
    fn now(&self) -> Timestamp;

    /// The time on a clock that counts suspended time, and in which boot.
    fn boot_time(&self) -> BootTime {
        BootTime::default()
    }

    /// Waits, on a clock that no step of the time of day moves.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn boot_time(&self) -> BootTime {
        // Read once: it is another at the next boot only.
        static BOOT: OnceLock<String> = OnceLock::new();
        let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = BOOT.get_or_init(|| read().unwrap_or_default().trim().to_owned());
        let since = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
        let since = since.map(Duration::from).unwrap_or_default();
        BootTime {
            boot: boot.clone(),
            milliseconds: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What to think of the time of day before anything new is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockVerdict {
    /// Nothing speaks against it.
    Plausible,
    /// The remembered time lies in the future, but the store agrees with the clock: the memory is wrong.
    MemoryIsWrong {
        /// The remembered time.
        remembered: Timestamp,
    },
    /// The remembered time lies in the future, and nobody confirms the clock.
    SteppedBack {
        /// The remembered time.
        remembered: Timestamp,
    },
}

/// Judges the time of day against the latest time remembered and the store's.
#[must_use]
pub fn judge(
    now: Timestamp,
    remembered: Option<Timestamp>,
    store: Option<ServerTime>,
) -> ClockVerdict {
    let Some(remembered) = remembered.filter(|r| *r > now) else {
        return ClockVerdict::Plausible;
    };
    // The store's Date against our clock at that moment, and our clock then against now: only both together say that
    // the store confirms the clock as it is now.
    let near = |a: Timestamp, b: Timestamp| a.duration_since(b).abs() <= AGREEMENT;
    match store {
        Some(t) if near(t.server, t.local) && near(t.local, now) => {
            ClockVerdict::MemoryIsWrong { remembered }
        }
        _ => ClockVerdict::SteppedBack { remembered },
    }
}

/// The latest time at which a release was adopted, kept in the state directory; without it, a clock that was set back
/// would make expired metadata valid again.
#[derive(Debug, Clone)]
pub struct TimeMemory {
    path: PathBuf,
}

/// The memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TimeMemoryError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// It is damaged.
    #[error("{path} is damaged: remove it if this machine's clock is right")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// It cannot be written.
    #[error("cannot remember the time")]
    Write(#[source] DurableError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    latest: Timestamp,
}

impl TimeMemory {
    /// Kept in `state_directory`.
    #[must_use]
    pub fn in_directory(state_directory: &Path) -> Self {
        Self {
            path: state_directory.join("latest-time.json"),
        }
    }

    /// The remembered time, if there is one.
    ///
    /// # Errors
    /// [`TimeMemoryError`]; a damaged memory is no absent one.
    pub fn recall(&self) -> Result<Option<Timestamp>, TimeMemoryError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(TimeMemoryError::Read {
                    path: self.path.clone(),
                    source,
                });
            }
        };
        serde_json::from_slice::<Document>(&bytes)
            .map(|d| Some(d.latest))
            .map_err(|source| TimeMemoryError::Damaged {
                path: self.path.clone(),
                source,
            })
    }

    /// Remembers `now`.
    ///
    /// # Errors
    /// [`TimeMemoryError::Write`].
    pub fn remember(&self, now: Timestamp) -> Result<(), TimeMemoryError> {
        let text = format!("{{\"latest\":\"{now}\"}}\n");
        durable::write_file(&self.path, text.as_bytes(), Attributes::mode(0o600))
            .map_err(TimeMemoryError::Write)
    }

    /// Forgets.
    ///
    /// # Errors
    /// [`TimeMemoryError::Write`].
    pub fn forget(&self) -> Result<(), TimeMemoryError> {
        durable::remove_file(&self.path).map_err(TimeMemoryError::Write)
    }
}

// === impl TimeMemoryError ===

impl TimeMemoryError {
    /// A word for metrics labels.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Write(_) => "disk",
            Self::Damaged { .. } => "local_state",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn store(server: i64, local: i64) -> Option<ServerTime> {
        Some(ServerTime {
            server: at(server),
            local: at(local),
        })
    }

    #[test]
    fn judges_the_clock() {
        let wrong = ClockVerdict::MemoryIsWrong {
            remembered: at(9000),
        };
        let back = ClockVerdict::SteppedBack {
            remembered: at(9000),
        };
        for (now, remembered, store, expected) in [
            (0, None, None, ClockVerdict::Plausible),
            (9000, Some(9000), None, ClockVerdict::Plausible),
            (9001, Some(9000), store(0, 9001), ClockVerdict::Plausible),
            (0, Some(9000), store(0, 0), wrong),
            (0, Some(9000), store(300, 0), wrong),
            (0, Some(9000), store(301, 0), back),
            (0, Some(9000), store(9000, 0), back),
            // An answer from before the step confirms nothing.
            (0, Some(9000), store(9100, 9100), back),
            (0, Some(9000), None, back),
        ] {
            let verdict = judge(at(now), remembered.map(at), store);
            assert_eq!(verdict, expected, "now {now}, remembered {remembered:?}");
        }
    }

    #[test]
    fn remembers_forgets_and_notices_damage() {
        let dir = tempfile::tempdir().unwrap();
        let memory = TimeMemory::in_directory(dir.path());
        assert_eq!(memory.recall().unwrap(), None);
        memory.remember(at(5)).unwrap();
        assert_eq!(memory.recall().unwrap(), Some(at(5)));
        std::fs::write(dir.path().join("latest-time.json"), "{\"lat").unwrap();
        assert_eq!(memory.recall().unwrap_err().kind(), "local_state");
        memory.forget().unwrap();
        assert_eq!(memory.recall().unwrap(), None);
    }
}
