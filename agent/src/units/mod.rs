//! Restarting units of the host: decided from what changed, remembered until it is done.
//!
//! The units are noted durably *before* the first change and asked for only when their release is on the disk, so a crash
//! anywhere between leaves them to the next start. They are asked for without waiting, and before the agent says READY: a
//! kubelet that waits for READY (After=) is then started once, with the new files, and nobody waits for anybody.

mod pending;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use futures::future::BoxFuture;
use shared::bundle::{Artifact, Restart};
use shared::names::{EntryPath, UnitName};
use tokio::process::Command;
use tokio::time::timeout;

pub use pending::{PendingRestarts, Restarts};

/// Units that a release may restart, if the configuration does not say.
pub const DEFAULT_UNITS: [&str; 2] = ["kubelet.service", "containerd.service"];
/// What restarts units on a machine.
pub const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// How long handing a job to systemd may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A unit that could not be restarted.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// The command cannot be run.
    #[error("cannot run {program} to restart {unit}")]
    Run {
        /// The command.
        program: PathBuf,
        /// The unit.
        unit: UnitName,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It refused.
    #[error("systemd did not take the restart of {unit}: {said}")]
    Refused {
        /// The unit.
        unit: UnitName,
        /// What it said.
        said: String,
    },
    /// It did not answer.
    #[error("systemd did not take the restart of {0} in time")]
    Deadline(UnitName),
}

/// What restarts the host's units.
pub trait UnitManager: fmt::Debug + Send + Sync {
    /// Asks for a restart; of a unit that does not run, for its start. Does not wait for it.
    fn restart<'a>(&'a self, unit: &'a UnitName) -> BoxFuture<'a, Result<(), UnitError>>;
}

/// systemd, by its command.
#[derive(Debug, Clone)]
pub struct Systemctl {
    program: PathBuf,
}

/// Nobody: on a machine that only plays a node, real units are none of the agent's business.
#[derive(Debug, Clone, Copy)]
pub struct NoUnits;

/// The units that a release asks to restart, when these files changed and these artifacts were installed anew.
/// `former` are the restarts of the release before: what it named and the new one does not have any more, went.
#[must_use]
pub fn due(
    restarts: &[Restart],
    former: &[Restart],
    artifacts: &[Artifact],
    written: &BTreeSet<String>,
    removed: &BTreeSet<String>,
    installed: &[String],
) -> BTreeSet<UnitName> {
    let names = |restart: &&Restart, changed: &BTreeSet<String>| {
        let on = |path: &EntryPath| changed.contains(path.as_str());
        restart.on.iter().any(on)
    };
    let changed = restarts.iter().filter(|r| names(r, written));
    // A unit that the new release does not name at all is none of its business.
    let still = |r: &&Restart| restarts.iter().any(|n| n.unit == r.unit);
    let went = former.iter().filter(still).filter(|r| names(r, removed));
    let anew = artifacts.iter().filter(|a| installed.contains(&a.name));
    let of_artifacts = anew.filter_map(|a| a.restart.clone());
    let units = changed.chain(went).map(|r| r.unit.clone());
    units.chain(of_artifacts).collect()
}

/// The units that these restarts and artifacts name and `allowed` does not.
#[must_use]
pub fn forbidden(
    restarts: &[Restart],
    artifacts: &[Artifact],
    allowed: &[UnitName],
) -> BTreeSet<UnitName> {
    let of_files = restarts.iter().map(|r| &r.unit);
    let of_artifacts = artifacts.iter().filter_map(|a| a.restart.as_ref());
    let named = of_files.chain(of_artifacts);
    named.filter(|u| !allowed.contains(u)).cloned().collect()
}

// === impl Systemctl ===

