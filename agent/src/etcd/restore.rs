//! Making a member's data from a backup, as a signed release orders it.
//!
//! Every step leaves something whole on the disk or nothing, beside the data directory, so an interrupted restore goes on with
//! the step that it was in. The data comes into its place by one rename, at the end: until then the member has none.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use shared::backup::{
    BUMP_REVISION, PART_BYTES, RestoreOrder, RestoreSeen, RestoreStep, open_file, restore_step,
};
use shared::bundle::SealError;
use shared::digest::{Sha256Digest, Sha256Writer};
use shared::durable::{self, DurableError, StagedFile};
use shared::secret::SecretText;
use shared::store::{Backoff, Fetched, ObjectStore, StoreError, keys, with_retries};
use tokio::process::Command;

use crate::disk::{DiskError, create_directory};

/// How long etcd's tool may take: it reads and writes the whole database a few times.
const TOOL: Duration = Duration::from_secs(1800);
/// Where the tool is looked for before the PATH: a release's artifacts are installed there.
const INSTALLED: &str = "/opt/bin/etcdutl";
/// Most that is told of what the tool printed, in characters.
const TOLD: usize = 1000;
/// Patience with the store for each part.
const BACKOFF: Backoff = Backoff {
    attempts: 6,
    first: Duration::from_millis(500),
    cap: Duration::from_secs(15),
};

/// The member that is to have the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreAs {
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub peer_url: String,
    /// Name and peer URL of each member that forms the generation, itself among them.
    pub members: Vec<(String, String)>,
    /// The generation's token.
    pub token: String,
}

/// Everything that a restore takes.
#[derive(Debug, Clone)]
pub struct Restore {
    /// The bucket.
    pub store: Arc<dyn ObjectStore>,
    /// What the release orders.
    pub order: RestoreOrder,
    /// What opens the backup.
    pub identity: SecretText,
    /// As whom.
    pub member: RestoreAs,
    /// The data directory, which must not be there yet; its parent must be.
    pub data: PathBuf,
    /// etcd's tool; none looks where artifacts are, and on the PATH.
    pub etcdutl: Option<PathBuf>,
}

/// A restore that did not come to its end; what was done stays, and it goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A part could not be read.
    #[error("part {part} of backup {backup} cannot be read")]
    Store {
        /// Which part, from 1.
        part: usize,
        /// Of which backup.
        backup: String,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// What was read is not what was signed.
    #[error(
        "{what} of backup {backup} is not the one that was signed: it was altered in the bucket, and is not used"
    )]
    Altered {
        /// The part, or the snapshot.
        what: String,
        /// Of which backup.
        backup: String,
    },
    /// It cannot be opened.
    #[error("backup {backup} cannot be opened")]
    Open {
        /// Which.
        backup: String,
        /// Why.
        #[source]
        source: Box<SealError>,
    },
    /// A file or directory.
    #[error("the disk refuses")]
    Disk(#[source] DiskError),
    /// A durable write.
    #[error("the disk refuses")]
    Durable(#[source] DurableError),
    /// etcd's tool is not there.
    #[error(
        "there is no etcdutl in {INSTALLED} or on the PATH: have the release bring it as an artifact"
    )]
    NoTool(#[source] io::Error),
    /// It failed.
    #[error("etcdutl made no data of backup {backup}: {said}")]
    Tool {
        /// Of which backup.
        backup: String,
        /// What it printed last.
        said: String,
    },
    /// The process is to end, or a task was lost.
    #[error("interrupted")]
    Task(#[source] tokio::task::JoinError),
}

// === impl RestoreError ===

impl RestoreError {
    /// A word for metrics and status.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Store { source, .. } => source.kind.label(),
            Self::Altered { .. } => "altered",
            Self::Open { .. } => "decrypt",
            Self::Disk(e) => e.kind(),
            Self::Durable(_) => "io",
            Self::NoTool(_) => "no_tool",
            Self::Tool { .. } => "tool",
            Self::Task(_) => "internal",
        }
    }
}

impl From<DurableError> for RestoreError {
    fn from(error: DurableError) -> Self {
        Self::Durable(error)
    }
}

// === impl Restore ===

