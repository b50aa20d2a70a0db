//! `run.kube` against a stand-in for docker that writes its arguments down.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A working directory with `run.kube`, two environments, a home and a docker that records what it is asked.
struct Desk {
    root: TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self {
            root: TempDir::new().unwrap(),
        };
        for directory in ["work/environments", "home", "bin"] {
            fs::create_dir_all(desk.path(directory)).unwrap();
        }
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("../run.kube");
        fs::copy(original, desk.path("work/run.kube")).unwrap();
        for name in ["dev", "local"] {
            fs::write(desk.path(&format!("work/environments/{name}.tfvars")), "").unwrap();
        }
        desk.docker(0);
        desk
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(below)
    }

    /// Puts a docker on the PATH that appends a line an argument, and answers `docker image` with `image_exit`.
    fn docker(&self, image_exit: u8) {
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{}'\n[ \"$1\" != image ] || exit {image_exit}\n",
            self.path("asked").display()
        );
        fs::write(self.path("bin/docker"), script).unwrap();
        fs::set_permissions(self.path("bin/docker"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new("bash")
            .arg(self.path("work/run.kube"))
            .args(arguments)
            // From elsewhere: the working directory that is mapped is the script's, not the caller's.
            .current_dir(self.root.path())
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", self.path("bin").display()),
            )
            .env("HOME", self.path("home"))
            .env("AWS_PROFILE", "a-profile")
            .env("AWS_SECRET_ACCESS_KEY", "not-for-the-process-list")
            .output()
            .unwrap()
    }

    /// What docker was asked, an argument an entry.
    fn asked(&self) -> Vec<String> {
        fs::read_to_string(self.path("asked"))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

fn has_pair(arguments: &[String], option: &str, value: &str) -> bool {
    arguments
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a == option && b == value))
}

