//! An operator's working directory with an empty account behind it.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, PipeReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use platform_tests::moto::{Moto, REGION, fake_agent, with_credentials};
use platform_tests::tools::{self, Terraform};
use platform_tests::workspace::platformctl;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Makes what must be there before: a key, a zone; gives them, and an image that moto knows.
const PREPARE: &str = r#"
import json, sys
import boto3
endpoint, region = sys.argv[1:3]
client = lambda service: boto3.client(service, endpoint_url=endpoint, region_name=region)
client("route53").create_hosted_zone(Name="example.com", CallerReference="test")
key = client("kms").create_key(KeyUsage="ENCRYPT_DECRYPT", KeySpec="SYMMETRIC_DEFAULT")["KeyMetadata"]["KeyId"]
images = client("ec2").describe_images(Filters=[{"Name": "architecture", "Values": ["x86_64"]}])["Images"]
image = next(i["ImageId"] for i in images if i["State"] == "available")
# The same once more, ours and with a name of its own.
named = client("ec2").copy_image(SourceImageId=image, SourceRegion=region, Name="flatcar-by-name")["ImageId"]
print(json.dumps({"key": key, "image": image, "named": named}))
"#;

/// Runs statements on the account; `client` gives a client of a service.
const STATEMENTS: &str = r#"
import json, sys
import boto3
endpoint, region, statements = sys.argv[1:4]
client = lambda service, region=region: boto3.client(service, endpoint_url=endpoint, region_name=region)
exec(statements)
print("{}")
"#;

/// How long a request that is to be held may take to come.
const HELD: Duration = Duration::from_secs(120);

/// Makes a bucket in another account.
const FOREIGN: &str = r#"
import sys
import boto3
endpoint, region, bucket = sys.argv[1:4]
role = boto3.client("sts", endpoint_url=endpoint, region_name=region).assume_role(
    RoleArn="arn:aws:iam::210987654321:role/somebody", RoleSessionName="test")["Credentials"]
boto3.client("s3", endpoint_url=endpoint, region_name=region, aws_access_key_id=role["AccessKeyId"],
    aws_secret_access_key=role["SecretAccessKey"], aws_session_token=role["SessionToken"]).create_bucket(Bucket=bucket)
print("{}")
"#;

/// A desk; dropping it ends moto.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) moto: Moto,
    /// The key and the images of the account.
    pub(crate) prepared: Value,
    directory: TempDir,
    /// Where `serve.py` is told which requests to hold, and says what was asked.
    account: TempDir,
    terraform: Terraform,
    python: PathBuf,
}

/// A platformctl at work, both of its outputs read as one.
#[derive(Debug)]
pub(crate) struct Run {
    child: Child,
    lines: Lines<BufReader<PipeReader>>,
    pub(crate) said: String,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) said: String,
}

// === impl Desk ===

impl Desk {
    /// None where Terraform or moto is missing.
    pub(crate) async fn new() -> Option<Self> {
        let terraform = tools::terraform()?;
        let python = tools::python_with("boto3")?;
        let account = TempDir::new().unwrap();
        let moto = Moto::start_for_terraform(account.path()).await.unwrap()?;
        let mut prepare = Command::new(&python);
        prepare.args(["-c", PREPARE, &moto.endpoint(), REGION]);
        let directory = TempDir::new().unwrap();
        with_credentials(&mut prepare, directory.path());
        let prepared: Value = parsed(&mut prepare);
        let text = |name: &str| prepared[name].as_str().unwrap().to_owned();
        let directory = moto.lay_out(&text("key")).unwrap();
        fs::write(
            directory.path().join("platform-agent"),
            fake_agent("an agent"),
        )
        .unwrap();
        fs::write(directory.path().join("empty.tfrc"), "").unwrap();
        let image = text("image");
        let desk = Self {
            moto,
            prepared,
            directory,
            account,
            terraform,
            python,
        };
        desk.change("coreos_image", &image);
        Some(desk)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sets a key of the environment.
    pub(crate) fn change(&self, key: &str, value: &str) {
        let path = self.path("environments/dev.tfvars");
        let text = fs::read_to_string(&path).unwrap();
        let kept: Vec<&str> = text
            .lines()
            .filter(|line| line.split('=').next().unwrap().trim() != key)
            .collect();
        fs::write(&path, format!("{}\n{key} = \"{value}\"\n", kept.join("\n"))).unwrap();
    }

    /// A platformctl with the environment of an operator. How Terraform finds its providers here is Terraform's own matter.
    pub(crate) fn platformctl(&self, arguments: &[&str]) -> Command {
        self.platformctl_in(self.directory.path(), arguments)
    }

    /// The same in another working directory.
    pub(crate) fn platformctl_in(&self, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = platformctl(directory);
        with_credentials(&mut command, self.directory.path());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places =
            std::iter::once(self.terraform.directory.clone()).chain(std::env::split_paths(&path));
        command
            .args(arguments)
            .args(["-e", "dev"])
            .env("PATH", std::env::join_paths(places).unwrap())
            .env("HOME", self.directory.path())
            .env("PLATFORM_AGENT", self.path("platform-agent"))
            .env("TF_CLI_CONFIG_FILE", self.path("empty.tfrc"))
            .env(
                "TF_CLI_ARGS_init",
                format!("-plugin-dir={}", self.terraform.plugins.display()),
            );
        command
    }

    /// `platformctl run` as a script calls it.
    pub(crate) fn start_run(&self) -> Run {
        Run::start(self.platformctl(&["run", "--yes", "--public-address", "192.0.2.10"]))
    }

    /// Starts platformctl.
    pub(crate) fn start(&self, arguments: &[&str]) -> Run {
        Run::start(self.platformctl(arguments))
    }

    /// Runs a command of [`Desk::platformctl`] to its end.
    pub(crate) fn end_of(command: Command) -> Ended {
        Run::start(command).end()
    }

    /// Runs platformctl to its end.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).end()
    }

