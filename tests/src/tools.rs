//! Programs from outside the workspace that a test drives; `tests/setup.sh` installs them.

use std::env;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program `name`, from where `tests/setup.sh` put it or the `PATH`; `None` means: return from the test.
///
/// A missing program is said on standard error, so that a skipped test is seen.
///
/// # Panics
///
/// Where `PLATFORM_REQUIRE_TOOLS=1` (as in CI) a missing program fails the test instead of skipping it.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let python = python_environment();
    // Packages that were unpacked, not installed, lie beside it.
    let packages = ["etcd/usr/bin", "prometheus/usr/bin"];
    let unpacked = packages
        .iter()
        .filter_map(|place| Some(python.parent()?.join(place)));
    let found = iter::once(python.join("bin"))
        .chain(unpacked)
        .chain(env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        skipped(name);
    }
    found
}

/// Says loudly that this test is skipped, and why. The caller returns from the test.
///
/// # Panics
///
/// Where `PLATFORM_REQUIRE_TOOLS=1` (as in CI): there, a test that proves nothing is a failure.
pub fn skip(why: &str) {
    assert!(
        !are_required(),
        "this test would be skipped, and PLATFORM_REQUIRE_TOOLS=1: {why}"
    );
    eprintln!("!!! SKIPPED: {why}");
}

fn are_required() -> bool {
    env::var_os("PLATFORM_REQUIRE_TOOLS").is_some_and(|value| value == "1")
}

fn skipped(name: &str) {
    assert!(
        !are_required(),
        "{name} is not installed, and PLATFORM_REQUIRE_TOOLS=1: run tests/setup.sh"
    );
    eprintln!("!!! SKIPPED: {name} is not installed: run tests/setup.sh");
}

/// Says that what a test needs to do may not be done here, as [`find`] says it of a missing program.
///
/// # Panics
///
/// As [`find`].
pub fn not_permitted(what: &str) {
    let required = env::var_os("PLATFORM_REQUIRE_TOOLS").is_some_and(|value| value == "1");
    assert!(!required, "{what}, and PLATFORM_REQUIRE_TOOLS=1");
    eprintln!("!!! SKIPPED: {what}");
}

/// A real Terraform and a mirror of its providers.
#[derive(Debug, Clone)]
pub struct Terraform {
    /// The directory of the program.
    pub directory: PathBuf,
    /// What `terraform init -plugin-dir` takes.
    pub plugins: PathBuf,
}

/// Terraform from the `PATH`, with the providers of `PLATFORM_TF_PLUGINS` or of `/opt/tf-plugins`. `tests/setup.sh` installs
/// neither, so both missing skips the test, said on standard error and, before all tests, by `make test`.
///
/// # Panics
///
/// Where `PLATFORM_REQUIRE_TOOLS=1` and Terraform is there without providers: the test could be run, and would not be.
#[must_use]
pub fn terraform() -> Option<Terraform> {
    let path = env::var_os("PATH").unwrap_or_default();
    let named = env::var_os("PLATFORM_TF_PLUGINS").map(PathBuf::from);
    let plugins = named.unwrap_or_else(|| PathBuf::from("/opt/tf-plugins"));
    let directory = env::split_paths(&path).find(|place| place.join("terraform").is_file());
    let Some(directory) = directory else {
        eprintln!(
            "!!! SKIPPED: terraform is not on the PATH (1.10 or later): nothing of the infrastructure is tested here"
        );
        return None;
    };
    if !plugins.is_dir() {
        skipped("a mirror of Terraform's providers (PLATFORM_TF_PLUGINS)");
        return None;
    }
    Some(Terraform { directory, plugins })
}

/// Where the tests' Python environment is: what the Makefile says, or else the place that `tests/setup.sh` uses by default.
fn python_environment() -> PathBuf {
    if let Some(named) = env::var_os("PLATFORM_TOOLS") {
        return named.into();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), |target| workspace.join(target))
        .join("tools/venv")
}

/// A Python that can import `module`: that of the tests' environment. Missing, it is handled as by [`find`].
///
/// # Panics
///
/// As [`find`].
#[must_use]
pub fn python_with(module: &str) -> Option<PathBuf> {
    let python = find("python3")?;
    let imported = Command::new(&python)
        .args(["-c", &format!("import {module}")])
        .output()
        .is_ok_and(|output| output.status.success());
    if imported {
        return Some(python);
    }
    skipped(&format!("the Python module {module}"));
    None
}

/// A curl that signs requests to AWS (7.86 or later signs what user data needs). Missing, it is handled as by [`find`].
///
/// # Panics
///
/// As [`find`].
#[must_use]
pub fn curl_with_sigv4() -> Option<PathBuf> {
    let curl = find("curl")?;
    let version = Command::new(&curl).arg("--version").output().ok()?;
    let version = String::from_utf8_lossy(&version.stdout);
    let number = version.split(' ').nth(1).unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0_u32));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (7, 86) {
        return Some(curl);
    }
    skipped(&format!("a curl of 7.86 or later (this one is {number})"));
    None
}
