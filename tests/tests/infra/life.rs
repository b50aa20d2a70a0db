//! The life of an environment.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;
use platform_tests::moto::BUCKET;
use serde_json::{Value, json};

use crate::adoption::real_agents_adopt;
use crate::desk::Desk;
use crate::iam::{check_both, check_bucket, check_requests, check_roles};

const TERRAFORM_BUCKET: &str = "example-dev-terraform";
const STATE: &str = "us-east-1/dev/terraform.tfstate";

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_account_to_two_groups() {
    let Some(desk) = Desk::new().await else {
        return;
    };
    let empty = desk.observe();
    interrupted_apply(&desk).await;

    let done = desk.start_run().end();
    let done = done.with(
        0,
        &[
            "API server: https://kube.example.com:6443",
            "kubeconfig: wrote",
            "|  dev-secure",
            "|  dev-compute",
        ],
    );
    let key = desk.path(".ssh/dev");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(
        fs::read_to_string(desk.path(".ssh/config"))
            .unwrap()
            .contains("User core")
    );
    let made = desk.observe();
    everything_is_there(&made);
    real_agents_adopt(&desk, &made);
    let made = desk.observe();
    check_roles(&made);
    check_bucket(&made);
    check_both(&made);
    check_requests(&made, &desk.requests());
    // The run before it applied, and what it was told went with it.
    no_secret_is_in_the_state(
        &desk,
        &done.said,
        &[
            "terraform.tfvars.json",
            "backend.tfbackend.json",
            "plan.log",
        ],
    )
    .await;
    assert_eq!(locks(&made), 0, "no lock is left");

    // A key of KMS as the bucket's default is one that no machine may use.
    desk.account(
        r#"client("s3").put_bucket_encryption(Bucket="example-dev-secrets", ServerSideEncryptionConfiguration={"Rules": [
            {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}]})"#,
    );
    let again = desk.start_run().end();
    again.with(
        0,
        &[
            "buckets: set encryption by S3's own keys of example-dev-secrets",
            "keyring: nothing to do",
            "nothing differs from release 1",
            "ssh key: nothing to do",
            "nothing to do: the infrastructure is as the environment says",
        ],
    );
    assert_eq!(desk.observe(), made, "a second run changes nothing");

    a_held_lock(&desk).await;

    desk.change("compute_asg_max", "6");
    let plan = desk.ctl(&["plan"]).with(
        3,
        &[
            // The provider does not know what another attribute becomes, though nothing changes it.
            "change   aws_autoscaling_group.compute (",
            "max_size 5 → 6)",
            "0 to make, 1 to change, 0 to replace, 0 to destroy",
        ],
    );
    assert_eq!(plan.said.matches("change   ").count(), 1, "{}", plan.said);
    assert_eq!(desk.observe(), made, "a plan changes nothing");

    a_new_image_and_flavor(&desk, &made);
    no_secret_is_in_the_state(&desk, "", &["apply.log", "plan.log", "show.log"]).await;
    a_change_a_shrink_and_the_end(&desk, &empty);
}

/// An image by its name and another instance type: new versions of the launch templates, and no machine is touched.
fn a_new_image_and_flavor(desk: &Desk, before: &Value) {
    let machines = |said: &str| -> Vec<String> {
        let lines = said.lines().filter(|line| line.starts_with("|  dev-"));
        let ids = lines.map(|line| line.split('|').nth(4).unwrap().trim().to_owned());
        ids.collect()
    };
    let shown = desk.ctl(&["instances"]).with(0, &[]);
    assert!(!shown.said.contains("out of date"), "{}", shown.said);
    let old = machines(&shown.said);
    assert_eq!(old.len(), 4, "{}", shown.said);

    let image = desk.prepared["image"].as_str().unwrap();
    desk.change("coreos_image", "flatcar-by-name");
    desk.change("compute_flavor", "t3.large");
    desk.ctl(&["apply", "--yes"])
        .with(0, &["changed: aws_launch_template.machine"]);
    let after = desk.observe();
    for (template, was) in after["templates"]
        .as_array()
        .unwrap()
        .iter()
        .zip(before["templates"].as_array().unwrap())
    {
        assert_eq!(template["image"], desk.prepared["named"], "by its name");
        assert_ne!(template["image"], json!(image));
        let version = |of: &Value| of["version"].as_u64().unwrap();
        assert_eq!(version(template), version(was) + 1, "{template}");
    }
    assert_eq!(after["templates"][0]["type"], json!("t3.large"));
    let shown = desk.ctl(&["instances"]).with(0, &[]);
    assert_eq!(machines(&shown.said), old, "no machine was touched");
    // Whether `instances` marks them cannot be seen here: moto says of each machine the version that its template has by now.
}

