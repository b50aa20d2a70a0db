//! What is in user data, run for real: the boot program against a metadata service, STS and S3 that check what they
//! are asked; the units against systemd's own checks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use ctl::dev::store::{RunningStore, SecretKey, StoreConfig};
use ctl::env::{Environment, parse};
use ctl::userdata::cloud_config::{self, CloudConfig};
use ctl::userdata::{Input, PROGRAMS, user_data};
use platform_tests::machine::{
    ACCESS_KEY, Answer, INSTANCE, Machine, REGION, SECRET_KEY, SESSION_TOKEN,
};
use platform_tests::tools;
use platform_tests::workspace::group;
use shared::digest::Sha256Digest;
use tempfile::TempDir;
use tokio::process::Command;

const AGENT: &[u8] =
    b"#!/bin/sh\necho an agent of some length, so that half of it is something else\n";
const BOOT: &str = "/etc/platform-agent/platform-boot";
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/user-data");
/// How long the program may take on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn dev() -> Environment {
    let path = Path::new(GOLDEN).join("dev.tfvars");
    parse(&fs::read_to_string(&path).unwrap(), &path).unwrap()
}

fn rendered(name: &str) -> CloudConfig {
    let text = user_data(&Input {
        environment: &dev(),
        group: &group(name),
        trusted_root: &fs::read_to_string(Path::new(GOLDEN).join("root.json")).unwrap(),
        agent: Sha256Digest::of(AGENT),
        template: include_str!("../../cloudinit/user-data.j2"),
    });
    cloud_config::parse(&text.unwrap()).unwrap()
}

fn written(config: &CloudConfig, path: &str) -> String {
    String::from_utf8(config.file(path).expect(path).content.clone()).unwrap()
}

/// A machine's disk with the boot program, and a curl on the path that notes its arguments.
struct Disk {
    root: TempDir,
    curl: PathBuf,
}

impl Disk {
    /// None where a program that the image has is missing here.
    fn new() -> Option<Self> {
        for tool in ["bash", "jq", "sha256sum"] {
            tools::find(tool)?;
        }
        let curl = tools::curl_with_sigv4()?;
        let root = TempDir::new().unwrap();
        let bin = root.path().join("shims");
        fs::create_dir(&bin).unwrap();
        let shim = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{}'\nexec '{}' \"$@\"\n",
            root.path().join("arguments").display(),
            curl.display()
        );
        program(&bin.join("curl"), shim.as_bytes());
        program(
            &root.path().join("boot"),
            written(&rendered("secure"), BOOT).as_bytes(),
        );
        let disk = Self { root, curl };
        disk.identify("ec2f0000-0000-0000-0000-000000000001");
        Some(disk)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// The machine's identity, as its firmware says it.
    fn identify(&self, id: &str) {
        fs::create_dir_all(self.path("sys/class/dmi/id")).unwrap();
        fs::write(
            self.path("sys/class/dmi/id/product_uuid"),
            format!("{id}\n"),
        )
        .unwrap();
    }

    fn agent(&self) -> PathBuf {
        self.path("var/lib/platform-agent/bin/platform-agent")
    }

    fn facts(&self) -> String {
        fs::read_to_string(self.path("run/platform/node.env")).unwrap_or_default()
    }

    /// What a reboot leaves.
    fn lose_power(&self) {
        fs::remove_dir_all(self.path("run")).unwrap();
    }

    /// Boots: with the settings of user data, but for the endpoints.
    async fn boot(&self, machine: &Machine, s3: &str) -> Output {
        let settings = written(&rendered("secure"), "/etc/platform-agent/boot.env");
        let mut command = Command::new(self.path("boot"));
        command
            .env_clear()
            .envs(settings.lines().map(|l| l.split_once('=').unwrap()))
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", self.path("shims").display()),
            )
            .env("ROOT", self.root.path())
            .env("IMDS_ENDPOINT", machine.endpoint())
            .env("S3_URL", s3)
            .env("STS_URL", machine.endpoint())
            .env("PAUSE", "0.01")
            .env("PATIENCE", "3")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        tokio::time::timeout(LONG, command.output())
            .await
            .expect("the boot program ends")
            .unwrap()
    }

    async fn boots(&self, machine: &Machine) -> String {
        let output = self
            .boot(machine, &format!("{}/bucket", machine.endpoint()))
            .await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}

