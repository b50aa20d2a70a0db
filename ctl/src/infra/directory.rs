//! Where the engine runs: `.platform/NAME/terraform`, made again for every run. Only what the engine downloads stays.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use shared::durable::{self, Attributes};
use tokio::time::sleep;

use super::embedded::{files_for, is_configuration};
use super::process::Interrupted;
use super::variables::{Variables, endpoint};
use crate::context::Workspace;
use crate::dev::signals::StopSignals;
use crate::env::Environment;
use crate::exit::mistake;
use crate::output;

/// The engine reads it by itself.
const VARIABLES: &str = "terraform.tfvars.json";
/// The settings of the remote state.
pub(super) const BACKEND: &str = "backend.tfbackend.json";
/// Held by whoever works in the directory, the engine included.
const LOCK: &str = "run.lock";
/// How often a lock that another run holds is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// A run directory that is ours: no other run works in it at the same time.
#[derive(Debug)]
pub(super) struct RunDirectory {
    path: PathBuf,
    lock: Flock<File>,
}

impl RunDirectory {
    /// Waits until an earlier run has ended (its engine goes on where platformctl itself was killed), then lays the
    /// directory out for this one.
    ///
    /// # Errors
    /// A [`crate::exit::Mistake`] in an own copy of `terraform/`; a directory that cannot be written; [`Interrupted`] where the
    /// operator does not want to wait any longer.
    pub(super) async fn prepare(
        workspace: &Workspace,
        variables: &Variables,
        signals: &mut StopSignals,
    ) -> anyhow::Result<Self> {
        let files = files_for(&workspace.directory)?;
        let backend = backend(&workspace.environment)?;
        let path = std::path::absolute(workspace.state_directory().join("terraform"))?;
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        let lock = take(&path, signals).await?;
        clear(&path, &files)?;
        for (name, bytes) in &files {
            write(&path.join(name), bytes)?;
        }
        write(
            &path.join(VARIABLES),
            &serde_json::to_vec_pretty(variables)?,
        )?;
        write(&path.join(BACKEND), &serde_json::to_vec_pretty(&backend)?)?;
        Ok(Self { path, lock })
    }

    /// The directory, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The lock as an open file: whoever inherits it keeps it.
    pub(super) fn lock(&self) -> std::io::Result<File> {
        self.lock.try_clone()
    }
}

/// The remote state: one object an environment and region, locked by an object beside it.
fn backend(environment: &Environment) -> anyhow::Result<Value> {
    let bucket = environment
        .terraform_bucket
        .as_ref()
        .ok_or_else(|| mistake(format!("environment {} is not on AWS", environment.name)))?;
    let mut settings = json!({
        "bucket": bucket.as_str(),
        "key": state_key(environment),
        "region": environment.region.as_str(),
        "encrypt": true,
        "use_lockfile": true,
    });
    if let (Some(url), Some(settings)) = (endpoint(environment), settings.as_object_mut()) {
        settings.insert(
            "endpoints".to_owned(),
            json!({"s3": url, "sts": url, "iam": url}),
        );
        settings.insert("use_path_style".to_owned(), json!(true));
    }
    Ok(settings)
}

/// The state's key in its bucket.
#[must_use]
pub(super) fn state_key(environment: &Environment) -> String {
    format!(
        "{}/{}/terraform.tfstate",
        environment.region, environment.name
    )
}

/// Takes the run's lock. It is tried again and again, and not waited for in the kernel: nothing would hear a Ctrl-C meanwhile.
async fn take(directory: &Path, signals: &mut StopSignals) -> anyhow::Result<Flock<File>> {
    let path = directory.join(LOCK);
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let mut waits = false;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => {
                return Err(std::io::Error::from(errno))
                    .with_context(|| format!("cannot lock {}", path.display()));
            }
        };
        if !waits {
            output::note(format!(
                "an earlier run is still at work in {}: waiting for its end",
                directory.display()
            ));
            waits = true;
        }
        tokio::select! {
            () = signals.asked() => return Err(Interrupted.into()),
            () = sleep(AGAIN) => {}
        }
    }
}