/// A change is applied, a shrinking one is refused, and everything goes.
fn a_change_a_shrink_and_the_end(desk: &Desk, empty: &Value) {
    desk.ctl(&["apply"])
        .with(2, &["nobody can be asked here", "--yes"]);
    desk.change("compute_asg_max", "7");
    // Ctrl-C while it plans: nothing is begun, the lock is given back.
    let mut apply = desk.start(&["apply", "--yes"]);
    apply.until("planning");
    apply.signal(Signal::SIGINT);
    apply.end().with(1, &["interrupted; run the same again"]);
    assert_eq!(locks(&desk.observe()), 0);
    desk.ctl(&["apply", "--yes"])
        .with(0, &["aws_autoscaling_group.compute"]);
    assert_eq!(desk.observe()["groups"][0]["max"], json!(7));

    desk.change("secure_asg_max", "3");
    desk.ctl(&["apply", "--yes"]).with(
        2,
        &[
            "the secure group dev-secure becomes smaller (max_size 4 → 3)",
            "--confirm dev",
        ],
    );
    desk.ctl(&["apply", "--yes", "--confirm", "prod"])
        .with(2, &["not the name of this environment"]);
    assert_eq!(
        desk.observe()["groups"][1]["max"],
        json!(4),
        "nothing was changed"
    );
    desk.ctl(&["apply", "--confirm", "dev"])
        .with(0, &["changed: aws_autoscaling_group.secure"]);

    desk.ctl(&["destroy", "--yes"])
        .with(2, &["the buckets stay", "--confirm dev"]);
    // The key, the zone and the image that it was made with need not be there any more.
    let path = desk.path("environments/dev.tfvars");
    let file = fs::read_to_string(&path).unwrap();
    for (key, gone) in [
        ("kms_master_id", "alias/gone"),
        ("dns_zone_name", "gone.example"),
        ("coreos_image", "gone"),
    ] {
        desk.change(key, gone);
    }
    // Without the key nobody can tell whether there is a backup.
    let destroy = ["destroy", "--yes", "--confirm", "dev"];
    let before_it = desk.observe();
    desk.ctl(&destroy).with(
        1,
        &[
            "nothing is destroyed now",
            "--without-backup REASON",
            "alias/gone",
        ],
    );
    assert_eq!(desk.observe(), before_it, "nothing was destroyed");
    let waived = [&destroy[..], &["--without-backup", "the key is gone"]].concat();
    desk.ctl(&waived)
        .with(0, &["destroyed the infrastructure of dev"]);
    fs::write(&path, file).unwrap();
    let mut gone = desk.observe();
    let buckets = gone["buckets"].take();
    assert_eq!(buckets.as_object().unwrap().len(), 2, "both buckets stay");
    let mut before = empty.clone();
    before["buckets"] = Value::Null;
    assert_eq!(gone, before, "everything else is gone");
    desk.ctl(&["destroy", "--buckets", "--confirm", "dev"])
        .with(0, &["removed example-dev-secrets"]);
    assert_eq!(desk.observe(), *empty);
}

