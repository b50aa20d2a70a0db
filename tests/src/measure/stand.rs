//! A working directory with a store of its own, and everything that a publish does.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ctl::context::{Context, LOCAL, Workspace};
use ctl::dev::credentials::LocalCredentials;
use ctl::dev::store::RunningStore;
use ctl::dev::up;
use ctl::env::{KeyWrap, SECURE};
use ctl::keyring::{self, Keyring};
use ctl::publish::{Choices, Publication, publish};
use ctl::release::prepare;
use indicatif::ProgressBar;
use jiff::Timestamp;
use rand::Rng as _;
use shared::documents::{RolloutDocument, open_node_object};
use shared::names::GroupName;
use shared::store::keys;
use tempfile::TempDir;

/// The place that a benchmark publishes from.
#[derive(Debug)]
pub struct Stand {
    directory: TempDir,
    /// The embedded store.
    pub store: RunningStore,
    /// The environment with its bucket and key.
    pub context: Context,
    /// The group that is published.
    pub group: GroupName,
    keyring: Keyring,
}

/// What the files of a release are like.
#[derive(Debug, Clone, Copy)]
pub struct Filling {
    /// How many manifests.
    pub files: usize,
    /// Bytes a manifest that no compressor can shrink to less than half.
    pub random: usize,
    /// Bytes a manifest that shrink to nothing.
    pub padding: usize,
}

impl Filling {
    /// So many manifests of a little over 4 KiB.
    #[must_use]
    pub const fn of_4_kib(files: usize) -> Self {
        Self {
            files,
            random: 2048,
            padding: 2048,
        }
    }

    /// As much as a release may hold, nearly: 1,000 files, 15 MiB plain, over 3 MiB compressed.
    #[must_use]
    pub const fn full_size() -> Self {
        Self {
            files: 1_000,
            random: 6 * 1024,
            padding: 9 * 1024,
        }
    }
}

