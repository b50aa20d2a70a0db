//! A node in a temporary directory, with a bucket of its own: the real platform-agent on whatever an attacker serves.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_sdk_s3::config::Credentials;
use ctl::dev::store::{RunningStore, SecretKey, StoreConfig};
use serde::Deserialize;
use shared::documents::NodeStatus;
use shared::names::{GroupName, NodeId};
use shared::store::{S3Store, aws_config_loader, keys};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::attacks::{BUCKET, ENVIRONMENT, GROUP, NODE};

mod snapshot;

pub use snapshot::Snapshot;

const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "ATTACKED";
const SECRET_KEY: &str = "attacked-secret-key";
/// Longest that one pass of the agent may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// All that may lie in the node's directory.
const OWN: [&str; 6] = [
    "agent.toml",
    "credentials.toml",
    "node",
    "root",
    "state",
    "store",
];

/// A node and its bucket.
#[derive(Debug)]
pub struct Victim {
    directory: TempDir,
    agent: PathBuf,
    store: RunningStore,
}

/// How one pass of the agent ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output and standard error.
    pub output: String,
}

/// The platform-agent binary: `$PLATFORM_AGENT`, or the one that cargo built beside this test.
///
/// # Errors
/// It is not there.
pub fn find_agent() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("PLATFORM_AGENT") {
        let path = PathBuf::from(named);
        if path.is_file() {
            return Ok(std::path::absolute(path)?);
        }
        bail!(
            "$PLATFORM_AGENT names {}, which is not there",
            path.display()
        );
    }
    // target/PROFILE/deps/TEST
    let test = std::env::current_exe()?;
    let profile = test
        .ancestors()
        .nth(2)
        .context("no directory above the test")?;
    let path = profile.join("platform-agent");
    if path.is_file() {
        return Ok(path);
    }
    bail!(
        "there is no platform-agent at {}: build it with `cargo build -p agent`, or name one with $PLATFORM_AGENT",
        path.display()
    )
}

// === impl Victim ===

