//! `platformctl rollback`.

use std::collections::BTreeMap;

use ctl::diff::published_release;
use platform_tests::scene::{Pod, SECURE, Scene, write_pod};
use platform_tests::workspace::{Bucket, Operator, group};
use shared::bundle::{Origin, Release};
use shared::names::Place;

use super::{publish_count, run};

async fn current(operator: &Operator) -> (u64, Release) {
    let published = operator.published(&group(SECURE)).await.unwrap();
    let target = published.current().unwrap();
    let release = published_release(&operator.context, target).await.unwrap();
    (target.release().get(), release)
}

/// Digest and origin of each file but manifests, by path.
fn files(release: &Release, origin: Origin) -> BTreeMap<String, String> {
    let files = release.index().files.iter();
    let files =
        files.filter(|f| f.origin == origin && !matches!(f.path.place(), Place::Manifest(_)));
    files
        .map(|f| (f.path.to_string(), f.sha256.to_string()))
        .collect()
}

fn manifest(release: &Release, path: &str) -> String {
    let bytes = release.bytes(&path.parse().unwrap()).unwrap();
    String::from_utf8(bytes.expose().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_of_then_with_the_keyring_of_now_and_a_node_takes_it() {
    let scene = Scene::set().await.unwrap();
    let operator = &scene.operator;
    let mut node = scene.node(SECURE, "secure-1").unwrap();
    node.start().unwrap();
    scene
        .until_status(&node, "release 1 is there", |s| {
            s.release.map(|r| r.get()) == Some(1)
        })
        .await
        .unwrap();
    let (_, first) = current(operator).await;
    // New certificates, which must not be lost, and a count, which is to go.
    let renewed = run(
        operator,
        &["rotate", "leaves", "-e", "local", "kube-controller-manager"],
    )
    .await;
    assert_eq!(renewed.code, 0, "{renewed:?}");
    operator
        .write_secret(
            "secure/kube-apiserver/audit-policy.yaml",
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n  - level: Request\n",
        )
        .unwrap();
    publish_count(operator, 1_000, 20_000).await;
    let (number, second) = current(operator).await;
    assert_eq!(number, 2);
    assert_ne!(
        files(&first, Origin::Keyring),
        files(&second, Origin::Keyring)
    );

    // Nobody to ask: nothing happens.
    let said = run(operator, &["rollback", "-e", "local", SECURE]).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("--yes"), "{said:?}");
    assert!(
        said.out.contains("--terminated-pod-gc-threshold=1000"),
        "the difference is shown: {said:?}"
    );
    assert_eq!(current(operator).await.0, 2);

    let said = run(
        operator,
        &[
            "rollback", "-e", "local", SECURE, "--yes", "--output", "json",
        ],
    )
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    let told = said.json();
    assert_eq!(
        (&told["release"], &told["brings_back"], &told["replaces"]),
        (&3.into(), &1.into(), &2.into())
    );
    let (number, third) = current(operator).await;
    assert_eq!(number, 3);
    assert_eq!(
        files(&third, Origin::Keyring),
        files(&second, Origin::Keyring)
    );
    assert_eq!(
        files(&third, Origin::Template),
        files(&first, Origin::Template)
    );
    let manager = |release: &Release| manifest(release, "manifests/kube-controller-manager.yaml");
    assert!(manager(&third).contains("--terminated-pod-gc-threshold=1000"));
    assert_ne!(
        manager(&third),
        manager(&first),
        "its secrets' directory is another"
    );
    scene
        .until_status(&node, "release 3 is there", |s| {
            s.release.map(|r| r.get()) == Some(3) && s.error.is_none()
        })
        .await
        .unwrap();

    let said = run(operator, &["history", "-e", "local", SECURE]).await;
    assert!(said.out.contains("brings release 1 back"), "{said:?}");
    // A rollback of a rollback says where to.
    let said = run(operator, &["rollback", "-e", "local", SECURE, "--yes"]).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(
        said.err.contains("itself a rollback, to release 1"),
        "{said:?}"
    );
    let said = run(
        operator,
        &["rollback", "-e", "local", SECURE, "--to", "2", "--yes"],
    )
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    let (number, fourth) = current(operator).await;
    assert_eq!(number, 4);
    // The same bytes as release 2, since the keyring has not changed.
    assert_eq!(fourth.index().files, second.index().files);
    let said = run(
        operator,
        &["rollback", "-e", "local", SECURE, "--to", "2", "--yes"],
    )
    .await;
    assert!(
        said.out.contains("does not differ") && said.code == 0,
        "{said:?}"
    );
    assert_eq!(current(operator).await.0, 4);
    node.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_does_not_go_back_a_minor() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    let path = operator.path("environments/local.tfvars");
    let environment = std::fs::read_to_string(&path).unwrap();
    let with = |version: &str| {
        std::fs::write(
            &path,
            format!("{environment}etcd_version = \"{version}\"\n"),
        )
        .unwrap();
    };
    with("3.5.30-0");
    let said = run(&operator, &["publish", "-e", "local"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    with("3.6.8-0");
    let said = run(&operator, &["publish", "-e", "local"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let said = run(&operator, &["rollback", "-e", "local", SECURE, "--yes"]).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(
        said.err.contains("etcd 3.5") && said.err.contains("etcd 3.6"),
        "{said:?}"
    );
    with("3.6.9-0");
    let said = run(&operator, &["publish", "-e", "local"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let said = run(
        &operator,
        &["rollback", "-e", "local", SECURE, "--to", "2", "--yes"],
    )
    .await;
    assert_eq!(said.code, 0, "a patch is no wall: {said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_keyring_lost_is_named() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    let pod = Pod {
        file: "web",
        name: "web",
        image: "registry.k8s.io/pause:3.10",
        secrets: &[("config", "of the working directory")],
        host_port: None,
    };
    write_pod(&operator, SECURE, &pod).unwrap();
    operator.publish().await.unwrap();
    let token = operator.path("token");
    std::fs::write(&token, "hunter2").unwrap();
    let from = token.to_str().unwrap();
    let said = run(
        &operator,
        &["secrets", "put", "-e", "local", "secure/web/token", from],
    )
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    operator.publish().await.unwrap();
    let said = run(
        &operator,
        &["secrets", "rm", "-e", "local", "secure/web/token"],
    )
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    operator.publish().await.unwrap();
    let said = run(
        &operator,
        &["rollback", "-e", "local", SECURE, "--to", "2", "--yes"],
    )
    .await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(
        said.err.contains("secrets/web/token came from the keyring"),
        "{said:?}"
    );
    let said = run(
        &operator,
        &["rollback", "-e", "local", SECURE, "--to", "1", "--yes"],
    )
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    // A group must be said, a release must be there.
    for wrong in [
        &["--yes"][..],
        &[SECURE, "--to", "77"],
        &[SECURE, "--to", "4"],
        &["edge"],
        &["compute"],
    ] {
        let mut arguments = vec!["rollback", "-e", "local"];
        arguments.extend(wrong);
        let said = run(&operator, &arguments).await;
        assert_eq!(said.code, 2, "{wrong:?}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_working_directory_need_not_be_in_order() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    publish_count(&operator, 1_000, 20_000).await;
    operator
        .amend(
            "secure/kube-controller-manager.yaml.j2",
            "hostNetwork: true",
            "hostNetwerk: {{ nonsense }}",
        )
        .unwrap();
    let said = run(&operator, &["rollback", "-e", "local", SECURE, "--yes"]).await;
    assert_eq!(said.code, 0, "{said:?}");
}