impl Restore {
    /// Restores, from wherever an earlier attempt stopped, and gives what is lost, for people. A member that has data already
    /// is left alone.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub async fn run(&self) -> Result<String, RestoreError> {
        loop {
            let step = restore_step(&self.order, self.seen());
            tracing::info!(backup = %self.order.backup.name, ?step, "restoring etcd");
            match step {
                RestoreStep::Fetch(part) => self.fetch(part).await?,
                RestoreStep::Open => self.blocking(Self::open).await?,
                RestoreStep::Make => self.make().await?,
                RestoreStep::Place => self.place()?,
                RestoreStep::Done => break,
            }
        }
        self.blocking(Self::clear).await?;
        Ok(self.order.loses())
    }

    /// Beside the data directory, so that a rename does it.
    fn work(&self) -> PathBuf {
        let parent = self.data.parent().unwrap_or(Path::new("/"));
        parent.join(format!(".restore-{}", self.order.generation))
    }

    /// Of this backup: another order begins anew.
    fn of_backup(&self) -> PathBuf {
        let digest = self.order.backup.plain_sha256.short();
        self.work()
            .join(format!("{}-{digest}", self.order.backup.name))
    }

    fn part(&self, part: usize) -> PathBuf {
        self.of_backup().join(format!("{part:04}.age"))
    }

    fn snapshot(&self) -> PathBuf {
        self.of_backup().join("snapshot.db")
    }

    fn made(&self) -> PathBuf {
        self.of_backup().join("data")
    }

    fn seen(&self) -> RestoreSeen {
        let parts = self.order.backup.parts.len();
        // What has its final name was verified before it got it.
        RestoreSeen {
            // Without a log and a database etcd would begin with nothing.
            placed: ["member/wal", "member/snap/db"]
                .iter()
                .all(|part| self.data.join(part).exists()),
            made: self.made().is_dir(),
            opened: self.snapshot().is_file(),
            parts: (0..parts).take_while(|n| self.part(*n).is_file()).count(),
        }
    }

    async fn fetch(&self, part: usize) -> Result<(), RestoreError> {
        let backup = &self.order.backup;
        let key = keys::snapshot_part(backup.generation, &backup.name, part);
        let get = || self.store.get(&key, PART_BYTES, None);
        let fetched = with_retries(BACKOFF, get).await;
        let fetched = fetched.map_err(|source| RestoreError::Store {
            part: part + 1,
            backup: backup.name.to_string(),
            source,
        })?;
        let bytes = match fetched {
            Fetched::Object { bytes, .. } => bytes,
            Fetched::NotModified => Default::default(),
        };
        if backup.parts.get(part) != Some(&Sha256Digest::of(&bytes)) {
            return Err(self.altered(format!("part {}", part + 1)));
        }
        let (directory, to) = (self.of_backup(), self.part(part));
        self.blocking(move |_| {
            create_directory(&directory, 0o700).map_err(RestoreError::Disk)?;
            let mut file = StagedFile::create(&directory, "part")?;
            file.write(&bytes)?;
            durable::publish_file(&file.finish(0o600)?, &to)?;
            Ok(())
        })
        .await
    }

    /// Decrypts the parts into the snapshot, which is held against the digest that was signed.
    fn open(&self) -> Result<(), RestoreError> {
        let backup = &self.order.backup;
        let paths = (0..backup.parts.len()).map(|n| self.part(n)).collect();
        let mut plain = Plain {
            file: StagedFile::create(&self.of_backup(), "snapshot")?,
            hash: Sha256Writer::default(),
            broken: None,
        };
        let opened = open_file(
            Parts::of(paths),
            &self.identity,
            &mut plain,
            backup.plain_bytes,
        );
        if let Some(error) = plain.broken {
            return Err(error.into());
        }
        let length = opened.map_err(|source| RestoreError::Open {
            backup: backup.name.to_string(),
            source: Box::new(source),
        })?;
        if (length, plain.hash.finish()) != (backup.plain_bytes, backup.plain_sha256) {
            return Err(self.altered("the snapshot".to_owned()));
        }
        durable::publish_file(&plain.file.finish(0o600)?, &self.snapshot())?;
        Ok(())
    }

    /// Has etcd's tool make a member's data. What a killed one left is removed first.
    async fn make(&self) -> Result<(), RestoreError> {
        let under_way = self.of_backup().join("data.under-way");
        remove_tree(&under_way)?;
        let tool = match &self.etcdutl {
            Some(tool) => tool.clone(),
            None if Path::new(INSTALLED).is_file() => INSTALLED.into(),
            None => "etcdutl".into(),
        };
        let members = self.member.members.iter();
        let cluster: Vec<String> = members.map(|(name, url)| format!("{name}={url}")).collect();
        let flag = |name: &str, value: &str| OsString::from(format!("--{name}={value}"));
        let mut command = Command::new(tool);
        command
            .args(["snapshot", "restore"])
            .arg(self.snapshot())
            .arg("--data-dir")
            .arg(&under_way)
            .arg(flag("name", &self.member.name))
            .arg(flag("initial-advertise-peer-urls", &self.member.peer_url))
            .arg(flag("initial-cluster", &cluster.join(",")))
            .arg(flag("initial-cluster-token", &self.member.token))
            // Watchers and caches must see that the past is another one: revisions go on far ahead, and all before is compacted.
            .arg(flag("bump-revision", &BUMP_REVISION.to_string()))
            .arg("--mark-compacted")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let told = |said: String| RestoreError::Tool {
            backup: self.order.backup.name.to_string(),
            said,
        };
        let output = match tokio::time::timeout(TOOL, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(RestoreError::NoTool(error)),
            Err(_) => return Err(told(format!("it took longer than {} s", TOOL.as_secs()))),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let skip = said.chars().count().saturating_sub(TOLD);
            return Err(told(said.chars().skip(skip).collect()));
        }
        let made = self.made();
        self.blocking(move |_| {
            sync_deep(&under_way)?;
            durable::publish_file(&under_way, &made)?;
            Ok(())
        })
        .await
    }

    fn place(&self) -> Result<(), RestoreError> {
        durable::publish_file(&self.made(), &self.data)?;
        Ok(())
    }

    fn clear(&self) -> Result<(), RestoreError> {
        remove_tree(&self.work())
    }

    fn altered(&self, what: String) -> RestoreError {
        RestoreError::Altered {
            what,
            backup: self.order.backup.name.to_string(),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, RestoreError> + Send + 'static,
    ) -> Result<T, RestoreError> {
        let own = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&own)).await;
        done.map_err(RestoreError::Task)?
    }
}

