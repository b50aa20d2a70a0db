//! Operators and their bucket: what a test needs to publish as a person does.
//!
//! A [`Bucket`] is an embedded store. An [`Operator`] is a working directory of its own on it, with manifests, secrets,
//! key and credentials, so two operators are two machines that share nothing but the bucket and the key.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use ctl::context::{Context, LOCAL};
use ctl::dev::store::{RequestCounts, RunningStore, SecretKey, StoreConfig};
use ctl::keyring::{self, Keyring};
use ctl::output;
use ctl::publish::{Choices, Plans, Publication, Published, STEPS, plan, read_published};
use ctl::release::render_input;
use ctl::render::{EMBEDDED, RenderInput};
use jiff::Timestamp;
use shared::names::GroupName;
use shared::trust::{
    StoreTransport, TrustError, TrustStore, Trusted, metadata_url, refresh, targets_url,
};
use shared::wrap::LocalWrap;
use tempfile::TempDir;

/// The bucket's name in every environment here.
pub const BUCKET: &str = "platform-local-secrets";
/// The region that requests are signed for.
const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "PLATFORMTEST";
const SECRET_KEY: &str = "not-a-secret-in-a-test";
/// What both sides share beside the bucket, below a working directory.
const WRAP_KEY: &str = ".platform/local/wrap.key";

/// An embedded store with one empty bucket, on a free loopback port.
#[derive(Debug)]
pub struct Bucket {
    directory: TempDir,
    store: RunningStore,
}

/// A working directory and what its owner can reach from it.
#[derive(Debug)]
pub struct Operator {
    directory: TempDir,
    /// The environment with its bucket and key.
    pub context: Context,
}

/// A published group's name.
///
/// # Panics
/// On a name that is no group's.
#[must_use]
pub fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("a group's name")
}

// === impl Bucket ===

impl Bucket {
    /// Starts a store in a temporary directory.
    ///
    /// # Errors
    /// What kept it from starting.
    pub async fn start() -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        fs::create_dir_all(directory.path().join(BUCKET))?;
        let store = RunningStore::start(StoreConfig {
            listen: "127.0.0.1:0".parse()?,
            directory: directory.path().to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SecretKey::from(SECRET_KEY.to_owned()),
            region: REGION.to_owned(),
        })
        .await?;
        Ok(Self { directory, store })
    }

    /// The store, for its address and its counters.
    #[must_use]
    pub fn store(&self) -> &RunningStore {
        &self.store
    }

    /// The address to give to an [`Operator`].
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.store.endpoint().to_string()
    }

    /// What the store was asked until now.
    #[must_use]
    pub fn requests(&self) -> RequestCounts {
        self.store.requests()
    }

    /// The file behind an object: what someone who can write the bucket can change.
    #[must_use]
    pub fn object(&self, key: &str) -> PathBuf {
        self.directory.path().join(BUCKET).join(key)
    }

    /// Every object's key, sorted.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let root = self.directory.path().join(BUCKET);
        let mut keys: Vec<String> = files_below(&root)
            .iter()
            .filter_map(|path| path.strip_prefix(&root).ok()?.to_str().map(str::to_owned))
            .collect();
        keys.sort();
        keys
    }
}

// === impl Operator ===

impl Operator {
    /// A working directory of the embedded environment, on the store at `endpoint`.
    ///
    /// # Errors
    /// What could not be laid out.
    pub async fn new(endpoint: &str) -> anyhow::Result<Self> {
        Self::of_environment(endpoint, LOCAL).await
    }