/// Killed, the engine goes on by itself, and the next run waits for it: one in this directory for its end, one in another
/// directory is told who is at work.
async fn interrupted_apply(desk: &Desk) {
    desk.hold("Action=CreateSubnet", 0);
    let mut run = desk.start_run();
    run.until("made: aws_vpc.this");
    desk.until_held();
    assert_eq!(lock_objects(desk).await, 1, "one while it is applied");
    let other = desk.another_directory();
    let refused = Desk::end_of(desk.platformctl_in(other.path(), &["plan"]));
    let holder = format!("the state is locked by {}", holder());
    refused.with(1, &[&holder, "(apply) since", "--release-lock"]);
    run.signal(Signal::SIGKILL);
    run.end();
    // Whoever waits can leave.
    let mut impatient = desk.start_run();
    impatient.until("an earlier run is still at work");
    impatient.signal(Signal::SIGINT);
    impatient.end().with(1, &["interrupted"]);
    assert_eq!(lock_objects(desk).await, 1, "the first is still at work");
    desk.release();
    let mut next = desk.start_run();
    next.until("an earlier run is still at work");
    next.end().with(0, &[]);
}

/// Whom Terraform calls the holder of a lock: `user@machine`.
fn holder() -> String {
    let output = std::process::Command::new("sh")
        .args(["-c", "printf '%s@%s' \"$(id -un)\" \"$(hostname)\""])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The locks of the state that there are; there may be no state yet.
async fn lock_objects(desk: &Desk) -> usize {
    let s3 = desk.moto.s3().await;
    let listed = s3.list_objects_v2().bucket(TERRAFORM_BUCKET).send().await;
    let listed = listed.unwrap();
    let keys = listed.contents().iter().filter_map(|object| object.key());
    keys.filter(|key| *key == format!("{STATE}.tflock")).count()
}

fn locks(seen: &Value) -> usize {
    let keys = seen["buckets"][TERRAFORM_BUCKET]["keys"]
        .as_array()
        .unwrap();
    assert!(
        keys.contains(&json!(STATE)),
        "the state is in the bucket: {keys:?}"
    );
    keys.iter()
        .filter(|key| key.as_str().unwrap().ends_with(".tflock"))
        .count()
}

async fn a_held_lock(desk: &Desk) {
    let s3 = desk.moto.s3().await;
    let lock = json!({
        "ID": "5a0c9d3e-7b1f-4a55-b7a7-000000000001", "Operation": "OperationTypeApply", "Info": "",
        "Who": "alice@desk", "Version": "1.11.4", "Created": "2026-01-02T03:04:05Z", "Path": format!("{TERRAFORM_BUCKET}/{STATE}"),
    });
    s3.put_object()
        .bucket(TERRAFORM_BUCKET)
        .key(format!("{STATE}.tflock"))
        .body(lock.to_string().into_bytes().into())
        .send()
        .await
        .unwrap();
    desk.ctl(&["plan"]).with(
        1,
        &[
            "the state is locked by alice@desk (apply) since 2026-01-02 03:04:05",
            "--release-lock 5a0c9d3e-7b1f-4a55-b7a7-000000000001",
        ],
    );
    desk.ctl(&[
        "apply",
        "--yes",
        "--release-lock",
        "5a0c9d3e-7b1f-4a55-b7a7-000000000001",
    ])
    .with(0, &["released the lock", "nothing to do"]);
}

async fn no_secret_is_in_the_state(desk: &Desk, said: &str, files: &[&str]) {
    let workspace = ctl::context::Workspace::open(&desk.path("."), "dev").unwrap();
    let context = desk.moto.context(workspace).await.unwrap();
    let keyring = ctl::keyring::read(&context).await.unwrap().unwrap();
    let s3 = desk.moto.s3().await;
    let state = s3
        .get_object()
        .bucket(TERRAFORM_BUCKET)
        .key(STATE)
        .send()
        .await
        .unwrap();
    let state = state.body.collect().await.unwrap().into_bytes();
    let state = String::from_utf8(state.to_vec()).unwrap();
    assert!(state.contains("ssh-ed25519"), "the public half is there");
    let mut places = vec![
        ("the state".to_owned(), state),
        ("the output".to_owned(), said.to_owned()),
    ];
    for name in files {
        let path = desk.path(".platform/dev/terraform").join(name);
        places.push((
            (*name).to_owned(),
            fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
        ));
    }
    let secrets = secret_texts(&keyring.content);
    assert!(
        secrets.len() > 20,
        "only {} secrets were looked for",
        secrets.len()
    );
    for (place, text) in &places {
        for secret in &secrets {
            assert!(
                !text.contains(secret.as_str()),
                "{place} holds a secret of the keyring"
            );
        }
    }
}

/// Every secret text of a keyring: the values that serde shows and Debug hides, a line of PEM each.
fn secret_texts(content: &shared::documents::KeyringContent) -> Vec<String> {
    fn walk(value: &Value, name: &str, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, v)| walk(v, name, into)),
            Value::Array(items) => items.iter().for_each(|v| walk(v, name, into)),
            Value::String(text) => {
                let public = [
                    "public",
                    "certificate",
                    "roots",
                    "id",
                    "recovery_recipients",
                ];
                let secret = !public.contains(&name)
                    && !text.contains("CERTIFICATE")
                    && !text.contains("\"signed\"");
                let lines = text
                    .lines()
                    .filter(|line| line.len() >= 16 && !line.starts_with("-----"));
                into.extend(lines.filter(|_| secret).map(str::to_owned));
            }
            _ => {}
        }
    }
    let mut all = Vec::new();
    walk(&serde_json::to_value(content).unwrap(), "", &mut all);
    // Names and times are no secrets.
    all.retain(|text| text.parse::<jiff::Timestamp>().is_err());
    all
}