impl Victim {
    /// Sets a node up from what it was installed with (`root.json`, `wrap.key`), with an empty bucket.
    ///
    /// # Errors
    /// What could not be written, or a store that does not start.
    pub async fn new(installed: &Path, agent: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        for part in [
            "node",
            "state",
            "root/etc/kubernetes/manifests",
            "root/etc/kubernetes/secrets",
            "root/etc/kubernetes/host",
            "root/etc/kubernetes/addons",
        ] {
            fs::create_dir_all(path.join(part))?;
        }
        fs::create_dir_all(path.join("store").join(BUCKET))?;
        for file in ["root.json", "wrap.key"] {
            fs::copy(installed.join(file), path.join("node").join(file))
                .with_context(|| format!("the fixture has no node/{file}"))?;
        }
        private(&path.join("node/wrap.key"))?;
        let credentials = path.join("credentials.toml");
        fs::write(
            &credentials,
            format!("access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n"),
        )?;
        private(&credentials)?;
        let store = RunningStore::start(StoreConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            directory: path.join("store"),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SecretKey::from(SECRET_KEY),
            region: REGION.to_owned(),
        })
        .await?;
        let victim = Self {
            agent: agent.to_owned(),
            store,
            directory,
        };
        fs::write(path_of(&victim, "agent.toml"), victim.config())?;
        Ok(victim)
    }

    fn config(&self) -> String {
        let path = |below: &str| self.directory.path().join(below).display().to_string();
        let lines = [
            ("environment", ENVIRONMENT.to_owned()),
            ("group", GROUP.to_owned()),
            ("node", NODE.to_owned()),
            ("bucket", BUCKET.to_owned()),
            ("region", REGION.to_owned()),
            ("endpoint_url", self.endpoint()),
            ("root_directory", path("root")),
            ("state_directory", path("state")),
            ("trusted_root", path("node/root.json")),
            ("credentials_file", path("credentials.toml")),
            ("metrics_listen", "127.0.0.1:0".to_owned()),
        ];
        let all: String = lines
            .iter()
            .map(|(k, v)| format!("{k} = {v:?}\n"))
            .collect();
        let key = path("node/wrap.key");
        format!("{all}\n[key_wrap]\nmethod = \"local-file\"\npath = {key:?}\n")
    }

    /// The node's own directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The root of the node's file system.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        path_of(self, "root")
    }

    /// The key file that unwraps identities.
    #[must_use]
    pub fn wrap_key(&self) -> PathBuf {
        path_of(self, "node/wrap.key")
    }

    /// The store's address.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.store.endpoint().to_string()
    }

    /// The bucket as an operator reaches it.
    pub async fn operators_store(&self) -> S3Store {
        let sdk = aws_config_loader(REGION, Some(&self.endpoint()))
            .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
            .load()
            .await;
        S3Store::new(&sdk, BUCKET)
    }

    fn bucket(&self) -> PathBuf {
        path_of(self, "store").join(BUCKET)
    }

    /// Puts exactly these objects into the bucket; what nodes wrote stays.
    ///
    /// # Errors
    /// What could not be copied.
    pub fn serve(&self, objects: &Path) -> anyhow::Result<()> {
        match fs::remove_dir_all(self.bucket().join("groups")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        copy(objects, &self.bucket()).with_context(|| format!("cannot serve {}", objects.display()))
    }

    /// Runs one pass of the agent.
    ///
    /// # Errors
    /// It does not start, or does not end.
    pub async fn once(&self) -> anyhow::Result<Ran> {
        let run = Command::new(&self.agent)
            .arg("once")
            .arg("--config")
            .arg(path_of(self, "agent.toml"))
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let done = timeout(PATIENCE, run)
            .await
            .context("the agent did not end")?
            .with_context(|| format!("cannot start {}", self.agent.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran {
            code: done.status.code(),
            output: text(&done.stdout) + &text(&done.stderr),
        })
    }

    /// Cuts one of the node's files off in the middle.
    ///
    /// # Errors
    /// It is not there, or too short.
    pub fn cut(&self, file: &str) -> anyhow::Result<()> {
        let path = path_of(self, file);
        let file = fs::File::options().write(true).open(path)?;
        let length = file.metadata()?.len();
        anyhow::ensure!(length > 1, "it has only {length} bytes");
        Ok(file.set_len(length / 2)?)
    }

    fn status_object(&self) -> anyhow::Result<PathBuf> {
        let key = keys::node_status(&GroupName::new(GROUP)?, &NodeId::new(NODE)?);
        Ok(self.bucket().join(key))
    }

    /// Removes the node's status object, so that the next one is the next pass's.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn forget_status(&self) -> anyhow::Result<()> {
        match fs::remove_file(self.status_object()?) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// The node's status object, whether it is authenticated or not; none where there is none.
    ///
    /// # Errors
    /// It does not parse.
    pub fn status(&self) -> anyhow::Result<Option<NodeStatus>> {
        #[derive(Deserialize)]
        struct Envelope {
            body: String,
        }
        let bytes = match fs::read(self.status_object()?) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let envelope: Envelope = serde_json::from_slice(&bytes)?;
        Ok(Some(serde_json::from_str(&envelope.body)?))
    }

    /// What lies in the node's directory and has no place there.
    ///
    /// # Errors
    /// The directory can't be listed.
    pub fn strays(&self) -> io::Result<Vec<PathBuf>> {
        let mut strays = Vec::new();
        for entry in fs::read_dir(self.directory.path())? {
            let entry = entry?;
            if !OWN.iter().any(|own| entry.file_name() == *own) {
                strays.push(entry.path());
            }
        }
        Ok(strays)
    }

    /// Ends the store.
    pub async fn end(self) {
        self.store.shutdown().await;
    }
}

fn path_of(victim: &Victim, below: &str) -> PathBuf {
    victim.directory.path().join(below)
}

fn private(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

// === impl Ran ===

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "exit code {:?}, and it said:\n{}",
            self.code, self.output
        )
    }
}
