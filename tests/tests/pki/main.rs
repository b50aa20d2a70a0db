//! The cluster's certificates and secrets, judged by other programs and by what a release really holds.

mod bad_input;
mod etcd;
mod openssl;
mod search;
mod secrets_cli;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ctl::pki::{Names, complete};
use jiff::Timestamp;
use platform_tests::workspace::Operator;
use shared::documents::Pki;

/// A PKI as the first publish makes it, for a region and a zone.
fn fresh(region: &str) -> (Pki, Names) {
    let names = Names {
        environment: "dev".to_owned(),
        zone: "example.com".to_owned(),
        region: region.to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        service_ip: "10.101.0.1".parse().unwrap(),
    };
    let mut pki = None;
    complete(&mut pki, &names, Timestamp::now()).unwrap();
    (pki.unwrap(), names)
}

/// Writes a file for its owner alone; gives its path.
fn private(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// What a program printed, and whether it was content.
fn output(command: &mut Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    (output.status.success(), said)
}

/// What platformctl printed, and its exit code.
struct Said {
    code: i32,
    out: Vec<u8>,
    err: String,
}

/// Runs platformctl with something on its standard input. The store runs in this process, so the child must not be
/// waited for on its threads.
async fn run(operator: &Operator, arguments: &[&str], input: &[u8]) -> Said {
    run_with(operator.platformctl(), arguments, input).await
}

async fn run_with(mut command: Command, arguments: &[&str], input: &[u8]) -> Said {
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let input = input.to_vec();
    let output: Output = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let mut child = command.spawn()?;
        let mut pipe = child.stdin.take().expect("a pipe");
        let writer = std::thread::spawn(move || {
            // A child that has read enough closes its end.
            let _ = pipe.write_all(&input);
        });
        let output = child.wait_with_output();
        let _ = writer.join();
        output
    })
    .await
    .unwrap()
    .unwrap();
    Said {
        code: output.status.code().expect("an exit code"),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
