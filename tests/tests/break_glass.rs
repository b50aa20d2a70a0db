//! The embedded default without us: boto3 reads its store, and two `age` commands and `tar` open a release of it.

use std::path::Path;
use std::process::{Command, Output};

use platform_tests::tools;
use platform_tests::workspace::{BUCKET, Bucket, Operator};
use tempfile::TempDir;

/// Lists the bucket, and writes a group's wrapped identity and its bundle into files.
const FETCH: &str = r#"
import base64, json, os, sys
import boto3
endpoint, bucket, group, out = sys.argv[1:5]
s3 = boto3.client("s3", endpoint_url=endpoint)
read = lambda key: s3.get_object(Bucket=bucket, Key=key)["Body"].read()
prefix = f"groups/{group}/metadata/"
n = json.loads(read(prefix + "timestamp.json"))["signed"]["version"]
targets = json.loads(read(f"{prefix}{n}.targets.json"))["signed"]["targets"]
name, target = max(targets.items(), key=lambda t: t[1]["custom"]["bundle"]["release"])
wrapped = base64.b64decode(target["custom"]["bundle"]["identity"]["ciphertext"])
bundle = read(f"groups/{group}/targets/{target['hashes']['sha256']}.{name}")
for file, data in (("wrapped", wrapped), ("bundle", bundle)):
    with open(os.path.join(out, file), "wb") as f:
        f.write(data)
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
print(json.dumps([o["Key"] for page in pages for o in page["Contents"]]))
"#;

/// The store runs in this process, so the child must not be waited for on its threads.
async fn run(mut command: Command) -> Output {
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn command(program: &Path, arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_the_embedded_store_is_opened_with_age_and_tar() {
    let (Some(python), Some(age), Some(tar), Some(_)) = (
        tools::python_with("boto3"),
        tools::find("age"),
        tools::find("tar"),
        tools::find("zstd"),
    ) else {
        return;
    };
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let key = operator.path(".platform/local/wrap.key");
    let credentials =
        std::fs::read_to_string(operator.path(".platform/local/credentials")).unwrap();
    let value = |name: &str| {
        let line = credentials.lines().find(|l| l.starts_with(name)).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    };
    for (group, manifest) in [
        ("secure", "manifests/kube-apiserver.yaml"),
        ("compute", "manifests/kube-proxy.yaml"),
    ] {
        let out = TempDir::new().unwrap();
        let endpoint = bucket.endpoint();
        let to = out.path().to_str().unwrap();
        let mut fetch = command(
            &python,
            &["-c", FETCH, &endpoint, BUCKET, group, to],
            out.path(),
        );
        fetch
            .env("AWS_ACCESS_KEY_ID", value("access_key"))
            .env("AWS_SECRET_ACCESS_KEY", value("secret_key"))
            .env("AWS_DEFAULT_REGION", "us-east-1");
        let fetched = run(fetch).await;
        let mut keys: Vec<String> = serde_json::from_slice(&fetched.stdout).unwrap();
        keys.sort();
        assert_eq!(keys, bucket.keys(), "boto3 lists what is there");

        let unwrap = [
            "-d",
            "-i",
            key.to_str().unwrap(),
            "-o",
            "identity",
            "wrapped",
        ];
        run(command(&age, &unwrap, out.path())).await;
        let open = ["-d", "-i", "identity", "-o", "release.tar.zst", "bundle"];
        run(command(&age, &open, out.path())).await;
        let list = ["--zstd", "-tf", "release.tar.zst"];
        let listed = run(command(&tar, &list, out.path())).await;
        let names = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(names.lines().next(), Some("index.json"), "{names}");
        assert!(names.lines().any(|n| n == manifest), "{group}: {names}");
    }
}
