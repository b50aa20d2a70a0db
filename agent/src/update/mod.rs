//! The agent's update of itself.
//!
//! The signed facts of a release name the agent that adopts it. Before the bundle is opened, an agent of another digest
//! fetches that one beside itself, keeps its own binary as `platform-agent.old`, notes the attempt, renames the new one
//! into its place and ends, so that systemd starts it. Until the new one has confirmed a poll it is on trial: the guard
//! (`dist/libexec/platform-agent-guard`, run before each start) counts its starts and puts the old one back after three;
//! a new one that runs and cannot poll ends itself in time. What was put back is rejected until another is named.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shared::digest::{Sha256Digest, Sha256Writer};
use shared::durable::{self, Attributes, StagedFile};
use shared::names::GroupName;
use shared::store::{ObjectStore, deadline_for, keys};
use shared::trust::AgentTarget;
use tokio::time::{Instant, timeout};

use crate::artifacts::{ArtifactError, is_signed, stream_to};
use crate::disk::DiskError;

/// How long a new binary may run without having confirmed a poll, if the configuration does not say.
pub const CONFIRM_WITHIN_SECONDS: i64 = 600;
/// Largest agent, in bytes: several times what one is.
const BYTES: u64 = 64 * 1024 * 1024;
/// The binary's name, below `bin` of the state directory.
const BINARY: &str = "platform-agent";
/// The running program, whatever lies at its path by now.
const SELF: &str = "/proc/self/exe";

/// The steps at which a test can stop the process.
pub const FAIL_POINTS: &[&str] = &[
    "update::fetched",
    "update::kept",
    "update::noted",
    "update::renamed",
];

/// What to do about the agent that a release names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// It runs, or none is named.
    Current,
    /// It was tried and put back.
    Rejected,
    /// It is to be installed.
    Install,
}

/// Replaces the running binary.
#[derive(Debug)]
pub struct Updater {
    bin: PathBuf,
    files: PathBuf,
    own: Sha256Digest,
    confirm_within: Duration,
    /// This binary has not confirmed a poll since it was installed.
    on_trial: bool,
    began: Instant,
    rejected: BTreeSet<Sha256Digest>,
    /// The guard has just put this binary back in place of that one, and no poll has said yet whose fault it was.
    rolled_back: Option<Sha256Digest>,
}