    /// The same for an environment of another name, with a key file of its own.
    ///
    /// # Errors
    /// As [`Operator::new`].
    pub async fn of_environment(endpoint: &str, name: &str) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        write_manifests(directory.path())?;
        Self::lay_out(directory, endpoint, name).await
    }

    /// A colleague at another machine: the same files, environment and key, nothing remembered.
    ///
    /// # Errors
    /// As [`Operator::new`].
    pub async fn colleague(&self, endpoint: &str) -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        for part in ["manifests", "secrets"] {
            let from = self.path(part);
            for file in files_below(&from) {
                let to = directory.path().join(part).join(file.strip_prefix(&from)?);
                fs::create_dir_all(to.parent().context("a file has a directory")?)?;
                // Modes are copied too: a secret's mode is part of a release.
                fs::copy(&file, &to)?;
            }
        }
        let key = directory.path().join(WRAP_KEY);
        fs::create_dir_all(key.parent().context("a key has a directory")?)?;
        fs::copy(self.path(WRAP_KEY), &key)?;
        let name = self.context.workspace.name.as_str();
        Self::lay_out(directory, endpoint, name).await
    }

    async fn lay_out(directory: TempDir, endpoint: &str, name: &str) -> anyhow::Result<Self> {
        let root = directory.path();
        let state = root.join(".platform").join(name);
        fs::create_dir_all(&state)?;
        fs::create_dir_all(root.join("environments"))?;
        fs::write(
            state.join("credentials"),
            format!("access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n"),
        )?;
        fs::write(
            root.join(format!("environments/{name}.tfvars")),
            environment_file(endpoint, name),
        )?;
        // As `dev up` does; a colleague has it already.
        LocalWrap::create_file_if_needed(&root.join(WRAP_KEY))?;
        let context = Context::open(root, name).await?;
        Ok(Self { directory, context })
    }

    /// A path below the working directory.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Puts `to` in the place of the first `from` in a template such as `secure/etcd.yaml.j2`.
    ///
    /// # Errors
    /// A template that does not hold `from`.
    pub fn amend(&self, template: &str, from: &str, to: &str) -> anyhow::Result<()> {
        let path = self.path("manifests").join(template);
        let text = fs::read_to_string(&path)?;
        anyhow::ensure!(text.contains(from), "{template} does not hold {from:?}");
        Ok(fs::write(&path, text.replacen(from, to, 1))?)
    }

    /// Puts `to` in the place of the first `from` in the environment's file, and reads it again.
    ///
    /// # Errors
    /// A file that does not hold `from`, or is no environment's any more.
    pub async fn amend_environment(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        let name = self.context.workspace.name.to_string();
        let path = self.path(&format!("environments/{name}.tfvars"));
        let text = fs::read_to_string(&path)?;
        anyhow::ensure!(
            text.contains(from),
            "the environment does not hold {from:?}"
        );
        fs::write(&path, text.replacen(from, to, 1))?;
        self.context = Context::open(self.directory.path(), &name).await?;
        Ok(())
    }

    /// Puts other least numbers of machines into the environment's file, which `status` compares with. What was opened before
    /// keeps the old ones, and renders as before.
    ///
    /// # Errors
    /// A file that does not hold the usual ones.
    pub fn expect_nodes(&self, secure: usize, compute: usize) -> anyhow::Result<()> {
        let name = self.context.workspace.name.to_string();
        let path = self.path(&format!("environments/{name}.tfvars"));
        let mut text = fs::read_to_string(&path)?;
        for (key, usual, wanted) in [("secure", 3, secure), ("compute", 2, compute)] {
            let from = format!("{key}_asg_min = {usual}\n");
            anyhow::ensure!(
                text.contains(&from),
                "the environment does not hold {from:?}"
            );
            text = text.replace(&from, &format!("{key}_asg_min = {wanted}\n"));
        }
        Ok(fs::write(&path, text)?)
    }

    /// Writes a secret file such as `secure/kube-apiserver/audit-policy.yaml`; one that is there keeps its mode, a new
    /// one is for its owner alone.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_secret(&self, secret: &str, text: &str) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path("secrets").join(secret);
        fs::create_dir_all(path.parent().context("a secret has a directory")?)?;
        let is_new = !path.exists();
        fs::write(&path, text)?;
        if is_new {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }

    /// Checks both groups as `platformctl publish` does before it writes anything.
    ///
    /// # Errors
    /// As [`plan`].
    pub async fn plan(&self) -> anyhow::Result<Plans> {
        plan(
            &self.context,
            &self.context.workspace.groups,
            Choices::default(),
        )
        .await
    }

    /// Publishes all groups as `platformctl publish` does.
    ///
    /// # Errors
    /// As [`plan`] and [`carry_out`].
    pub async fn publish(&self) -> anyhow::Result<BTreeMap<String, Publication>> {
        carry_out(self, self.plan().await?).await
    }

    /// What rendering a group depends on, with the secret files of all its pods.
    ///
    /// # Errors
    /// As [`render_input`] and [`Operator::keyring`].
    pub async fn render_input(&self, group: &GroupName) -> anyhow::Result<RenderInput> {
        let keyring = self.keyring().await?.content;
        let workspace = &self.context.workspace;
        render_input(workspace, group, Some(&keyring), Timestamp::now())
    }

    /// The keyring, which must be there.
    ///
    /// # Errors
    /// No keyring, or one that cannot be opened.
    pub async fn keyring(&self) -> anyhow::Result<Keyring> {
        keyring::read(&self.context).await?.context("no keyring")
    }

    /// What is published of a group, as this operator sees it.
    ///
    /// # Errors
    /// As [`read_published`].
    pub async fn published(&self, group: &GroupName) -> anyhow::Result<Published> {
        read_published(&self.context, &self.keyring().await?, group).await
    }

    /// The root that a group's nodes are given.
    ///
    /// # Errors
    /// As [`Operator::keyring`].
    pub async fn root(&self, group: &GroupName) -> anyhow::Result<String> {
        let keyring = self.keyring().await?;
        let roots = &keyring.group(group)?.roots;
        roots.first().cloned().context("a root")
    }

    /// The real platformctl in this working directory; arguments are still to be added.
    ///
    /// # Panics
    /// Where the binary was not built.
    #[must_use]
    pub fn platformctl(&self) -> Command {
        platformctl(self.directory.path())
    }
}