#[test]
fn says_the_environment_and_opens_a_shell_with_both_directories_mapped() {
    let desk = Desk::new();
    let output = desk.run(&["-e", "dev"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "--> Running Platform, with environment: dev\n"
    );

    let asked = desk.asked();
    let run = asked
        .iter()
        .position(|argument| argument == "run")
        .expect("docker run");
    let arguments = &asked[run..];
    let aws = format!("{}:/home/platform/.aws", desk.path("home/.aws").display());
    let ssh = format!("{}:/home/platform/.ssh", desk.path("home/.ssh").display());
    let work = format!("{}:/platform", desk.path("work").display());
    assert!(has_pair(arguments, "--volume", &aws), "{arguments:?}");
    // The container is gone with its shell, and the key that `run` writes must not be.
    assert!(has_pair(arguments, "--volume", &ssh), "{arguments:?}");
    let mode = |name: &str| fs::metadata(desk.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("home/.ssh"), 0o700);
    let processor = has_pair(arguments, "--platform", "linux/amd64");
    assert!(processor, "{arguments:?}");
    assert!(has_pair(arguments, "--volume", &work), "{arguments:?}");
    assert!(
        has_pair(arguments, "--workdir", "/platform"),
        "{arguments:?}"
    );
    assert!(
        has_pair(arguments, "--env", "PLATFORM_ENVIRONMENT=dev"),
        "{arguments:?}"
    );
    assert_eq!(arguments.last().map(String::as_str), Some("/bin/bash"));
    assert!(
        !arguments.contains(&"--tty".to_owned()),
        "there is no terminal here: {arguments:?}"
    );
    assert!(
        desk.path("home/.aws").is_dir(),
        "docker would make it as root"
    );
}

#[test]
fn passes_credentials_on_by_name_only() {
    let desk = Desk::new();
    assert!(desk.run(&["-e", "dev"]).status.success());
    let asked = desk.asked();
    assert!(has_pair(&asked, "--env", "AWS_PROFILE"), "{asked:?}");
    assert!(
        has_pair(&asked, "--env", "AWS_SECRET_ACCESS_KEY"),
        "{asked:?}"
    );
    assert!(
        !asked
            .iter()
            .any(|argument| argument.contains("not-for-the-process-list")),
        "{asked:?}"
    );
}

#[test]
fn names_the_environments_there_are_when_the_file_is_missing() {
    let desk = Desk::new();
    let output = desk.run(&["-e", "prod"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("environments/prod.tfvars"), "{message}");
    assert!(message.contains("dev, local"), "{message}");
    assert!(output.stdout.is_empty());
    assert!(
        desk.asked().is_empty(),
        "docker was asked: {:?}",
        desk.asked()
    );
}

#[test]
fn refuses_what_is_no_environment_name_or_no_usage() {
    let desk = Desk::new();
    fs::write(desk.path("work/outside.tfvars"), "").unwrap();
    for refused in [
        "Dev",
        "1dev",
        "dev_2",
        "dev--2",
        "dev-",
        "abcdefghijklmnopqrstuvwxy",
    ] {
        let file = desk.path(&format!("work/environments/{refused}.tfvars"));
        fs::write(file, "").unwrap();
        assert!(refused.parse::<ctl::env::Name>().is_err(), "{refused}");
    }
    for arguments in [
        &["-e", "../outside"][..],
        &["-e", ""],
        &["-e"],
        &[],
        &["-x"],
        &["dev"],
        &["-e", "dev", "extra"],
        &["-e", "a b"],
        // Names that platformctl refuses, with a file or without.
        &["-e", "Dev"],
        &["-e", "1dev"],
        &["-e", "dev_2"],
        &["-e", "dev--2"],
        &["-e", "dev-"],
        &["-e", "abcdefghijklmnopqrstuvwxy"],
    ] {
        let output = desk.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(
            !output.stderr.is_empty(),
            "{arguments:?} was refused without a word"
        );
    }
    assert!(
        desk.asked().is_empty(),
        "docker was asked: {:?}",
        desk.asked()
    );
}

#[test]
fn takes_every_name_that_platformctl_takes() {
    let desk = Desk::new();
    for name in ["a", "eu-west-1-prod", "d3v", "abcdefghijklmnopqrstuvwx"] {
        assert!(name.parse::<ctl::env::Name>().is_ok(), "{name}");
        let file = desk.path(&format!("work/environments/{name}.tfvars"));
        fs::write(file, "").unwrap();
        let output = desk.run(&["-e", name]);
        assert!(output.status.success(), "{name}: {output:?}");
    }
}

#[test]
fn the_shell_in_the_image_completes_what_it_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dockerfile = fs::read_to_string(root.join("Dockerfile")).unwrap();
    for program in ["platformctl completions bash", "kubectl completion bash"] {
        assert!(dockerfile.contains(program), "{program}");
    }
    for pinned in [
        "TERRAFORM_VERSION",
        "TERRAFORM_SHA256",
        "KUBECTL_VERSION",
        "KUBECTL_SHA256",
    ] {
        let line = dockerfile
            .lines()
            .find(|l| l.starts_with(&format!("ARG {pinned}=")));
        assert!(
            line.is_some_and(|l| !l.ends_with('=')),
            "{pinned} is not pinned"
        );
    }
    assert!(dockerfile.contains("sha256sum --check --strict"));
}

#[test]
fn tells_to_build_the_image_when_it_is_missing() {
    let desk = Desk::new();
    desk.docker(1);
    let output = desk.run(&["-e", "dev"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("run 'make' first"), "{message}");
    assert!(!desk.asked().contains(&"run".to_owned()));
}

/// What the image's build stage works on must reach it: its COPY takes only what `.dockerignore` lets through.
#[test]
fn the_image_gets_what_its_build_needs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let ignore = read(".dockerignore");
    let let_through: Vec<&str> = ignore.lines().filter_map(|l| l.strip_prefix('!')).collect();
    let manifest = read("Cargo.toml");
    let members = manifest.lines().find_map(|l| l.strip_prefix("members = ["));
    let members = members.unwrap().trim_end_matches(']').split(", ");
    let mut needed: Vec<String> = members.map(|m| m.trim_matches('"').to_owned()).collect();
    needed.extend(["Cargo.toml", "Cargo.lock", "manifests"].map(str::to_owned));
    if read("Dockerfile").contains("make ") {
        needed.push("Makefile".to_owned());
    }
    assert!(needed.len() >= 7, "{needed:?}");
    for name in needed {
        assert!(
            let_through.contains(&name.as_str()),
            "{name} does not reach the image's build"
        );
    }
}