fn everything_is_there(seen: &Value) {
    let list = |name: &str| seen[name].as_array().unwrap().clone();
    assert_eq!(seen["vpcs"][0]["cidr"], json!("10.100.0.0/16"));
    for (key, value) in [("Name", "dev"), ("Env", "dev"), ("Role", "shared")] {
        assert_eq!(seen["vpcs"][0]["tags"][key], json!(value));
    }
    let subnets = list("subnets");
    assert_eq!(subnets.len(), 6);
    let compute_c = subnets
        .iter()
        .find(|subnet| subnet["cidr"] == json!("10.100.2.0/24"))
        .unwrap();
    assert_eq!(compute_c["zone"], json!("us-east-1c"));
    assert_eq!(compute_c["tags"]["Name"], json!("dev-compute"));
    let endpoint = &seen["endpoints"][0];
    assert_eq!(endpoint["service"], json!("com.amazonaws.us-east-1.s3"));
    assert_eq!(endpoint["routes"], json!(1));

    let rules = |group: &str| seen["rules"][group].as_array().unwrap().clone();
    let rule = |protocol: &str, port: u16, source: &str| json!({"protocol": protocol, "from": port, "to": port, "source": source});
    let mut secure = vec![
        rule("tcp", 22, "192.0.2.10/32"),
        rule("tcp", 2379, "dev-secure"),
        rule("tcp", 2380, "dev-secure"),
        rule("tcp", 6443, "dev-api-internal"),
        rule("tcp", 6443, "dev-api-public"),
        rule("tcp", 6443, "dev-compute"),
        rule("tcp", 6443, "dev-secure"),
        rule("tcp", 10250, "dev-secure"),
        rule("udp", 8472, "dev-compute"),
        rule("udp", 8472, "dev-secure"),
    ];
    let by_text = |rules: &mut Vec<Value>| rules.sort_by_key(Value::to_string);
    let mut found = rules("dev-secure");
    by_text(&mut secure);
    by_text(&mut found);
    assert_eq!(found, secure, "nothing else reaches a secure machine");
    let mut compute = vec![
        rule("tcp", 22, "192.0.2.10/32"),
        rule("tcp", 10250, "dev-secure"),
        rule("udp", 8472, "dev-compute"),
        rule("udp", 8472, "dev-secure"),
    ];
    let mut found = rules("dev-compute");
    by_text(&mut compute);
    by_text(&mut found);
    assert_eq!(found, compute);
    assert_eq!(rules("dev-api-public"), [rule("tcp", 6443, "192.0.2.0/24")]);
    assert_eq!(
        rules("dev-api-internal"),
        [rule("tcp", 6443, "dev-compute")]
    );
    assert_eq!(rules("default"), Vec::<Value>::new());

    let groups = list("groups");
    let (compute, secure) = (&groups[0], &groups[1]);
    assert_eq!(
        (
            &compute["name"],
            &compute["min"],
            &compute["max"],
            &compute["grace"]
        ),
        (&json!("dev-compute"), &json!(1), &json!(5), &json!(10))
    );
    assert_eq!(
        (
            &secure["name"],
            &secure["min"],
            &secure["max"],
            &secure["grace"]
        ),
        (&json!("dev-secure"), &json!(3), &json!(4), &json!(300))
    );
    assert_eq!(
        (&secure["machines"], &compute["machines"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(secure["health"], json!("EC2"));
    assert_eq!(secure["suspended"], json!(["AZRebalance"]));
    assert_eq!(secure["protected"], json!(true));
    assert_eq!(
        (&secure["target_groups"], &secure["subnets"]),
        (&json!(2), &json!(3))
    );
    for (group, role) in [(compute, "compute"), (secure, "secure")] {
        let tags = &group["tags"];
        assert_eq!(
            (&tags["Name"], &tags["Env"], &tags["Role"]),
            (&json!(format!("dev-{role}")), &json!("dev"), &json!(role))
        );
    }
    for template in list("templates") {
        assert_eq!(template["metadata"]["HttpTokens"], json!("required"));
        assert_eq!(template["metadata"]["HttpPutResponseHopLimit"], json!(1));
        // moto's images have their root there, and not where Flatcar's have it.
        assert_eq!(template["disks"][0]["DeviceName"], json!("/dev/sda1"));
        assert_eq!(template["disks"][0]["Ebs"]["Encrypted"], json!(true));
        assert_eq!(template["disks"][0]["Ebs"]["VolumeType"], json!("gp3"));
        assert_eq!(template["names"]["HostnameType"], json!("ip-name"));
        assert_eq!(template["key"], json!("kube-dev"));
        assert!(
            template["user_data"]
                .as_str()
                .unwrap()
                .starts_with("#cloud-config\n")
        );
    }
    let balancers = list("balancers");
    let shown: BTreeSet<_> = balancers
        .iter()
        .map(|b| (b["name"].as_str().unwrap(), b["scheme"].as_str().unwrap()))
        .collect();
    assert_eq!(
        shown,
        BTreeSet::from([("api-dev", "internet-facing"), ("int-dev", "internal")])
    );
    for balancer in &balancers {
        let listener = &balancer["listeners"][0];
        assert_eq!(
            (&listener["port"], &listener["protocol"], &listener["to"]),
            (&json!(6443), &json!("TCP"), &json!([balancer["name"]])),
        );
    }
    for target in list("targets") {
        assert_eq!(
            (&target["protocol"], &target["port"], &target["check"]),
            (&json!("TCP"), &json!(6443), &json!("HTTPS /readyz"))
        );
    }
    assert_eq!(
        seen["records"],
        json!([
            {"name": "kube-internal.example.com.", "to": "int-dev"},
            {"name": "kube.example.com.", "to": "api-dev"},
        ])
    );
    assert_eq!(seen["keys"][0]["name"], json!("kube-dev"));

    for (name, statements) in [(BUCKET, 2), (TERRAFORM_BUCKET, 1)] {
        let bucket = &seen["buckets"][name];
        assert_eq!(bucket["versioning"], json!("Enabled"), "{name}");
        assert!(
            bucket["public"]
                .as_object()
                .unwrap()
                .values()
                .all(|v| v == true),
            "{name}"
        );
        assert_eq!(
            bucket["policy"]["Statement"].as_array().unwrap().len(),
            statements,
            "{name}"
        );
        assert_eq!(bucket["tags"]["ManagedBy"], json!("platformctl"));
    }
}