/// The parts, read as one file.
struct Parts {
    rest: std::vec::IntoIter<PathBuf>,
    current: Option<File>,
}

impl Parts {
    fn of(paths: Vec<PathBuf>) -> io::BufReader<Self> {
        io::BufReader::with_capacity(
            256 * 1024,
            Self {
                rest: paths.into_iter(),
                current: None,
            },
        )
    }
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.current {
                match file.read(buffer)? {
                    0 => self.current = None,
                    n => return Ok(n),
                }
            }
            match self.rest.next() {
                Some(path) => self.current = Some(File::open(path)?),
                None => return Ok(0),
            }
        }
    }
}

/// Where the snapshot is written and digested.
struct Plain {
    file: StagedFile,
    hash: Sha256Writer,
    broken: Option<DurableError>,
}

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.file.write(bytes) {
            self.broken = Some(error);
            return Err(io::Error::other("the disk refuses"));
        }
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn remove_tree(path: &Path) -> Result<(), RestoreError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(RestoreError::Disk(DiskError::io("remove", path)(e)))
        }
        _ => Ok(()),
    }
}

/// Makes a tree durable, from its leaves up.
fn sync_deep(directory: &Path) -> Result<(), RestoreError> {
    let failed = |e| RestoreError::Disk(DiskError::io("read", directory)(e));
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            sync_deep(&entry.path())?;
        } else {
            let synced = File::open(entry.path()).and_then(|file| file.sync_all());
            synced.map_err(|e| RestoreError::Disk(DiskError::io("sync", &entry.path())(e)))?;
        }
    }
    durable::sync_directory(directory)?;
    Ok(())
}
