//! Which Terraform or OpenTofu is there, and whether it is new enough.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

/// The oldest version that works: 1.10 of either brought S3's native lock (`use_lockfile`).
pub const MINIMUM: Version = Version {
    major: 1,
    minor: 10,
    patch: 0,
    prerelease: false,
};
/// How long it may take to say its version: it starts slowly on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A version, by its first three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub patch: u32,
    /// Whether it comes before the release of these numbers.
    pub prerelease: bool,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// HashiCorp's.
    Terraform,
    /// The Linux Foundation's.
    OpenTofu,
}

/// An engine that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Which it is.
    pub kind: EngineKind,
    /// Its program.
    pub program: PathBuf,
    /// Its version.
    pub version: Version,
}

/// No engine that can be used.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is none.
    #[error(
        "neither terraform nor tofu is on the PATH: install Terraform (https://developer.hashicorp.com/terraform/install) \
         or OpenTofu (https://opentofu.org/docs/intro/install/), {MINIMUM} or later; the build container has one"
    )]
    Missing,
    /// The one that was named is not there.
    #[error("there is no program at {0}, which was named as the Terraform or OpenTofu to use")]
    NoProgram(PathBuf),
    /// It does not start, or does not end.
    #[error("{program} does not say its version: {why}; reinstall it")]
    Silent {
        /// Its program.
        program: PathBuf,
        /// Why not.
        why: String,
    },
    /// It is too old.
    #[error(
        "{program} is {kind} {found}, but S3's native lock needs {MINIMUM} or later: install a newer one"
    )]
    TooOld {
        /// Its program.
        program: PathBuf,
        /// Which it is.
        kind: EngineKind,
        /// Its version.
        found: Version,
    },
}

/// The engine to use: the one that is named, or else `terraform`, or else `tofu`, from the directories of `path` (as in
/// the variable `PATH`). One that is too old gives way to the other.
///
/// # Errors
/// [`EngineError`]; where both are there, that of the first.
pub async fn find_engine(named: Option<&Path>, path: &OsStr) -> Result<Engine, EngineError> {
    if let Some(program) = named {
        if !is_program(program) {
            return Err(EngineError::NoProgram(program.to_owned()));
        }
        return probe(program).await;
    }
    let mut first = None;
    for name in ["terraform", "tofu"] {
        let mut places = std::env::split_paths(path).map(|directory| directory.join(name));
        let Some(program) = places.find(|place| is_program(place)) else {
            continue;
        };
        match probe(&program).await {
            Ok(engine) => return Ok(engine),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or(EngineError::Missing))
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Asks a program for its version.
async fn probe(program: &Path) -> Result<Engine, EngineError> {
    let silent = |why: String| EngineError::Silent {
        program: program.to_owned(),
        why,
    };
    let run = Command::new(program)
        .args(["version", "-json"])
        // Neither a question to its publisher nor a colour.
        .env("CHECKPOINT_DISABLE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match timeout(DEADLINE, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(silent(error.to_string())),
        Err(_) => {
            return Err(silent(format!(
                "it did not end within {} s",
                DEADLINE.as_secs()
            )));
        }
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().next().unwrap_or_default();
        return Err(silent(format!("{} {line}", output.status)));
    }
    let version = read(&output.stdout).ok_or_else(|| silent("its answer is no version".into()))?;
    let is_tofu = program.file_name().is_some_and(|name| name == "tofu");
    let kind = match is_tofu {
        true => EngineKind::OpenTofu,
        false => EngineKind::Terraform,
    };
    judge(Engine {
        kind,
        program: program.to_owned(),
        version,
    })
}

/// Whether the engine may be used.
fn judge(engine: Engine) -> Result<Engine, EngineError> {
    if engine.version.is_at_least(MINIMUM) {
        return Ok(engine);
    }
    Err(EngineError::TooOld {
        program: engine.program,
        kind: engine.kind,
        found: engine.version,
    })
}

#[derive(Deserialize)]
struct Answer {
    terraform_version: String,
}

/// The version in the answer to `version -json`, which both write alike.
fn read(answer: &[u8]) -> Option<Version> {
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    Version::parse(&answer.terraform_version)
}

// === impl Version ===

impl Version {
    /// Reads `1.11.4` or `1.10.0-rc1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (numbers, prerelease) = match text.split_once('-') {
            Some((numbers, _)) => (numbers, true),
            None => (text, false),
        };
        let mut parts = numbers.split('.').map(|part| part.parse().ok());
        let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(Self {
            major,
            minor,
            patch,
            prerelease,
        })
    }

    /// Whether it is `other` or later.
    #[must_use]
    pub fn is_at_least(self, other: Self) -> bool {
        let key = |v: Self| (v.major, v.minor, v.patch, !v.prerelease);
        key(self) >= key(other)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.prerelease { "-pre" } else { "" };
        write!(f, "{}.{}.{}{mark}", self.major, self.minor, self.patch)
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terraform => "Terraform",
            Self::OpenTofu => "OpenTofu",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let at_least = |text| Version::parse(text).unwrap().is_at_least(MINIMUM);
        for good in ["1.10.0", "v1.11.4", "2.0.0", "1.11.0-beta1"] {
            assert!(at_least(good), "{good}");
        }
        for old in ["1.9.8", "0.15.5", "1.10.0-rc1"] {
            assert!(!at_least(old), "{old}");
        }
        for none in ["", "1.10", "1.10.x", "1.10.0.1", "latest"] {
            assert!(Version::parse(none).is_none(), "{none}");
        }
    }

    fn put(directory: &Path, name: &str, script: &str) {
        let path = directory.join(name);
        // Written beside and renamed by another process, so that no other test's child holds it open for writing.
        let made = std::process::Command::new("sh")
            .args([
                "-c",
                "printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$1.new\" && chmod 755 \"$1.new\" && mv \"$1.new\" \"$1\"",
                "sh",
            ])
            .arg(&path)
            .arg(script)
            .status()
            .unwrap();
        assert!(made.success());
    }

    fn says(version: &str) -> String {
        format!("echo '{{\"terraform_version\": \"{version}\"}}'")
    }

    #[tokio::test]
    async fn the_one_that_is_new_enough_is_taken_and_each_failure_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let find = || find_engine(None, at.as_os_str());
        assert!(matches!(find().await, Err(EngineError::Missing)));
        put(at, "terraform", &says("1.9.8"));
        let error = find().await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("terraform is Terraform 1.9.8, but S3's native lock needs 1.10.0"),
            "{error}"
        );
        put(at, "tofu", &says("1.10.5"));
        let engine = find().await.unwrap();
        assert_eq!(engine.kind, EngineKind::OpenTofu);
        put(at, "terraform", &says("1.11.4"));
        let engine = find().await.unwrap();
        assert_eq!(
            (engine.kind, engine.version.to_string()),
            (EngineKind::Terraform, "1.11.4".to_owned())
        );
        let tofu = at.join("tofu");
        let named = find_engine(Some(&tofu), OsStr::new("")).await.unwrap();
        assert_eq!(named.program, tofu);
        let none = find_engine(Some(&at.join("none")), at.as_os_str()).await;
        assert!(matches!(none, Err(EngineError::NoProgram(_))));
        for broken in ["echo boom >&2; exit 3", "echo Terraform v1.11.4"] {
            put(at, "tofu", broken);
            let error = find_engine(Some(&tofu), OsStr::new("")).await.unwrap_err();
            assert!(matches!(error, EngineError::Silent { .. }), "{error}");
        }
    }
}