/// Takes configuration, values and settings of another run away: the engine reads whatever is there.
fn clear(directory: &Path, wanted: &BTreeMap<String, Vec<u8>>) -> anyhow::Result<()> {
    let unreadable = || format!("cannot read {}", directory.display());
    for entry in std::fs::read_dir(directory).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        let stale = (is_configuration(&name) || name.contains(".tfvars") || name.ends_with(".log"))
            && !wanted.contains_key(&name);
        if stale && !path.is_dir() {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        } else if path.is_dir() && name != ".terraform" {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make {}", parent.display()))?;
    }
    durable::write_file(path, bytes, Attributes::mode(0o644))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::variables::for_destroy;
    use super::*;

    const DEV: &str = include_str!("../../../tests/fixtures/golden/user-data/dev.tfvars");

    fn workspace(directory: &Path, more: &str) -> Workspace {
        let text = format!("{DEV}{more}\n");
        let environment = crate::env::parse(&text, Path::new("dev.tfvars")).unwrap();
        Workspace::of(directory, environment).unwrap()
    }

    fn settings(directory: &RunDirectory, name: &str) -> Value {
        let bytes = std::fs::read(directory.path().join(name)).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    async fn prepare(workspace: &Workspace) -> RunDirectory {
        let mut signals = StopSignals::listen().unwrap();
        let variables = for_destroy(workspace).unwrap();
        RunDirectory::prepare(workspace, &variables, &mut signals)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn what_another_run_left_is_gone_and_what_was_downloaded_stays() {
        let top = tempfile::tempdir().unwrap();
        let workspace = workspace(top.path(), "");
        let first = prepare(&workspace).await;
        let path = first.path().to_owned();
        drop(first);
        std::fs::create_dir(path.join(".terraform")).unwrap();
        for stale in ["old.tf", "mine.auto.tfvars", "apply.log"] {
            std::fs::write(path.join(stale), "x").unwrap();
        }
        let again = prepare(&workspace).await;
        assert!(path.join(".terraform").is_dir());
        for stale in ["old.tf", "mine.auto.tfvars", "apply.log"] {
            assert!(!path.join(stale).exists(), "{stale}");
        }
        assert!(path.join("network.tf").is_file());
        let backend = settings(&again, BACKEND);
        let key = backend["key"].as_str().unwrap();
        assert!(key.ends_with("/dev/terraform.tfstate"), "{key}");
        assert_eq!(backend["use_lockfile"], json!(true));
        assert_eq!(backend["endpoints"], Value::Null);
        assert_eq!(settings(&again, VARIABLES)["environment"], json!("dev"));
    }

    #[tokio::test]
    async fn an_endpoint_is_told_to_the_state_and_to_the_provider() {
        let top = tempfile::tempdir().unwrap();
        let workspace = workspace(top.path(), "aws_endpoint_url = \"http://127.0.0.1:9191/\"");
        let run = prepare(&workspace).await;
        let url = json!("http://127.0.0.1:9191");
        assert_eq!(settings(&run, BACKEND)["endpoints"]["s3"], url);
        assert_eq!(settings(&run, VARIABLES)["aws_endpoint_url"], url);
    }

    #[tokio::test]
    async fn one_run_at_a_time() {
        let top = tempfile::tempdir().unwrap();
        let workspace = workspace(top.path(), "");
        let run = prepare(&workspace).await;
        let file = File::open(run.path().join(LOCK)).unwrap();
        let refused = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap_err();
        assert_eq!(refused.1, Errno::EWOULDBLOCK);
    }

    /// Nextest gives each test a process of its own: the signal reaches nobody else.
    #[tokio::test]
    async fn a_wait_for_an_earlier_run_ends_with_a_signal() {
        let top = tempfile::tempdir().unwrap();
        let workspace = workspace(top.path(), "");
        let _held = prepare(&workspace).await;
        let mut signals = StopSignals::listen().unwrap();
        let variables = for_destroy(&workspace).unwrap();
        let waiting = RunDirectory::prepare(&workspace, &variables, &mut signals);
        let asking = async {
            sleep(AGAIN * 2).await;
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGINT).unwrap();
        };
        let (waited, ()) = tokio::join!(waiting, asking);
        assert!(waited.unwrap_err().is::<Interrupted>());
    }
}
