//! An operator at a desk: a working directory, moto, and the programs on his PATH.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use platform_tests::moto::{Moto, with_credentials};
use platform_tests::tools;
use platform_tests::workspace::platformctl;
use serde_json::Value;
use tempfile::TempDir;

/// What a run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A moto with a working directory.
pub(crate) struct Desk {
    pub(crate) moto: Moto,
    pub(crate) directory: TempDir,
    python: PathBuf,
}

impl Desk {
    /// With the prerequisites of the environment `dev` in the account; none where a tool is missing.
    pub(crate) async fn new() -> Option<Self> {
        let python = tools::python_with("boto3")?;
        let moto = Moto::start().await.unwrap()?;
        let mut desk = Self {
            directory: TempDir::new().unwrap(),
            moto,
            python,
        };
        let made = desk.account(&["prerequisites"]);
        let key = made["key"].as_str().unwrap();
        desk.directory = desk.moto.lay_out(key).unwrap();
        desk.amend("ami-0123456789abcdef0", made["image"].as_str().unwrap());
        fs::create_dir(desk.path("home")).unwrap();
        fs::create_dir(desk.path("bin")).unwrap();
        desk.program("terraform", "echo '{\"terraform_version\": \"1.11.4\"}'");
        Some(desk)
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(below)
    }

    /// Replaces a text of the environment's file; gives the old file.
    pub(crate) fn amend(&self, from: &str, to: &str) -> String {
        let file = self.path("environments/dev.tfvars");
        let old = fs::read_to_string(&file).unwrap();
        assert!(old.contains(from), "{from} is not in\n{old}");
        fs::write(&file, old.replace(from, to)).unwrap();
        old
    }

    pub(crate) fn restore(&self, file: &str) {
        fs::write(self.path("environments/dev.tfvars"), file).unwrap();
    }

    /// Puts a shell script on the PATH.
    pub(crate) fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Looks at the account, or changes it, through boto3.
    pub(crate) fn account(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(&self.python);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/day_two_moto/account.py");
        command
            .arg(script)
            .arg(self.moto.endpoint())
            .args(arguments);
        with_credentials(&mut command, self.directory.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A command with moto's credentials and nothing of this machine's configuration.
    pub(crate) fn platformctl(&self, arguments: &[&str]) -> Command {
        let mut command = platformctl(self.directory.path());
        with_credentials(&mut command, self.directory.path());
        command
            .args(arguments)
            .env("HOME", self.path("home"))
            .env("PATH", self.path("bin"))
            .env_remove("KUBECONFIG")
            .env_remove("PLATFORM_ENGINE")
            .env_remove("PLATFORM_ENVIRONMENT")
            .env("PLATFORM_PUBLIC_ADDRESS", "192.0.2.10");
        command
    }

    /// Runs it. What reads moto's log runs in this process, so it is not waited for on its threads.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Said {
        run(self.platformctl(arguments)).await
    }

    /// A server before moto that answers requests with `part` in them by an error.
    pub(crate) fn refusing(&self, part: &str, status: u16, code: &str) -> Refusing {
        let moto = self.moto.endpoint().replace("http://", "");
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/day_two_moto/refusing.py"
        );
        let mut process = Command::new(&self.python)
            .args([script, &moto, part, &status.to_string(), code])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        Refusing {
            endpoint: format!("http://127.0.0.1:{}", port.trim()),
            process,
        }
    }
}

/// Dropping it ends it.
pub(crate) struct Refusing {
    pub(crate) endpoint: String,
    process: Child,
}

impl Drop for Refusing {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) async fn run(mut command: Command) -> Said {
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        code: output.status.code().unwrap(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}
