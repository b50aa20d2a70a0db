//! The real binary: what it prints, and its exit codes.

use std::process::Output;

use ctl::render::secret_dirs;
use http::Method;
use platform_tests::faulty_proxy::{Fault, FaultyProxy};
use platform_tests::workspace::{Bucket, Operator, group};
use shared::digest::Sha256Digest;
use shared::store::keys;

/// The store runs in this process, so the child must not be waited for on its threads.
async fn run(operator: &Operator, arguments: &[&str]) -> (i32, String, String) {
    let mut command = operator.platformctl();
    command.args(arguments).env("USER", "tester");
    let output: Output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().expect("an exit code");
    (code, text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_say_what_happened() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    let e = ["-e", "local"];
    let (code, _, said) = run(&operator, &["status", e[0], e[1]]).await;
    assert_eq!(code, 2, "nothing is published yet: {said}");
    let (code, shown, _) = run(&operator, &["diff", e[0], e[1]]).await;
    assert_eq!(code, 3);
    assert!(
        shown.contains("secure: nothing is published yet"),
        "{shown}"
    );
    let (code, shown, said) = run(&operator, &["publish", e[0], e[1]]).await;
    assert_eq!(code, 0, "{said}");
    assert!(shown.contains("secure: published release 1 ("), "{shown}");
    assert!(shown.contains("compute: published release 1 ("), "{shown}");
    let (code, shown, said) = run(&operator, &["publish", e[0], e[1], "secure"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        shown,
        "secure: nothing differs from release 1; nothing was published\n"
    );
    let (code, _, said) = run(&operator, &["diff", e[0], e[1]]).await;
    assert_eq!(code, 0, "{said}");
    let (code, shown, said) = run(&operator, &["refresh", e[0], e[1], "--force", "compute"]).await;
    assert_eq!(code, 0, "{said}");
    assert!(shown.contains("renewed"), "{shown}");
    let (code, shown, said) = run(&operator, &["status", e[0], e[1]]).await;
    assert_eq!(code, 3, "no node is there: {said}");
    assert!(shown.contains("published release 1"), "{shown}");
    assert!(
        shown.contains("0 of 3 nodes") && shown.contains("0 of 2 nodes"),
        "{shown}"
    );
    assert_eq!(bucket.requests().server_errors, 0);

    let (code, _, said) = run(&operator, &["publish", e[0], e[1], "edge", "secure", "far"]).await;
    assert_eq!(code, 2);
    assert!(
        said.contains("edge, far") && said.contains("secure, compute"),
        "{said}"
    );
    let (code, _, said) = run(&operator, &["publish", "-e", "elsewhere"]).await;
    assert_eq!(code, 2, "{said}");
    let (code, _, said) = run(&operator, &["publish"]).await;
    assert_eq!(code, 2, "{said}");
    operator
        .amend(
            "compute/kube-proxy.yaml.j2",
            "hostNetwork: true",
            "hostNetwerk: true",
        )
        .unwrap();
    let (code, _, said) = run(&operator, &["publish", e[0], e[1]]).await;
    assert_eq!(code, 2);
    assert!(said.contains("hostNetwerk"), "{said}");
    operator
        .amend(
            "compute/kube-proxy.yaml.j2",
            "hostNetwerk: true",
            "hostNetwork: true",
        )
        .unwrap();

    operator.context.store.delete(keys::KEYRING).await.unwrap();
    let (code, _, said) = run(&operator, &["publish", e[0], e[1]]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("the keyring is gone"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_shows_manifests_and_never_a_secret() {
    const POLICY: &str = "secure/kube-apiserver/audit-policy.yaml";
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let secure = group("secure");
    let dirs = async || secret_dirs(&operator.render_input(&secure).await.unwrap());
    let old = dirs().await;
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n  - level: RequestResponse\n";
    operator.write_secret(POLICY, policy).unwrap();
    operator
        .amend(
            "secure/kube-controller-manager.yaml.j2",
            "--terminated-pod-gc-threshold=1000",
            "--terminated-pod-gc-threshold=20000",
        )
        .unwrap();
    let new = dirs().await;

    let (code, shown, said) = run(&operator, &["diff", "-e", "local"]).await;
    assert_eq!(code, 3, "{said}");
    assert!(
        shown.contains("changed manifests/kube-controller-manager.yaml"),
        "{shown}"
    );
    assert!(
        shown.contains("--terminated-pod-gc-threshold=20000"),
        "{shown}"
    );
    assert!(
        shown.contains("secrets/kube-apiserver/audit-policy.yaml"),
        "{shown}"
    );
    assert!(
        shown.contains("changed manifests/kube-apiserver.yaml"),
        "{shown}"
    );
    assert!(
        shown.contains("compute: nothing differs from release 1"),
        "{shown}"
    );
    let mut never = vec![
        "RequestResponse".to_owned(),
        Sha256Digest::of(policy.as_bytes()).to_string(),
    ];
    never.extend(old.into_values());
    never.extend(new.into_values());
    for hidden in never {
        assert!(
            !shown.contains(&hidden) && !said.contains(&hidden),
            "{hidden}: {shown}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_fails_in_the_middle_says_what_it_has_published() {
    let bucket = Bucket::start().await.unwrap();
    let proxy = FaultyProxy::start(bucket.store().addr()).await.unwrap();
    let operator = Operator::new(&proxy.endpoint()).await.unwrap();
    proxy.set_where(
        |r| r.method == Method::PUT && r.key == "groups/compute/metadata/timestamp.json",
        Fault::Status(403, "AccessDenied"),
    );
    let json = ["publish", "-e", "local", "--output", "json"];
    let (code, shown, said) = run(&operator, &json).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("group compute was not published"), "{said}");
    let told: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let secure = serde_json::json!([{"group": "secure", "release": 1, "what": "released"}]);
    assert_eq!(told["groups"], secure, "{told}");
    let failed = told["failed"].as_str().unwrap();
    assert!(failed.contains("group compute was not published"), "{told}");

    // Nothing published, nothing said to programs.
    proxy.clear();
    proxy.set("operator/keyring.json", Fault::Status(403, "AccessDenied"));
    let (code, shown, said) = run(&operator, &json).await;
    assert_eq!((code, shown.as_str()), (1, ""), "{said}");
}
