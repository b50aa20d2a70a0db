//! Waiting until a pod whose manifest was removed is gone.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use shared::check::manifest::PodSummary;

/// Kubelet's `fileCheckFrequency`: where inotify fails it, it sees a removal only after so long.
pub(crate) const LIST_PERIOD: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// Between removing a manifest and writing its heir: where kubelet lists the heir before it has seen the removal's event,
/// that event ends the heir.
const SETTLE: Duration = Duration::from_millis(300);
/// State of a listening TCP socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodEnded {
    /// Nothing holds its host ports any more, or it had none: a pod of the same name kubelet itself holds back until then.
    Gone,
    /// It was still there when the time was over.
    StillThere,
}

/// Waits for the end of pods.
pub trait PodEnd: Send + Sync {
    /// Gives kubelet the time to see that a manifest was removed.
    fn settle(&self) {}

    /// Returns once `pod` no longer holds its host ports, or when its grace period and kubelet's list period are over.
    fn wait(&self, pod: &PodSummary) -> PodEnded;
}

/// Time, so that a test need not wait.
trait Clock: Send + Sync {
    fn now(&self) -> Duration;
    fn sleep(&self, time: Duration);
}

struct SystemClock(Instant);

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }
}

/// Looks at the host's sockets; the agent runs in the host's network.
pub struct HostPorts {
    net: PathBuf,
    clock: Box<dyn Clock>,
}

impl fmt::Debug for HostPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostPorts")
            .field("net", &self.net)
            .finish_non_exhaustive()
    }
}

// === impl HostPorts ===

impl HostPorts {
    /// Over `/proc/net` and the system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self {
            net: PathBuf::from("/proc/net"),
            clock: Box::new(SystemClock(Instant::now())),
        }
    }

    fn is_held(&self, protocol: &str, port: u16) -> bool {
        let (tables, listening) = match protocol {
            "TCP" => (["tcp", "tcp6"], true),
            "UDP" => (["udp", "udp6"], false),
            // Nothing that a control plane has, and no table that is always there.
            _ => return false,
        };
        tables.iter().any(|table| {
            let text = fs::read_to_string(self.net.join(table)).unwrap_or_default();
            text.lines()
                .skip(1)
                .any(|line| holds(line, port, listening))
        })
    }
}

impl PodEnd for HostPorts {
    fn settle(&self) {
        self.clock.sleep(SETTLE);
    }

    fn wait(&self, pod: &PodSummary) -> PodEnded {
        let grace = Duration::from_secs(pod.termination_grace_seconds);
        let until = self
            .clock
            .now()
            .saturating_add(grace)
            .saturating_add(LIST_PERIOD);
        loop {
            let mut ports = pod.host_ports.iter();
            if !ports.any(|(protocol, port)| self.is_held(protocol, *port)) {
                return PodEnded::Gone;
            }
            if self.clock.now() >= until {
                return PodEnded::StillThere;
            }
            self.clock.sleep(LOOK_PERIOD);
        }
    }
}

/// Whether a line of a socket table is of this local port: `sl local_address rem_address st …`, in hex.
fn holds(line: &str, port: u16, listening: bool) -> bool {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1), fields.nth(1));
    let local_port = local
        .and_then(|local| local.rsplit_once(':'))
        .and_then(|(_, hex)| u16::from_str_radix(hex, 16).ok());
    local_port == Some(port) && (!listening || state == Some(LISTEN))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Time passes only in sleeps; after `ends_at` the given listener is dropped.
    struct StepClock {
        now: Mutex<Duration>,
        ends_at: Duration,
        listener: Arc<Mutex<Option<TcpListener>>>,
    }

    impl Clock for StepClock {
        fn now(&self) -> Duration {
            *self.now.lock().unwrap()
        }

        fn sleep(&self, time: Duration) {
            let mut now = self.now.lock().unwrap();
            *now += time;
            if *now >= self.ends_at {
                self.listener.lock().unwrap().take();
            }
        }
    }

    fn wait(ends_at: Duration, grace: u64) -> (PodEnded, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let pod = PodSummary {
            namespace: "kube-system".to_owned(),
            name: "a".to_owned(),
            host_ports: BTreeSet::from([("TCP".to_owned(), port)]),
            host_network: true,
            host_paths: Vec::new(),
            termination_grace_seconds: grace,
        };
        let clock = Arc::new(StepClock {
            now: Mutex::default(),
            ends_at,
            listener: Arc::new(Mutex::new(Some(listener))),
        });
        struct Shared(Arc<StepClock>);
        impl Clock for Shared {
            fn now(&self) -> Duration {
                self.0.now()
            }
            fn sleep(&self, time: Duration) {
                self.0.sleep(time);
            }
        }
        let ports = HostPorts {
            net: PathBuf::from("/proc/net"),
            clock: Box::new(Shared(Arc::clone(&clock))),
        };
        let ended = ports.wait(&pod);
        (ended, clock.now())
    }

    #[test]
    fn waits_as_long_as_the_port_is_held_and_no_longer() {
        let (ended, after) = wait(Duration::from_secs(3), 30);
        assert_eq!(ended, PodEnded::Gone);
        assert!(after < Duration::from_secs(4), "{after:?}");
    }

    #[test]
    fn gives_up_after_grace_and_list_period() {
        let (ended, after) = wait(Duration::MAX, 5);
        assert_eq!(ended, PodEnded::StillThere);
        assert!(
            (Duration::from_secs(25)..Duration::from_secs(26)).contains(&after),
            "{after:?}"
        );
    }

    #[test]
    fn reads_the_socket_tables() {
        let listening =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0";
        let connected = listening.replace(" 0A ", " 01 ");
        assert!(holds(listening, 8080, true));
        assert!(!holds(listening, 8081, true));
        assert!(!holds(&connected, 8080, true));
        assert!(holds(
            "1: 00000000000000000000000000000000:1F90 0:0 07 x",
            8080,
            false
        ));
        assert!(!holds("nonsense", 8080, true));
    }
}