impl Systemctl {
    /// The command at `program`.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    async fn run(&self, unit: &UnitName) -> Result<(), UnitError> {
        let failed = |source| UnitError::Run {
            program: self.program.clone(),
            unit: unit.clone(),
            source,
        };
        let child = Command::new(&self.program)
            .args(["--no-block", "restart", unit.as_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let Ok(ended) = timeout(PATIENCE, child.wait_with_output()).await else {
            return Err(UnitError::Deadline(unit.clone()));
        };
        let output = ended.map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(UnitError::Refused {
            unit: unit.clone(),
            said: said.trim().chars().take(300).collect(),
        })
    }
}

impl UnitManager for Systemctl {
    fn restart<'a>(&'a self, unit: &'a UnitName) -> BoxFuture<'a, Result<(), UnitError>> {
        Box::pin(self.run(unit))
    }
}

impl UnitManager for NoUnits {
    fn restart<'a>(&'a self, unit: &'a UnitName) -> BoxFuture<'a, Result<(), UnitError>> {
        tracing::info!(%unit, "not restarted: this agent has no systemctl");
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn restart(unit: &str, on: &[&str]) -> Restart {
        Restart {
            unit: unit.parse().unwrap(),
            on: on.iter().map(|p| p.parse().unwrap()).collect(),
        }
    }

    fn set(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|p| (*p).to_owned()).collect()
    }

    fn artifact(name: &str, unit: Option<&str>) -> Artifact {
        Artifact {
            name: name.to_owned(),
            target: name.to_owned(),
            sha256: shared::digest::Sha256Digest::of(b"x"),
            bytes: 1,
            path: format!("/opt/bin/{name}"),
            mode: shared::bundle::Mode::new(0o755),
            unpack: shared::bundle::Unpack::None,
            restart: unit.map(|u| u.parse().unwrap()),
        }
    }

    #[test]
    fn a_unit_is_due_exactly_when_one_of_its_files_changed_or_went() {
        let kubelet = restart("kubelet.service", &["host/a", "host/b"]);
        let other = restart("containerd.service", &["host/c"]);
        let now = [kubelet.clone(), other];
        let due = |written: &[&str], removed: &[&str], installed: &[&str]| {
            let artifacts = [
                artifact("kubelet", Some("kubelet.service")),
                artifact("crictl", None),
            ];
            let former = [
                restart("kubelet.service", &["host/gone"]),
                restart("x.service", &["host/gone"]),
            ];
            let installed: Vec<String> = installed.iter().map(|n| (*n).to_owned()).collect();
            let units = super::due(
                &now,
                &former,
                &artifacts,
                &set(written),
                &set(removed),
                &installed,
            );
            units.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(due(&[], &[], &[]).is_empty());
        assert!(due(&["host/d", "manifests/a"], &["host/d"], &["crictl"]).is_empty());
        assert_eq!(due(&["host/b"], &[], &[]), ["kubelet.service"]);
        assert_eq!(due(&[], &["host/gone"], &[]), ["kubelet.service"]);
        assert_eq!(due(&[], &[], &["kubelet"]), ["kubelet.service"]);
        assert_eq!(
            due(&["host/a", "host/c"], &[], &["kubelet"]),
            ["containerd.service", "kubelet.service"],
            "each once"
        );
    }

    #[test]
    fn only_listed_units_may_be_named() {
        let allowed = ["kubelet.service".parse().unwrap()];
        let named = [
            restart("kubelet.service", &[]),
            restart("sshd.service", &[]),
        ];
        let artifacts = [artifact("a", Some("dbus.service"))];
        let refused: Vec<String> = forbidden(&named, &artifacts, &allowed)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(refused, ["dbus.service", "sshd.service"]);
    }

    #[tokio::test]
    async fn systemctl_is_asked_not_to_wait_and_its_refusal_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("systemctl");
        let script = |text: &str| {
            std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&program, mode).unwrap();
        };
        let unit = "kubelet.service".parse().unwrap();
        let manager = Systemctl::new(program.clone());
        script(&format!("echo \"$@\" >> {}/calls", dir.path().display()));
        manager.restart(&unit).await.unwrap();
        let calls = std::fs::read_to_string(dir.path().join("calls")).unwrap();
        assert_eq!(calls, "--no-block restart kubelet.service\n");
        script("echo Unit not found >&2; exit 5");
        let refused = manager.restart(&unit).await.unwrap_err().to_string();
        assert!(refused.contains("Unit not found"), "{refused}");
        let absent = Systemctl::new(dir.path().join("absent"));
        assert!(matches!(
            absent.restart(&unit).await,
            Err(UnitError::Run { .. })
        ));
    }
}