impl Stand {
    /// A store on a free port, with an empty bucket, and a keyring in it.
    ///
    /// # Errors
    /// What could not be made or started.
    pub async fn new() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("platform-bench-")
            .tempdir()?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let store = up::start_store(&workspace(directory.path(), 1)?, any).await?;
        let workspace = workspace(directory.path(), store.addr().port())?;
        let context = Context::of(workspace).await?;
        let keyring = keyring::read_or_create(&context).await?;
        Ok(Self {
            directory,
            store,
            context,
            group: GroupName::new(SECURE)?,
            keyring,
        })
    }

    /// The working directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts fresh templates into the working directory, each different from all before.
    ///
    /// # Errors
    /// What could not be written.
    pub fn fill(&self, filling: Filling) -> anyhow::Result<()> {
        let templates = self.directory().join("manifests").join(SECURE);
        let _ = fs::remove_dir_all(&templates);
        fs::create_dir_all(&templates)?;
        for at in 0..filling.files {
            let path = templates.join(format!("pod-{at:04}.yaml.j2"));
            fs::write(path, manifest(at, filling))?;
        }
        Ok(())
    }

    /// What `platformctl publish -e local secure` does, but for its terminal: opens the environment, renders and
    /// checks, reads the keyring, and publishes.
    ///
    /// # Errors
    /// As the verb.
    pub async fn publish(&self) -> anyhow::Result<Publication> {
        let context = Context::open(self.directory(), LOCAL).await?;
        let workspace = &context.workspace;
        let keyring = keyring::read_or_create(&context).await?;
        let known = Some(&keyring.content);
        let (content, _) = prepare(workspace, &self.group, known, Timestamp::now())?;
        let bar = ProgressBar::hidden();
        publish(
            &context,
            &keyring,
            &self.group,
            &content,
            Choices::default(),
            &bar,
        )
        .await
    }

    /// Fills, publishes, and gives the release's number.
    ///
    /// # Errors
    /// As [`Stand::publish`]; a publish that changed nothing.
    pub async fn publish_fresh(&self, filling: Filling) -> anyhow::Result<u64> {
        self.fill(filling)?;
        match self.publish().await? {
            Publication::Released { release, .. } => Ok(release.get()),
            other => anyhow::bail!("a release was expected, not {other:?}"),
        }
    }

    /// Makes a node's directory, with the TUF root and the configuration of its agent; gives the configuration's path.
    ///
    /// # Errors
    /// What could not be written.
    pub fn node(&self, name: &str, settings: &NodeSettings) -> anyhow::Result<PathBuf> {
        let directory = self.directory().join("nodes").join(name);
        fs::create_dir_all(directory.join("root/etc/kubernetes/manifests"))?;
        fs::create_dir_all(directory.join("state"))?;
        let roots = &self.keyring.group(&self.group)?.roots;
        fs::write(
            directory.join("root.json"),
            roots.first().context("no root")?,
        )?;
        let environment = &self.context.workspace.environment;
        let KeyWrap::LocalFile { path: key } = &environment.key_wrap else {
            anyhow::bail!("the stand's environment has a local key file");
        };
        let state = self.directory().join(".platform").join(LOCAL);
        let text = format!(
            "environment = \"{LOCAL}\"\ngroup = \"{}\"\nnode = \"{name}\"\nbucket = \"{}\"\nregion = \"{}\"\n\
             endpoint_url = \"{}\"\nroot_directory = \"{}\"\nstate_directory = \"{}\"\ntrusted_root = \"{}\"\n\
             credentials_file = \"{}\"\nmetrics_listen = \"{}\"\npoll_interval_seconds = {}\n\n\
             [key_wrap]\nmethod = \"local-file\"\npath = \"{}\"\n",
            self.group,
            environment.secrets_bucket,
            environment.region,
            settings.endpoint_url,
            directory.join("root").display(),
            directory.join("state").display(),
            directory.join("root.json").display(),
            LocalCredentials::path(&state).display(),
            settings
                .metrics_listen
                .map(|a| a.to_string())
                .unwrap_or_default(),
            settings.poll_seconds,
            self.directory().join(key).display(),
        );
        let config = directory.join("agent.toml");
        fs::write(&config, text)?;
        Ok(config)
    }

    /// What the group's nodes agree on, if anything yet; read from the store's own disk, so that nobody counts it as a request.
    ///
    /// # Errors
    /// An object that is not authentic.
    pub fn rollout(&self) -> anyhow::Result<Option<RolloutDocument>> {
        let workspace = &self.context.workspace;
        let key = keys::rollout(&self.group);
        let bucket = workspace.environment.secrets_bucket.as_str();
        let object = workspace.state_directory().join("store").join(bucket);
        let Ok(bytes) = fs::read(object.join(&key)) else {
            return Ok(None);
        };
        let bound = keys::bound_name(&workspace.name, &key);
        let group_key = &self.keyring.group(&self.group)?.group_key;
        Ok(Some(open_node_object(&bytes, &bound, group_key)?))
    }

    /// The key pair of the store: access key and secret key.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn key_pair(&self) -> anyhow::Result<(String, String)> {
        let state = self.directory().join(".platform").join(LOCAL);
        let pair = LocalCredentials::read(&LocalCredentials::path(&state))?;
        Ok((pair.access_key, pair.secret_key.expose().to_owned()))
    }
}

/// How a node's agent is told to work.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The store's address, or that of what stands before it.
    pub endpoint_url: String,
    /// Where it serves metrics, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Its poll period.
    pub poll_seconds: u64,
}

fn workspace(directory: &Path, port: u16) -> anyhow::Result<Workspace> {
    let text = include_str!("../../../environments/local.tfvars")
        .replace("127.0.0.1:9191", &format!("127.0.0.1:{port}"));
    fs::create_dir_all(directory.join("environments"))?;
    fs::write(directory.join("environments/local.tfvars"), text)?;
    Workspace::open(directory, LOCAL)
}

fn manifest(at: usize, filling: Filling) -> String {
    let mut raw = vec![0_u8; filling.random / 2];
    rand::rng().fill(raw.as_mut_slice());
    let random: String = raw.iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-{at:04}\n  namespace: kube-system\n  annotations:\n    \
         example.com/random: \"r{random}\"\n    example.com/padding: \"{}\"\nspec:\n  containers:\n    - name: main\n      \
         image: registry.k8s.io/pause:3.10\n",
        "p".repeat(filling.padding)
    )
}