fn program(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn expected_facts() -> String {
    format!(
        "NODE_ID=AROAEXAMPLEROLEID:{INSTANCE}\nNODE_NAME=ip-10-0-0-7.eu-west-1.compute.internal\nNODE_IP=10.0.0.7\n\
         INSTANCE_ID={INSTANCE}\nINSTANCE_TYPE=t3.medium\nZONE=eu-west-1b\nREGION={REGION}\n\
         PROVIDER_ID=aws:///eu-west-1b/{INSTANCE}\n"
    )
}

#[tokio::test]
async fn a_first_boot_waits_for_the_role_and_takes_only_the_agent_of_that_digest() {
    let Some(disk) = Disk::new() else { return };
    let machine = Machine::start().await.unwrap();
    {
        let mut state = machine.state();
        state.no_role = 2;
        state.objects = [
            Answer::Error(403),
            Answer::Cut(AGENT.to_vec()),
            Answer::Whole(b"#!/bin/sh\necho somebody else's\n".to_vec()),
            Answer::Whole(AGENT.to_vec()),
        ]
        .into();
    }
    let said = disk.boots(&machine).await;
    assert_eq!(fs::read(disk.agent()).unwrap(), AGENT);
    let mode = fs::metadata(disk.agent()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert_eq!(disk.facts(), expected_facts());
    let key = format!(
        "/bucket/bootstrap/{}.platform-agent",
        Sha256Digest::of(AGENT)
    );
    assert_eq!(machine.asked(&key), 4);
    assert_eq!(said.matches("has no credentials yet").count(), 2, "{said}");
    assert_eq!(said.matches("REFUSED").count(), 1, "{said}");
    assert_eq!(machine.state().problems, [] as [String; 0]);
    let left: Vec<_> = fs::read_dir(disk.agent().parent().unwrap())
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let arguments = fs::read_to_string(disk.path("arguments")).unwrap();
    assert!(arguments.contains("--aws-sigv4"), "{arguments}");
    for secret in [SECRET_KEY, SESSION_TOKEN, "wJalr", "AQAEA"] {
        assert!(!arguments.contains(secret), "{secret} is an argument");
    }
}

#[tokio::test]
async fn a_reboot_downgrades_nothing() {
    let Some(disk) = Disk::new() else { return };
    let machine = Machine::start().await.unwrap();
    machine.state().objects = [Answer::Whole(AGENT.to_vec())].into();
    disk.boots(&machine).await;
    // The agent has updated itself since.
    program(&disk.agent(), b"#!/bin/sh\necho newer\n");
    disk.lose_power();
    disk.boots(&machine).await;
    assert_eq!(fs::read(disk.agent()).unwrap(), b"#!/bin/sh\necho newer\n");
    assert_eq!(machine.asked("/bootstrap/"), 1);
    assert_eq!(disk.facts(), expected_facts());
    // Where an interrupted update has left only the former one, the guard before the agent puts it back.
    let former = disk.agent().with_file_name("platform-agent.old");
    fs::rename(disk.agent(), &former).unwrap();
    disk.boots(&machine).await;
    assert_eq!(machine.asked("/bootstrap/"), 1);
    fs::remove_file(&former).unwrap();
    // An empty file is no agent.
    program(&disk.agent(), b"");
    disk.boots(&machine).await;
    assert_eq!(fs::read(disk.agent()).unwrap(), AGENT);
}

#[tokio::test]
async fn a_reboot_without_metadata_service_has_the_facts_of_the_last_boot() {
    let Some(disk) = Disk::new() else { return };
    let machine = Machine::start().await.unwrap();
    machine.state().objects = [Answer::Whole(AGENT.to_vec())].into();
    disk.boots(&machine).await;
    disk.lose_power();
    machine.state().down = usize::MAX;
    let said = disk.boots(&machine).await;
    assert!(said.contains("the facts of the last boot stand"), "{said}");
    assert_eq!(disk.facts(), expected_facts());
    // A machine made from an image of this disk is another one, and waits for its own.
    disk.lose_power();
    disk.identify("ec2f0000-0000-0000-0000-000000000002");
    {
        let mut state = machine.state();
        state.down = 10;
        state.host_names = ["ip-10-0-0-8".to_owned()].into();
    }
    let said = disk.boots(&machine).await;
    assert!(!said.contains("stand"), "{said}");
    assert!(
        disk.facts().contains("NODE_NAME=ip-10-0-0-8\n"),
        "{}",
        disk.facts()
    );
}

#[tokio::test]
async fn a_fact_that_is_not_one_is_not_written() {
    let Some(disk) = Disk::new() else { return };
    let machine = Machine::start().await.unwrap();
    {
        let mut state = machine.state();
        state.objects = [Answer::Whole(AGENT.to_vec())].into();
        state.host_names = ["<html>".to_owned(), String::new(), "ip-10-0-0-9".to_owned()].into();
        state.callers = [
            "AROAEXAMPLEROLEID:i-0aaaaaaaaaaaaaaaa".to_owned(),
            format!("AROAEXAMPLEROLEID:{INSTANCE}"),
        ]
        .into();
    }
    let said = disk.boots(&machine).await;
    assert!(said.contains("not usable: '<html>'"), "{said}");
    assert!(said.contains("not usable: ''"), "{said}");
    assert!(
        disk.facts().contains("NODE_NAME=ip-10-0-0-9\n"),
        "{}",
        disk.facts()
    );
    machine.state().callers = ["AROAEXAMPLEROLEID:i-0aaaaaaaaaaaaaaaa".to_owned()].into();
    disk.lose_power();
    let said = disk.boots(&machine).await;
    assert!(said.contains("the credentials are those of AROA"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_of_another_make_takes_the_signature() {
    let Some(disk) = Disk::new() else { return };
    let machine = Machine::start().await.unwrap();
    let objects = TempDir::new().unwrap();
    let key = format!("bootstrap/{}.platform-agent", Sha256Digest::of(AGENT));
    let file = objects.path().join("bucket").join(key);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, AGENT).unwrap();
    let store = RunningStore::start(StoreConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        directory: objects.path().to_owned(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SecretKey::from(SECRET_KEY.to_owned()),
        region: REGION.to_owned(),
    })
    .await
    .unwrap();
    let endpoint = store.endpoint().to_string();
    let output = disk
        .boot(
            &machine,
            &format!("{}/bucket", endpoint.trim_end_matches('/')),
        )
        .await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(fs::read(disk.agent()).unwrap(), AGENT, "{said}");
}

/// The services must be able to refuse, or the tests above say nothing.
#[tokio::test]
async fn the_services_refuse_what_is_not_signed_right() {
    let Some(disk) = Disk::new() else { return };
    let machine = Machine::start().await.unwrap();
    machine.state().objects = [Answer::Whole(AGENT.to_vec())].into();
    let url = format!("{}/bucket/bootstrap/x", machine.endpoint());
    let token = format!("x-amz-security-token: {SESSION_TOKEN}");
    let user = format!("{ACCESS_KEY}:{SECRET_KEY}");
    let sha =
        "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let sigv4 = |region: &str| format!("aws:amz:{region}:s3");
    let (here, there) = (sigv4(REGION), sigv4("us-east-1"));
    for (arguments, expected) in [
        (
            vec![
                "-H",
                &token,
                "-H",
                sha,
                "--aws-sigv4",
                &here,
                "--user",
                &user,
            ],
            None,
        ),
        (
            vec![
                "-H",
                &token,
                "-H",
                sha,
                "--aws-sigv4",
                &there,
                "--user",
                &user,
            ],
            Some("the scope"),
        ),
        (
            vec![
                "-H",
                &token,
                "-H",
                sha,
                "--aws-sigv4",
                &here,
                "--user",
                "ASIAIOSFODNN7EXAMPLE:x",
            ],
            Some("the signature"),
        ),
        (
            vec!["-H", sha, "--aws-sigv4", &here, "--user", &user],
            Some("the security token"),
        ),
        (vec!["-H", &token, "-H", sha], Some("is not signed")),
    ] {
        machine.state().problems.clear();
        let output = Command::new(&disk.curl)
            .args(["-q", "-sf", "--noproxy", "*"])
            .args(&arguments)
            .arg(&url)
            .output()
            .await
            .unwrap();
        let problems = machine.state().problems.clone();
        assert_eq!(output.status.success(), expected.is_none(), "{problems:?}");
        let told = expected.is_none_or(|e| problems.iter().any(|p| p.contains(e)));
        assert!(told, "{expected:?}: {problems:?}");
    }
}

#[tokio::test]
async fn the_programs_pass_shellcheck() {
    let Some(shellcheck) = tools::find("shellcheck") else {
        return;
    };
    let directory = TempDir::new().unwrap();
    for name in PROGRAMS {
        let path = directory.path().join(name);
        fs::write(
            &path,
            written(&rendered("compute"), &format!("/etc/platform-agent/{name}")),
        )
        .unwrap();
        let output = Command::new(&shellcheck).arg(&path).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}

/// Writes every unit of a group with its drop-ins, each program that it starts in the place of a staged one.
fn stage_units(directory: &Path, config: &CloudConfig) -> Vec<PathBuf> {
    let staged = directory.join("program");
    program(&staged, b"#!/bin/sh\n");
    let here = |text: &str| -> String {
        text.lines()
            .map(
                |line| match line.strip_prefix("Exec").and_then(|l| l.split_once("=/")) {
                    Some((which, command)) => {
                        let arguments = command.split_once(' ').map_or("", |(_, rest)| rest);
                        format!("Exec{which}={} {arguments}\n", staged.display())
                    }
                    None => format!("{line}\n"),
                },
            )
            .collect()
    };
    let mut paths = Vec::new();
    for unit in &config.units {
        for (name, text) in &unit.drop_ins {
            let drop_ins = directory.join(format!("{}.d", unit.name));
            fs::create_dir_all(&drop_ins).unwrap();
            fs::write(drop_ins.join(name), text).unwrap();
        }
        if let Some(text) = &unit.content {
            let path = directory.join(&unit.name);
            fs::write(&path, here(text)).unwrap();
            paths.push(path);
        }
    }
    // What an image brings along.
    for name in ["ntpd.service", "containerd.service"] {
        let text = format!("[Service]\nExecStart={}\n", staged.display());
        fs::write(directory.join(name), text).unwrap();
        paths.push(directory.join(name));
    }
    paths
}

async fn verified(analyze: &Path, directory: &Path, units: &[PathBuf]) -> (bool, String) {
    let output = Command::new(analyze)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", directory.display()))
        .args(["verify", "--man=no", "--recursive-errors=yes"])
        .args(units)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // What it says of the units of the machine that the test runs on is not ours.
    let ours =
        |line: &&str| line.contains(&*directory.to_string_lossy()) || line.contains("platform");
    let said: String = said
        .lines()
        .filter(ours)
        .map(|l| format!("{l}\n"))
        .collect();
    (said.is_empty(), said)
}

#[tokio::test]
async fn systemd_finds_nothing_wrong_with_the_units() {
    let Some(analyze) = tools::find("systemd-analyze") else {
        return;
    };
    for name in ["secure", "compute"] {
        let directory = TempDir::with_prefix("platform-units").unwrap();
        let units = stage_units(directory.path(), &rendered(name));
        let (fine, said) = verified(&analyze, directory.path(), &units).await;
        assert!(fine, "{said}");
    }
    // It does find something.
    let directory = TempDir::with_prefix("platform-units").unwrap();
    let units = stage_units(directory.path(), &rendered("secure"));
    let boot = directory.path().join("platform-boot.service");
    let text = fs::read_to_string(&boot)
        .unwrap()
        .replace("RemainAfterExit", "RemainAfterExitt");
    fs::write(&boot, text).unwrap();
    let (fine, said) = verified(&analyze, directory.path(), &units).await;
    assert!(!fine && said.contains("RemainAfterExitt"), "{said}");
}

#[tokio::test]
async fn the_agents_exposure_is_low() {
    let Some(analyze) = tools::find("systemd-analyze") else {
        return;
    };
    let directory = TempDir::with_prefix("platform-units").unwrap();
    stage_units(directory.path(), &rendered("secure"));
    let unit = directory.path().join("platform-agent.service");
    let exposure = async |unit: &Path| {
        let output = Command::new(&analyze)
            .args(["security", "--offline=true", "--no-pager"])
            .arg(unit)
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, last) = said
            .rsplit_once("platform-agent.service: ")
            .expect("a score");
        last.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let score = exposure(&unit).await;
    assert!(score <= 2.2, "{score}");
    let text = fs::read_to_string(&unit)
        .unwrap()
        .replace("ProtectSystem=strict\n", "");
    fs::write(&unit, text).unwrap();
    assert!(exposure(&unit).await > score);
}

/// The agent takes the configuration that it will find.
#[test]
fn the_agent_takes_its_configuration() {
    for name in ["secure", "compute"] {
        let text = written(&rendered(name), "/etc/platform-agent/config.toml");
        let config = agent::config::Config::parse(&text);
        let config = config.unwrap_or_else(|mistakes| panic!("{mistakes:#?}\n{text}"));
        assert_eq!(config.group, group(name));
        assert_eq!(
            config.trusted_root,
            Path::new("/etc/platform-agent/root.json")
        );
        assert_eq!(config.endpoint_url, None);
    }
}