impl Updater {
    /// The updater of the running binary, where that is `bin/platform-agent` in the state directory; none where the
    /// agent was started from elsewhere, which then is somebody else's to replace.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn open(state: &Path, confirm_within: Duration) -> Result<Option<Self>, DiskError> {
        let bin = state.join("bin");
        let installed = fs::canonicalize(bin.join(BINARY)).ok();
        let running = fs::canonicalize(SELF).ok();
        if installed.is_none() || installed != running {
            return Ok(None);
        }
        let own = File::open(SELF).and_then(Sha256Writer::of_reader);
        let (own, _) = own.map_err(DiskError::io("read", Path::new(SELF)))?;
        Self::of(state, own, confirm_within).map(Some)
    }

    /// As [`Updater::open`], of a binary with this digest.
    fn of(state: &Path, own: Sha256Digest, confirm_within: Duration) -> Result<Self, DiskError> {
        let (bin, files) = (state.join("bin"), state.join("update"));
        durable::sweep_temporaries(&bin)?;
        crate::disk::create_directory(&files, 0o700)?;
        let first_word = |name: &str| digests(&files.join(name)).map(|d| d.into_iter().next());
        let attempt = first_word("attempt")?;
        let mut updater = Self {
            own,
            confirm_within,
            on_trial: attempt == Some(own),
            began: Instant::now(),
            rejected: digests(&files.join("rejected"))?.into_iter().collect(),
            rolled_back: first_word("rolled-back")?,
            bin,
            files,
        };
        if updater.on_trial {
            tracing::info!("this binary is new: on trial until it has confirmed a poll");
        } else if updater.files.join("attempt").exists() {
            // The update was interrupted before the new binary was in its place.
            updater.forget_attempt()?;
        }
        Ok(updater)
    }

    /// Digest of the running binary.
    #[must_use]
    pub fn own(&self) -> Sha256Digest {
        self.own
    }

    /// What to do about the agent that a release names.
    #[must_use]
    pub fn choose(&self, wanted: Option<&AgentTarget>) -> Choice {
        match wanted {
            None => Choice::Current,
            Some(w) if w.sha256 == self.own => Choice::Current,
            Some(w) if self.rejected.contains(&w.sha256) => Choice::Rejected,
            Some(_) => Choice::Install,
        }
    }

    /// Whether this binary is new, has confirmed no poll, and has had its time.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.on_trial && self.began.elapsed() >= self.confirm_within
    }

    /// A poll was verified and the disk is as it has to be: this binary stays.
    ///
    /// # Errors
    /// [`DiskError::Io`]; it is tried again.
    pub fn confirmed(&mut self) -> Result<(), DiskError> {
        if let Some(rejected) = self.rolled_back {
            // This binary can poll where that one could not.
            durable::remove_file(&self.files.join("rolled-back"))?;
            self.rolled_back = None;
            tracing::error!(
                sha256 = %rejected,
                "an update of the agent did not work and was put back; it is not tried again until another is published"
            );
        }
        if self.on_trial {
            self.forget_attempt()?;
            self.on_trial = false;
            tracing::info!(sha256 = %self.own, "this binary has confirmed a poll: it stays");
        }
        Ok(())
    }

    /// This binary's first poll failed: where the one before it was put back, the store may have been the reason.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn poll_failed(&mut self) -> Result<(), DiskError> {
        let Some(digest) = self.rolled_back else {
            return Ok(());
        };
        let mut rejected = self.rejected.clone();
        rejected.remove(&digest);
        let lines: String = rejected.iter().map(|d| format!("{d}\n")).collect();
        let path = self.files.join("rejected");
        durable::write_file(&path, lines.as_bytes(), Attributes::mode(0o600))?;
        durable::remove_file(&self.files.join("rolled-back"))?;
        tracing::warn!(sha256 = %digest, "the store fails this binary too: the update may be tried once more");
        self.rejected = rejected;
        self.rolled_back = None;
        Ok(())
    }

    fn forget_attempt(&mut self) -> Result<(), DiskError> {
        // The attempt first: without it nobody counts.
        durable::remove_file(&self.files.join("attempt"))?;
        durable::remove_file(&self.files.join("starts"))?;
        Ok(())
    }

    /// What it takes to fetch `wanted`.
    #[must_use]
    pub fn fetching(&self, wanted: &AgentTarget) -> AgentFetch {
        AgentFetch {
            bin: self.bin.clone(),
            wanted: wanted.clone(),
        }
    }

    /// Puts a fetched binary into the running one's place, which is kept.
    ///
    /// # Errors
    /// [`DiskError::Io`]; the binary in place is the old one then.
    pub fn install(&self, fetched: &Path, wanted: &AgentTarget) -> Result<(), DiskError> {
        let current = self.bin.join(BINARY);
        fail::fail_point!("update::fetched");
        let link = self.bin.join(format!("{}old", durable::TEMPORARY_PREFIX));
        durable::remove_file(&link)?;
        fs::hard_link(&current, &link).map_err(DiskError::io("link", &link))?;
        durable::publish_file(&link, &self.bin.join(format!("{BINARY}.old")))?;
        // Renaming one link over another of the same file leaves both.
        durable::remove_file(&link)?;
        fail::fail_point!("update::kept");
        durable::remove_file(&self.files.join("starts"))?;
        let attempt = format!("{} {}\n", wanted.sha256, one_word(&wanted.version));
        let path = self.files.join("attempt");
        durable::write_file(&path, attempt.as_bytes(), Attributes::mode(0o600))?;
        fail::fail_point!("update::noted");
        durable::publish_file(fetched, &current)?;
        fail::fail_point!("update::renamed");
        Ok(())
    }
}

/// A binary to fetch.
#[derive(Debug)]
pub struct AgentFetch {
    bin: PathBuf,
    wanted: AgentTarget,
}

impl AgentFetch {
    /// Streams it beside the running one; gives its path. Nothing but the signed bytes is left there.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub async fn fetch(
        &self,
        store: Arc<dyn ObjectStore>,
        group: &GroupName,
    ) -> Result<PathBuf, ArtifactError> {
        let AgentTarget {
            target,
            sha256,
            bytes,
            ..
        } = &self.wanted;
        let name = BINARY.to_owned();
        if *bytes == 0 || *bytes > BYTES || target.contains('/') {
            let what = format!("{bytes} bytes as {target:?} cannot be an agent");
            return Err(ArtifactError::NotTheSigned { name, what });
        }
        let key = keys::target(group, sha256, target);
        let mut file = StagedFile::create(&self.bin, &format!("agent-{sha256}"))?;
        let limit = deadline_for(*bytes);
        let streaming = stream_to(&mut file, store.as_ref(), &key, BINARY, *bytes);
        let Ok(found) = timeout(limit, streaming).await else {
            let seconds = limit.as_secs();
            return Err(ArtifactError::Deadline { name, seconds });
        };
        is_signed(BINARY, (*sha256, *bytes), found?)?;
        Ok(file.finish(0o755)?)
    }
}

/// A version that the guard's `read` takes for one word.
fn one_word(version: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || ".-_+".contains(*c);
    version.chars().filter(plain).take(40).collect()
}

/// The digests that begin the lines of a file; none where there is none. Another line is not the guard's.
fn digests(path: &Path) -> Result<Vec<Sha256Digest>, DiskError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(DiskError::io("read", path)(e)),
    };
    let words = text.lines().filter_map(|l| l.split_whitespace().next());
    Ok(words.filter_map(|w| w.parse().ok()).collect())
}

#[cfg(test)]
mod tests;
