//! The agent as user data installs it: by digest, from `bootstrap/`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use shared::digest::Sha256Digest;
use shared::store::{Backoff, ObjectStore, keys, put_immutable, with_retries};

use super::elf::{self, ElfProblem};

/// The largest agent that is put into the bucket. One as it goes onto nodes has under 12 MiB; one that was built for
/// work on it has many times that, and needs libraries that a machine may not have.
pub const MAX_AGENT_BYTES: u64 = 32 * 1024 * 1024;

/// An agent that machines can install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentBinary {
    /// Its digest.
    pub sha256: Sha256Digest,
    /// It.
    pub bytes: Bytes,
}

/// A file that is no agent for machines.
#[derive(Debug, thiserror::Error)]
pub enum AgentBinaryError {
    /// It cannot be read.
    #[error("platform-agent cannot be read from {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than any agent for nodes.
    #[error(
        "{path} has more than {MAX_AGENT_BYTES} bytes, so it is not the agent as it goes onto nodes: `make agent` builds \
         that one; name it with --agent"
    )]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// No machine could run it.
    #[error(
        "{path} is not the agent as it goes onto nodes: `make agent` builds that one; name it with --agent"
    )]
    NotForMachines {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ElfProblem,
    },
}

impl AgentBinary {
    /// Reads an agent.
    ///
    /// # Errors
    /// [`AgentBinaryError`].
    pub fn read(path: &Path) -> Result<Self, AgentBinaryError> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_AGENT_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|source| AgentBinaryError::Read {
                path: path.to_owned(),
                source,
            })?;
        elf::check(&bytes).map_err(|source| AgentBinaryError::NotForMachines {
            path: path.to_owned(),
            source,
        })?;
        if bytes.len() as u64 > MAX_AGENT_BYTES {
            let path = path.to_owned();
            return Err(AgentBinaryError::TooLarge { path });
        }
        Ok(Self {
            sha256: Sha256Digest::of(&bytes),
            bytes: bytes.into(),
        })
    }

    /// Puts it where user data says it is, unless it is there. Says whether it was put.
    ///
    /// # Errors
    /// A store that fails.
    pub async fn upload_if_needed(&self, store: &dyn ObjectStore) -> anyhow::Result<bool> {
        let key = keys::bootstrap_agent(&self.sha256);
        let there = with_retries(Backoff::INTERACTIVE, || store.list(&key))
            .await
            .with_context(|| format!("cannot look for {key}"))?;
        if there.contains(&key) {
            return Ok(false);
        }
        put_immutable(store, Backoff::INTERACTIVE, &key, &self.bytes)
            .await
            .with_context(|| format!("cannot put the agent that machines install to {key}"))?;
        Ok(true)
    }
}
