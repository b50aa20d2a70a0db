//! Running the engine so that nothing tears it from its state.
//!
//! It has a process group of its own: Ctrl-C does not reach it, so it goes on to its end and writes its state; a second Ctrl-C
//! is passed on.
//! Its output goes into files that we follow, not into pipes: where we are killed, it goes on to its end, with nobody
//! reading. Its standard input is the run directory's lock, so the next run waits for it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::dev::signals::{Asked, StopSignals};
use crate::output;

/// How often its output is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Longest end of its standard error that is shown.
const SHOWN: usize = 4_000;

/// The operator interrupted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted; run the same again, and it goes on from here")]
pub struct Interrupted;

/// How a run of the engine ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) interrupted: bool,
    /// The end of its standard error.
    pub(super) stderr: String,
}

/// Where its output goes: `NAME.log` and `NAME.err.log` in a directory.
fn logs(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    let file = |end: &str| directory.join(format!("{name}{end}"));
    (file(".log"), file(".err.log"))
}

/// Runs it to its end, giving each line of its standard output to `line` as it comes. Who was asked to stop before that starts
/// nothing: [`Interrupted`].
pub(super) async fn follow(
    mut command: Command,
    directory: &Path,
    name: &str,
    stdin: File,
    signals: &mut StopSignals,
    mut line: impl FnMut(&str),
) -> anyhow::Result<Ended> {
    if signals.came().await {
        return Err(Interrupted.into());
    }
    let (out, err) = logs(directory, name);
    let mut child = command
        .process_group(0)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(fresh(&out)?))
        .stderr(Stdio::from(fresh(&err)?))
        .spawn()
        .context("the engine cannot be started")?;
    let mut lines = Follower::open(&out)?;
    let mut interrupted = false;
    let status = loop {
        tokio::select! {
            ended = child.wait() => break ended.context("the engine cannot be waited for")?,
            asked = signals.heard() => {
                // Its AWS provider gives up requests under way when it is told to end: what they made would be in no state.
                // A terminal that is closed after a Ctrl-C asks for nothing more.
                if interrupted && asked == Asked::BySomebody {
                    output::note("telling it to end: what it has made and not recorded yet has to be imported or removed by hand");
                    interrupt(&child);
                } else if !interrupted {
                    output::note(
                        "interrupted: the engine goes on to its end, so that everything is recorded, and nothing follows it (again: end it now)",
                    );
                    interrupted = true;
                }
            }
            () = sleep(LOOK) => lines.each(&mut line)?,
        }
    };
    lines.each(&mut line)?;
    lines.last(&mut line);
    let stderr = std::fs::read(&err).with_context(|| format!("cannot read {}", err.display()))?;
    Ok(Ended {
        status,
        interrupted,
        stderr: tail(&String::from_utf8_lossy(&stderr)),
    })
}

fn interrupt(child: &Child) {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    // One that has ended meanwhile needs no signal.
    if let Some(id) = id {
        let _ = kill(Pid::from_raw(id), Signal::SIGINT);
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a log that is followed; nothing is lost with it"
)]
fn fresh(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

fn tail(text: &str) -> String {
    let text = text.trim();
    let from = text.len().saturating_sub(SHOWN);
    let from = (from..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    text.get(from..).unwrap_or_default().to_owned()
}

/// Reads a growing file by whole lines.
struct Follower {
    file: File,
    at: u64,
    rest: Vec<u8>,
}

// === impl Follower ===

impl Follower {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            file,
            at: 0,
            rest: Vec::new(),
        })
    }

    /// Every whole line since the last call.
    fn each(&mut self, line: &mut impl FnMut(&str)) -> anyhow::Result<()> {
        self.file
            .seek(SeekFrom::Start(self.at))
            .context("cannot follow the engine's log")?;
        let read = self
            .file
            .read_to_end(&mut self.rest)
            .context("cannot follow the engine's log")?;
        self.at += u64::try_from(read).unwrap_or(0);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let whole: Vec<u8> = self.rest.drain(..=end).collect();
            line(String::from_utf8_lossy(&whole).trim_end());
        }
        Ok(())
    }

    /// What stands after the last line's end.
    fn last(&mut self, line: &mut impl FnMut(&str)) {
        if !self.rest.is_empty() {
            line(&String::from_utf8_lossy(&self.rest));
            self.rest.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_growing_file_is_read_by_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        let mut file = fresh(&path).unwrap();
        let mut follower = Follower::open(&path).unwrap();
        let mut seen = Vec::new();
        for part in ["one\ntw", "o\nthr"] {
            file.write_all(part.as_bytes()).unwrap();
            follower
                .each(&mut |line: &str| seen.push(line.to_owned()))
                .unwrap();
        }
        assert_eq!(seen, ["one", "two"]);
        follower.last(&mut |line: &str| seen.push(line.to_owned()));
        assert_eq!(seen, ["one", "two", "thr"]);
    }

    #[test]
    fn the_end_of_a_long_text_begins_at_a_character() {
        let text = "é".repeat(SHOWN);
        let end = tail(&text);
        assert!(end.len() <= SHOWN && end.starts_with('é'));
        assert_eq!(tail(" short \n"), "short");
    }

    #[tokio::test]
    async fn output_is_followed_and_the_end_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo wrong >&2; echo two; exit 3"]);
        let lock = fresh(&directory.path().join("lock")).unwrap();
        let mut signals = StopSignals::listen().unwrap();
        let mut seen = Vec::new();
        let ended = follow(command, directory.path(), "x", lock, &mut signals, |line| {
            seen.push(line.to_owned());
        })
        .await
        .unwrap();
        assert_eq!(seen, ["one", "two"]);
        assert_eq!(
            (ended.status.code(), ended.stderr.as_str()),
            (Some(3), "wrong")
        );
        assert!(!ended.interrupted);
    }
    /// Nextest gives each test a process of its own: the signal reaches nobody else.
    #[tokio::test]
    async fn who_was_asked_to_stop_before_starts_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("started");
        let lock = fresh(&directory.path().join("lock")).unwrap();
        let mut signals = StopSignals::listen().unwrap();
        nix::sys::signal::raise(Signal::SIGINT).unwrap();
        let mut command = Command::new("touch");
        command.arg(&mark);
        let ended = follow(command, directory.path(), "x", lock, &mut signals, |_| {}).await;
        let error = ended.unwrap_err();
        assert!(error.is::<Interrupted>(), "{error:#}");
        assert!(!mark.exists());
    }
}
