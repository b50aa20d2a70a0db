//! The main path on moto with real KMS calls, and the way in without us: boto3, KMS, `age` and `tar`.
//!
//! moto checks a ciphertext's encryption context as KMS does, and it honours If-Match and If-None-Match of a put; no
//! policy is evaluated.

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use ctl::context::{Context, Workspace};
use ctl::diff::published_release;
use ctl::publish::{Choices, Publication, PublishRace, STEPS, plan, read_published};
use ctl::{keyring, output};
use platform_tests::moto::{BUCKET, Moto, fake_agent, with_credentials};
use platform_tests::tools;
use platform_tests::workspace::{group, platformctl, refresh_as_node};
use shared::store::{PutCondition, StoreErrorKind};
use shared::wrap::{KeyWrap as _, KmsWrap, WrapContext, WrapError};
use tempfile::TempDir;

/// Reads a group's bundle and its wrapped identity with nothing of ours, and has KMS unwrap it.
const BREAK_GLASS: &str = r#"
import base64, json, os, sys
import boto3
endpoint, bucket, group, out = sys.argv[1:5]
s3 = boto3.client("s3", endpoint_url=endpoint)
kms = boto3.client("kms", endpoint_url=endpoint)
read = lambda key: s3.get_object(Bucket=bucket, Key=key)["Body"].read()
prefix = f"groups/{group}/metadata/"
n = json.loads(read(prefix + "timestamp.json"))["signed"]["version"]
targets = json.loads(read(f"{prefix}{n}.targets.json"))["signed"]["targets"]
name, target = max(targets.items(), key=lambda t: t[1]["custom"]["bundle"]["release"])
facts = target["custom"]["bundle"]
context = {"environment": facts["environment"], "group": facts["group"], "release": str(facts["release"])}
blob = base64.b64decode(facts["identity"]["ciphertext"])
plain = kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)["Plaintext"]
for file, data in (("identity", plain), ("bundle", read(f"groups/{group}/targets/{target['hashes']['sha256']}.{name}"))):
    with open(os.path.join(out, file), "wb") as f:
        f.write(data)