    /// Has moto hold the request after the first `skip` of those with that in them, until [`Desk::release`].
    pub(crate) fn hold(&self, text: &str, skip: usize) {
        let _ = fs::remove_file(self.account.path().join("held"));
        self.want(&json!({"match": text, "skip": skip, "answer": null}));
    }

    /// Has moto refuse every request with that in it.
    pub(crate) fn refuse(&self, text: &str, status: u16, code: &str) {
        self.want(&json!({"match": text, "skip": 0, "answer": [status, code]}));
    }

    fn want(&self, what: &Value) {
        let mut what = what.clone();
        // moto counts for each anew.
        what["id"] = json!(format!("{:?}", Instant::now()));
        let file = self.account.path().join("want.new");
        fs::write(&file, what.to_string()).unwrap();
        fs::rename(file, self.account.path().join("want.json")).unwrap();
    }

    /// Waits until it is held.
    pub(crate) fn until_held(&self) {
        let begun = Instant::now();
        while !self.account.path().join("held").exists() {
            assert!(begun.elapsed() < HELD, "not asked for: {}", self.wanted());
            sleep(Duration::from_millis(20));
        }
    }

    fn wanted(&self) -> String {
        fs::read_to_string(self.account.path().join("want.json")).unwrap_or_default()
    }

    /// Lets what is held go on, and refuses nothing any more.
    pub(crate) fn release(&self) {
        let _ = fs::remove_file(self.account.path().join("want.json"));
    }

    /// What agents asked the account for: `by` is their access key.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.account.path().join("requests.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }

    /// Runs Python statements on the account.
    pub(crate) fn account(&self, statements: &str) {
        let mut command = Command::new(&self.python);
        command.args(["-c", STATEMENTS, &self.moto.endpoint(), REGION, statements]);
        with_credentials(&mut command, self.directory.path());
        parsed(&mut command);
    }

    /// The terraform/ of this directory: the real one without load balancers and DNS records, for which the provider waits more
    /// than a minute. For tests of what happens around the engine.
    pub(crate) fn own_terraform(&self) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../terraform");
        let own = self.path("terraform");
        fs::create_dir(&own).unwrap();
        for entry in fs::read_dir(source).unwrap() {
            let entry = entry.unwrap();
            let text = fs::read_to_string(entry.path()).unwrap();
            let name = entry.file_name().into_string().unwrap();
            fs::write(own.join(&name), without_balancers(&name, &text)).unwrap();
        }
    }

    /// A second working directory of the same environment.
    pub(crate) fn another_directory(&self) -> TempDir {
        let other = TempDir::new().unwrap();
        for name in ["environments", "manifests"] {
            copy(&self.path(name), &other.path().join(name));
        }
        other
    }

    /// Makes a bucket that belongs to somebody else.
    pub(crate) fn foreign_bucket(&self, name: &str) {
        let mut command = Command::new(&self.python);
        command.args(["-c", FOREIGN, &self.moto.endpoint(), REGION, name]);
        with_credentials(&mut command, self.directory.path());
        parsed(&mut command);
    }

    /// What there is in the account.
    pub(crate) fn observe(&self) -> Value {
        let mut command = Command::new(&self.python);
        command
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/infra/observe.py"
            ))
            .args([&self.moto.endpoint(), REGION]);
        with_credentials(&mut command, self.directory.path());
        parsed(&mut command)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).unwrap();
        }
    }
}

/// A configuration file without the blocks that are waited for long.
fn without_balancers(name: &str, text: &str) -> String {
    let gone = [
        "resource \"aws_lb\"",
        "resource \"aws_lb_listener\"",
        "resource \"aws_route53_record\"",
        "output \"load_balancer_names\"",
    ];
    let mut kept = String::new();
    let mut dropping = false;
    for line in text.lines() {
        dropping |= gone.iter().any(|start| line.starts_with(start));
        if !dropping {
            kept += line;
            kept.push('\n');
        }
        dropping &= line != "}";
    }
    if name == "outputs.tf" {
        let record = |record: &str| format!("${{aws_route53_record.{record}.name}}");
        kept = kept
            .replace(&record("api_public"), "kube.${var.dns_zone_name}")
            .replace(
                &record("api_internal"),
                "kube-internal.${var.dns_zone_name}",
            );
    }
    kept
}

fn parsed(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

// === impl Run ===

impl Run {
    fn start(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .unwrap();
        // The command holds the writing end, and with it the end of what is read.
        drop(command);
        Self {
            child,
            lines: BufReader::new(reader).lines(),
            said: String::new(),
        }
    }

    /// Reads until a line has the text in it.
    pub(crate) fn until(&mut self, text: &str) {
        while let Some(line) = self.next() {
            if line.contains(text) {
                return;
            }
        }
        panic!("it ended without saying {text:?}:\n{}", self.said);
    }

    fn next(&mut self) -> Option<String> {
        let line = self.lines.next()?.unwrap();
        eprintln!("| {line}");
        self.said.push_str(&line);
        self.said.push('\n');
        Some(line)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub(crate) fn end(mut self) -> Ended {
        while self.next().is_some() {}
        Ended {
            status: self.child.wait().unwrap(),
            said: self.said,
        }
    }
}

// === impl Ended ===

impl Ended {
    /// It ended with that code and said that.
    #[track_caller]
    pub(crate) fn with(self, code: i32, says: &[&str]) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}", self.said);
        for text in says {
            assert!(self.said.contains(text), "no {text:?} in:\n{}", self.said);
        }
        self
    }
}
