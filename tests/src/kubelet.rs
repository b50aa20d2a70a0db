//! A model of kubelet's static-pod file source: the oracle of the crash tests.
//!
//! It stands where kubelet stands: it knows the manifest directory and nothing of who writes it. Whatever it would
//! have run, stopped or failed to read goes into a history, and [`judge()`] says afterwards which of that a correct
//! writer can never cause.
//!
//! - `source`: kubelet's rules (`pkg/kubelet/config/file.go`, `file_linux.go`): full lists, single events, the store.
//! - `pod`: what kubelet accepts as one static pod.
//! - `secrets`: what a starting pod would find mounted.
//! - `watch`: kubelet's inotify watch and its event map.
//! - [`observation`]: the history's vocabulary.
//! - [`allowed`], [`violation`], [`judge`](mod@judge): the verdict, pure.
//!
//! The model is stricter than one kubelet in one way only: it lists far more often (a fast tick, and after every
//! inotify event), because kubelet's own list may fall on any of those moments. A list opens the directory once and
//! reads a few dozen names in one system call, which the file system orders against renames, so an atomic rename
//! is never seen as an absence.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub mod allowed;
pub mod judge;
pub mod observation;
mod pod;
mod secrets;
mod source;
pub mod violation;
mod watch;

pub use allowed::{Allowed, Release};
pub use judge::judge;
pub use observation::{
    Cause, Digest, FileState, Finding, Observation, PodIdentity, Problem, RunningPod, SecretSet,
    Trigger,
};
pub use violation::{Breach, Violation};

use source::FileSource;
use watch::Watch;

/// Kubelet's default `fileCheckFrequency`.
pub const DEFAULT_FILE_CHECK_FREQUENCY: Duration = Duration::from_secs(20);

/// How long the inotify stream must be silent before a stopping model believes it has heard everything.
const QUIET: Duration = Duration::from_millis(50);

/// A stopping model waits no longer than this for that silence.
const QUIET_AT_MOST: Duration = Duration::from_secs(2);

/// Events taken between two lists, so that a busy writer can't keep the model from listing.
const EVENTS_PER_LIST: usize = 64;

/// What the model watches.
#[derive(Debug, Clone)]
pub struct KubeletConfig {
    /// The manifest directory, as it is on this machine.
    pub manifests: PathBuf,
    /// The node's root: an absolute hostPath of a manifest is looked up below it.
    pub root: PathBuf,
    /// Time between two full lists; kubelet's own is [`DEFAULT_FILE_CHECK_FREQUENCY`].
    pub tick: Duration,
}

/// The running model: a thread of its own, ended by [`Kubelet::stop`] or by dropping it.
#[derive(Debug)]
pub struct Kubelet {
    state: Arc<Mutex<State>>,
    wake: Sender<Wake>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread publishes.
#[derive(Debug, Default)]
struct State {
    history: Vec<Observation>,
    running: BTreeMap<String, RunningPod>,
}

/// Why the thread wakes up before its tick.
#[derive(Debug)]
enum Wake {
    /// A visible file was created, written, or its mode changed.
    Changed(String, Trigger),
    /// A visible file was removed or renamed away.
    Removed(String, Trigger),
    /// Anything else that moved in the directory: kubelet ignores it, the model takes it as a reason to list.
    Stirred,
    Stop,
}

// === impl Kubelet ===

impl Kubelet {
    /// Starts the model. The first list has happened when this returns.
    ///
    /// # Errors
    /// When inotify or a thread can't be had. A missing manifest directory is no error: kubelet waits for it.
    pub fn start(config: KubeletConfig) -> Result<Self> {
        let (wake, woken) = channel();
        let state = Arc::new(Mutex::new(State::default()));
        let mut model = Model {
            source: FileSource::new(config.manifests.clone(), config.root),
            watch: Watch::new(config.manifests, wake.clone())?,
            tick: config.tick,
            start: Instant::now(),
            state: Arc::clone(&state),
        };
        model.list();
        let thread = std::thread::Builder::new()
            .name("kubelet-model".to_owned())
            .spawn(move || model.run(&woken))
            .context("failed to start the model's thread")?;
        Ok(Self {
            state,
            wake,
            thread: Some(thread),
        })
    }

    /// The pods kubelet would be running now, by `namespace/name`.
    #[must_use]
    pub fn running(&self) -> BTreeMap<String, RunningPod> {
        lock(&self.state).running.clone()
    }

    /// Everything observed so far, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Observation> {
        lock(&self.state).history.clone()
    }

    /// Hears out the inotify stream, lists a last time, ends the thread, and returns the whole history.
    #[must_use]
    pub fn stop(mut self) -> Vec<Observation> {
        self.end();
        std::mem::take(&mut lock(&self.state).history)
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Both fail only if the thread is gone already, which leaves nothing to end.
            let _ = self.wake.send(Wake::Stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.end();
    }
}

// === impl Model ===

/// What lives on the thread.
#[derive(Debug)]
struct Model {
    source: FileSource,
    watch: Watch,
    tick: Duration,
    start: Instant,
    state: Arc<Mutex<State>>,
}

impl Model {
    fn run(mut self, woken: &Receiver<Wake>) {
        let mut next_tick = Instant::now() + self.tick;
        loop {
            match woken.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    return self.hear_out(woken);
                }
                Ok(first) => {
                    if self.take(first, woken) {
                        return self.hear_out(woken);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.list();
                    next_tick = Instant::now() + self.tick;
                }
            }
        }
    }

    /// Handles `first` and what queued up behind it, then lists once. True when a stop was among it.
    fn take(&mut self, first: Wake, woken: &Receiver<Wake>) -> bool {
        let mut stop = false;
        for wake in std::iter::once(first).chain(woken.try_iter().take(EVENTS_PER_LIST)) {
            match wake {
                Wake::Changed(file, trigger) => {
                    let findings = self.source.changed(&file);
                    self.record(&Cause::Event(trigger), findings);
                }
                Wake::Removed(file, trigger) => {
                    let findings = self.source.removed(&file);
                    self.record(&Cause::Event(trigger), findings);
                }
                Wake::Stirred => {}
                Wake::Stop => stop = true,
            }
        }
        self.list();
        stop
    }

    /// The kernel may still hold events of writes that are over: without this the history would depend on a race.
    fn hear_out(&mut self, woken: &Receiver<Wake>) {
        let deadline = Instant::now() + QUIET_AT_MOST;
        while Instant::now() < deadline {
            match woken.recv_timeout(QUIET) {
                Ok(wake) => self.take(wake, woken),
                Err(_) => break,
            };
        }
        self.list();
    }

    fn list(&mut self) {
        self.watch.establish();
        let findings = self.source.list();
        self.record(&Cause::List, findings);
    }

    fn record(&self, cause: &Cause, findings: Vec<Finding>) {
        if findings.is_empty() {
            return;
        }
        let at = self.start.elapsed();
        let mut state = lock(&self.state);
        state.running = self.source.running();
        state
            .history
            .extend(findings.into_iter().map(|finding| Observation {
                at,
                cause: cause.clone(),
                finding,
            }));
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A poisoned lock means the other side panicked between two whole updates: what is there is still true.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