/// Publishes what was planned, in its order.
///
/// # Errors
/// The first group's that failed.
pub async fn carry_out(
    operator: &Operator,
    plans: Plans,
) -> anyhow::Result<BTreeMap<String, Publication>> {
    let mut done = BTreeMap::new();
    for planned in plans.groups {
        let name = planned.group().to_string();
        let bar = output::progress(STEPS, &name);
        let publication = planned
            .publish(&operator.context, &plans.keyring, &bar)
            .await?;
        done.insert(name, publication);
    }
    Ok(done)
}

/// What a node that remembers `remembered` makes of a group's repository: a full TUF refresh, expiry enforced.
///
/// # Errors
/// As [`refresh`].
pub async fn refresh_as_node(
    context: &Context,
    group: &GroupName,
    root: &str,
    remembered: &Path,
) -> Result<Trusted, TrustError> {
    let trust =
        TrustStore::open(&remembered.join("trust"), root.as_bytes()).map_err(TrustError::Store)?;
    let transport = StoreTransport::new(context.store.clone(), format!("groups/{group}"));
    let metadata = metadata_url().expect("a constant");
    let targets = targets_url().expect("a constant");
    refresh(&trust, transport, metadata, targets, remembered).await
}

/// The platformctl beside the test executables, with `directory` as its working directory.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn platformctl(directory: &Path) -> Command {
    let test = std::env::current_exe().expect("this test's own path");
    let beside = test
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps");
    let binary = beside.join("platformctl");
    assert!(
        binary.is_file(),
        "{} is not there: build it first with `cargo build -p ctl`",
        binary.display()
    );
    let mut command = Command::new(binary);
    command.current_dir(directory);
    command
}

/// Writes out the built-in templates, as `platformctl init` does; without a rollout policy, so that every node adopts at
/// once: the tests of rollouts write their own.
///
/// # Errors
/// A file that cannot be written.
pub fn write_manifests(directory: &Path) -> anyhow::Result<()> {
    for (path, text) in EMBEDDED {
        if path.ends_with("/rollout.yaml") {
            continue;
        }
        let path = directory.join("manifests").join(path);
        fs::create_dir_all(path.parent().context("a template has a directory")?)?;
        fs::write(path, text)?;
    }
    Ok(())
}

fn environment_file(endpoint: &str, name: &str) -> String {
    format!(
        "environment = \"{name}\"\nplatform = \"kube\"\naws_endpoint_url = \"{endpoint}\"\n\
         secrets_bucket_name = \"{BUCKET}\"\nkey_wrap = \"local\"\nsecure_asg_min = 3\nsecure_asg_max = 3\n\
         compute_asg_min = 2\ncompute_asg_max = 2\n"
    )
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}