print(json.dumps(sorted(o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"])))
"#;

async fn open(moto: &Moto, directory: &Path) -> Context {
    let workspace = Workspace::open(directory, "dev").unwrap();
    moto.context(workspace).await.unwrap()
}

async fn publish(context: &Context) -> anyhow::Result<Vec<Publication>> {
    let groups = &context.workspace.groups;
    let plans = plan(context, groups, Choices::default()).await?;
    let mut done = Vec::new();
    for planned in plans.groups {
        let bar = output::progress(STEPS, planned.group().as_str());
        done.push(planned.publish(context, &plans.keyring, &bar).await?);
    }
    Ok(done)
}

#[tokio::test]
async fn kms_binds_each_release_to_its_environment_group_and_number() {
    let Some(moto) = Moto::start().await.unwrap() else {
        return;
    };
    moto.create_bucket().await.unwrap();
    let key = moto.create_key().await.unwrap();
    let directory = moto.lay_out(&key).unwrap();
    let context = open(&moto, directory.path()).await;
    let done = publish(&context).await.unwrap();
    let first =
        |p: &Publication| matches!(p, Publication::Released { release, .. } if release.get() == 1);
    assert!(done.len() == 2 && done.iter().all(first), "{done:?}");
    let done = publish(&context).await.unwrap();
    let none = |p: &Publication| matches!(p, Publication::Unchanged { .. });
    assert!(done.iter().all(none), "{done:?}");

    let keyring = keyring::read(&context).await.unwrap().unwrap();
    let secure = group("secure");
    let node = TempDir::new().unwrap();
    let root = &keyring.group(&secure).unwrap().roots[0];
    let trusted = refresh_as_node(&context, &secure, root, node.path())
        .await
        .unwrap();
    let target = trusted.current().unwrap();
    published_release(&context, target).await.unwrap();

    let wrapped = &target.custom.identity;
    assert_eq!(wrapped.key, key);
    let right = WrapContext {
        environment: "dev".parse().unwrap(),
        group: "secure".to_owned(),
        release: 1,
    };
    context.wrap.unwrap(wrapped, &right).await.unwrap();
    for wrong in [
        WrapContext {
            group: "compute".to_owned(),
            ..right.clone()
        },
        WrapContext {
            release: 2,
            ..right.clone()
        },
        WrapContext {
            environment: "prod".parse().unwrap(),
            ..right.clone()
        },
    ] {
        let error = context.wrap.unwrap(wrapped, &wrong).await.unwrap_err();
        // Refused by KMS itself, and not as something that may pass.
        assert!(
            matches!(
                error,
                WrapError::Kms {
                    operation: "Decrypt",
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(!error.is_transient(), "{error:?}");
    }

    // What names another key is not even asked about, and KMS holds what was asked to the pinned key.
    let other = KmsWrap::new(moto.kms().await, moto.create_key().await.unwrap());
    let error = other.unwrap(wrapped, &right).await.unwrap_err();
    assert!(matches!(error, WrapError::Key { .. }), "{error:?}");
    let foreign = other
        .wrap(&shared::bundle::new_identity(), &right)
        .await
        .unwrap();
    let mut relabelled = foreign;
    relabelled.key = key;
    let error = context.wrap.unwrap(&relabelled, &right).await.unwrap_err();
    assert!(matches!(error, WrapError::Kms { .. }), "{error:?}");
}

#[tokio::test]
async fn conditional_writes_hold_and_a_race_has_one_winner() {
    let Some(moto) = Moto::start().await.unwrap() else {
        return;
    };
    moto.create_bucket().await.unwrap();
    let key = moto.create_key().await.unwrap();
    let directory = moto.lay_out(&key).unwrap();
    let context = open(&moto, directory.path()).await;
    let put = |text: &'static str, on| context.store.put("probe", Bytes::from(text), on);
    let tag = put("one", PutCondition::Absent).await.unwrap();
    let again = put("two", PutCondition::Absent).await.unwrap_err();
    assert_eq!(again.kind, StoreErrorKind::Conflict);
    put("three", PutCondition::Matches(tag.clone()))
        .await
        .unwrap();
    let stale = put("four", PutCondition::Matches(tag)).await.unwrap_err();
    assert_eq!(stale.kind, StoreErrorKind::Conflict);

    publish(&context).await.unwrap();
    let template = directory
        .path()
        .join("manifests/secure/kube-controller-manager.yaml.j2");
    let text = fs::read_to_string(&template).unwrap();
    let amended = text.replace(
        "--terminated-pod-gc-threshold=1000",
        "--terminated-pod-gc-threshold=20000",
    );
    assert_ne!(text, amended);
    fs::write(&template, amended).unwrap();
    let groups = [group("secure")];
    let plans = || plan(&context, &groups, Choices::default());
    let (mut first, mut second) = (plans().await.unwrap(), plans().await.unwrap());
    let (a, b) = (first.groups.remove(0), second.groups.remove(0));
    let bar = output::progress(STEPS, "secure");
    a.publish(&context, &first.keyring, &bar).await.unwrap();
    let lost = b
        .publish(&context, &second.keyring, &bar)
        .await
        .unwrap_err();
    assert!(lost.is::<PublishRace>(), "{lost:?}");
    let published = read_published(&context, &first.keyring, &groups[0])
        .await
        .unwrap();
    assert_eq!(published.current().unwrap().release().get(), 2);
}

#[tokio::test]
async fn the_binary_publishes_and_anybody_with_kms_can_open_it_without_us() {
    let Some(moto) = Moto::start().await.unwrap() else {
        return;
    };
    moto.create_bucket().await.unwrap();
    let key = moto.create_key().await.unwrap();
    let directory = moto.lay_out(&key).unwrap();
    for (verb, code) in [("publish", 0), ("diff", 0), ("publish", 0)] {
        let mut command = platformctl(directory.path());
        with_credentials(command.args([verb, "-e", "dev"]), directory.path());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{verb}: {output:?}");
    }

    let (Some(python), Some(age), Some(tar), Some(_)) = (
        tools::find("python3"),
        tools::find("age"),
        tools::find("tar"),
        tools::find("zstd"),
    ) else {
        return;
    };
    let out = TempDir::new().unwrap();
    let endpoint = moto.endpoint();
    let mut command = Command::new(python);
    command
        .args(["-c", BREAK_GLASS, &endpoint, BUCKET, "secure"])
        .arg(out.path());
    with_credentials(&mut command, directory.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let keys: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(keys.len(), 2 * 5 + 1, "{keys:?}");
    assert!(
        keys.iter().any(|k| k == "operator/keyring.json"),
        "{keys:?}"
    );

    let opened = Command::new(age)
        .args(["-d", "-i", "identity", "-o", "release.tar.zst", "bundle"])
        .current_dir(out.path())
        .output()
        .unwrap();
    assert!(opened.status.success(), "{opened:?}");
    let listed = Command::new(tar)
        .args(["--zstd", "-tf", "release.tar.zst"])
        .current_dir(out.path())
        .output()
        .unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let names = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(names.lines().next(), Some("index.json"), "{names}");
    for name in [
        "manifests/etcd.yaml",
        "manifests/kube-apiserver.yaml",
        "agent/group.key",
    ] {
        assert!(names.lines().any(|n| n == name), "{name} is not in {names}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_machines_boot_with_is_built_and_what_they_install_is_there() {
    let Some(moto) = Moto::start().await.unwrap() else {
        return;
    };
    moto.create_bucket().await.unwrap();
    let directory = moto.lay_out(&moto.create_key().await.unwrap()).unwrap();
    let agent = directory.path().join("an-agent");
    fs::write(&agent, fake_agent("as it goes onto nodes")).unwrap();
    let agent = agent.to_str().unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = platformctl(directory.path());
        with_credentials(&mut command, directory.path());
        command.env_remove("PLATFORM_AGENT").args(arguments);
        // moto runs on its own, but what reads its log runs here.
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code().unwrap(), said)
    };
    let build = ["build", "-e", "dev", "--agent", agent];
    let (code, said) = run(&build).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("there is no keyring yet"), "{said}");
    let (code, said) = run(&["build", "-e", "dev", "--manifests-only"]).await;
    assert_eq!(code, 0, "{said}");

    let publish = ["publish", "-e", "dev", "--agent", agent];
    let (code, said) = run(&publish).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("into the bucket, for new machines"), "{said}");
    let (code, said) = run(&publish).await;
    assert!(code == 0 && !said.contains("for new machines"), "{said}");
    let (code, said) = run(&["publish", "-e", "dev", "--agent", "/nowhere"]).await;
    assert!(
        code == 2 && said.contains("there is no platform-agent at /nowhere"),
        "{said}"
    );

    let (code, said) = run(&build).await;
    assert_eq!(code, 0, "{said}");
    let context = open(&moto, directory.path()).await;
    let keyring = keyring::read(&context).await.unwrap().unwrap();
    let user_data = |name: &str| {
        let path = format!(".platform/dev/build/{name}/user-data");
        fs::read_to_string(directory.path().join(path)).unwrap()
    };
    let first: Vec<String> = ["secure", "compute"].map(user_data).into();
    for (name, text) in ["secure", "compute"].iter().zip(&first) {
        let config = ctl::userdata::cloud_config::parse(text).unwrap();
        let root = &config
            .file("/etc/platform-agent/root.json")
            .unwrap()
            .content;
        let roots = &keyring.group(&group(name)).unwrap().roots;
        assert_eq!(root, roots[0].as_bytes());
        let boot = &config.file("/etc/platform-agent/boot.env").unwrap().content;
        let boot = String::from_utf8_lossy(boot).into_owned();
        let settings: Vec<(&str, &str)> =
            boot.lines().map(|l| l.split_once('=').unwrap()).collect();
        let key = format!("bootstrap/{}.platform-agent", settings[0].1);
        let there = context.store.list("bootstrap/").await.unwrap();
        assert_eq!(there, [key]);
        assert_eq!(
            settings[2],
            ("S3_URL", &*format!("{}/{BUCKET}", moto.endpoint()))
        );
    }

    // A bad template leaves what was built before, and an unknown agent too.
    fs::create_dir(directory.path().join("cloudinit")).unwrap();
    let own = directory.path().join("cloudinit/user-data.j2");
    fs::write(&own, "#cloud-config\nwrite_files: {{ writen_files }}\n").unwrap();
    let (code, said) = run(&build).await;
    assert!(
        code == 2 && said.contains("user-data.j2:2: `writen_files`"),
        "{said}"
    );
    fs::remove_file(&own).unwrap();
    let (code, said) = run(&["build", "-e", "dev", "--agent", "/nowhere"]).await;
    assert!(
        code == 2 && said.contains("there is no platform-agent at /nowhere"),
        "{said}"
    );

    // Without the bucket, the roots that were seen before.
    drop(moto);
    let (code, said) = run(&build).await;
    assert!(
        code == 0 && said.contains("the keyring could not be read"),
        "{said}"
    );
    assert_eq!(["secure", "compute"].map(user_data).as_slice(), first);
}
