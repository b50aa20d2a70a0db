//! `platformctl gc`, and the collection after a publish.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use http::Method;
use platform_tests::faulty_proxy::{Fault, FaultyProxy, ProxyRequest};
use platform_tests::workspace::{Bucket, Operator, carry_out};
use shared::store::keys;

use super::{publish_count, run};

/// Makes every object two days old.
fn age(bucket: &Bucket) {
    let then = SystemTime::now() - Duration::from_secs(2 * 86_400);
    for key in bucket.keys() {
        let file = std::fs::File::options()
            .write(true)
            .open(bucket.object(&key))
            .unwrap();
        file.set_modified(then).unwrap();
    }
}

async fn releases(operator: &Operator, count: u64) {
    operator.publish().await.unwrap();
    for number in 1..count {
        publish_count(operator, 1_000 * number, 1_000 * (number + 1)).await;
    }
}

fn bundles(bucket: &Bucket) -> BTreeSet<String> {
    let keys = bucket.keys().into_iter();
    let secure = keys.filter(|k| k.starts_with("groups/secure/targets/"));
    secure
        .filter_map(|k| {
            k.rsplit_once('/')?
                .1
                .split_once('.')
                .map(|(_, name)| name.to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_releases_go_and_what_is_needed_stays() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    releases(&operator, 6).await;
    let all = bucket.keys();
    let gc = ["gc", "-e", "local", "secure", "--keep", "3"];
    // All of it is young.
    let said = run(&operator, &gc).await;
    assert_eq!(
        (said.code, said.out.as_str()),
        (0, "secure: nothing to delete\n"),
        "{said:?}"
    );
    age(&bucket);
    let mut dry = gc.to_vec();
    dry.push("--dry-run");
    let said = run(&operator, &dry).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("would delete"), "{said:?}");
    assert_eq!(bucket.keys(), all, "a dry run writes nothing");
    let said = run(&operator, &gc).await;
    assert_eq!(said.code, 0, "{said:?}");
    // Release 1 was good when each of the others was published: no node has run any. It is needed.
    let kept = [
        "release-1.bundle",
        "release-4.bundle",
        "release-5.bundle",
        "release-6.bundle",
    ];
    assert_eq!(bundles(&bucket), kept.map(str::to_owned).into());
    assert!(said.out.contains("deleted 6 objects, "), "{said:?}");
    assert!(said.out.contains("release-2.bundle ("), "{said:?}");
    assert!(bucket.object("groups/secure/metadata/1.root.json").exists());
    assert!(
        !bucket
            .object("groups/secure/metadata/3.targets.json")
            .exists()
    );

    // Everything else still works.
    let said = run(&operator, &["history", "-e", "local", "secure"]).await;
    assert!(
        said.out.contains("release 4 at") && !said.out.contains("release 3 at"),
        "{said:?}"
    );
    let said = run(
        &operator,
        &["rollback", "-e", "local", "secure", "--to", "2", "--yes"],
    )
    .await;
    assert_eq!(said.code, 2, "{said:?}");
    let said = run(
        &operator,
        &["rollback", "-e", "local", "secure", "--to", "4", "--yes"],
    )
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    publish_count(&operator, 6_000, 7_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_cannot_be_whole_deletes_nothing() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    releases(&operator, 4).await;
    age(&bucket);
    let snapshot = bucket.object("groups/secure/metadata/4.snapshot.json");
    let kept = std::fs::read(&snapshot).unwrap();
    std::fs::remove_file(&snapshot).unwrap();
    let all = bucket.keys();
    let gc = ["gc", "-e", "local", "secure", "--keep", "2"];
    let said = run(&operator, &gc).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.err
            .contains("lacks groups/secure/metadata/4.snapshot.json"),
        "{said:?}"
    );
    assert_eq!(bucket.keys(), all);
    std::fs::write(&snapshot, kept).unwrap();

    // A report that says nothing may be of a node that needs anything.
    let status = bucket.object("nodes/secure/i-1.json");
    std::fs::create_dir_all(status.parent().unwrap()).unwrap();
    std::fs::write(&status, r#"{"body":"{}","hmac":"00"}"#).unwrap();
    let said = run(&operator, &gc).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("which release i-1 needs"), "{said:?}");
    std::fs::remove_file(&status).unwrap();
    let said = run(&operator, &gc).await;
    assert_eq!(said.code, 0, "{said:?}");
    for wrong in [&["--keep", "1"][..], &["--older-than", "soon"]] {
        let mut arguments = vec!["gc", "-e", "local"];
        arguments.extend(wrong);
        assert_eq!(run(&operator, &arguments).await.code, 2, "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_collections_and_a_publish_do_not_cross() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    releases(&operator, 4).await;
    age(&bucket);
    // Somebody else's, which goes on for a while.
    let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
    let held = format!(r#"{{"format":1,"by":"bob","until":"{until}","ended":false,"nonce":1}}"#);
    let path = bucket.object(keys::COLLECTION);
    std::fs::write(&path, held).unwrap();
    let all = bundles(&bucket);
    let said = run(&operator, &["gc", "-e", "local", "secure", "--keep", "2"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("bob collects at this moment"), "{said:?}");
    assert_eq!(bundles(&bucket), all);
    // A publish waits for its end.
    operator
        .amend(
            "secure/kube-controller-manager.yaml.j2",
            "--terminated-pod-gc-threshold=4000",
            "--terminated-pod-gc-threshold=5000",
        )
        .unwrap();
    let plans = operator.plan().await.unwrap();
    carry_out(&operator, plans).await.unwrap();
    assert!(jiff::Timestamp::now() > until);
    // Whoever has crashed holds nothing up.
    age(&bucket);
    let said = run(&operator, &["gc", "-e", "local", "secure", "--keep", "2"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("release-3.bundle"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_collects_once_enough_has_gathered() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    // As many as are kept, and the slack.
    releases(&operator, 30).await;
    age(&bucket);
    let amend = |from: &str, to: &str| {
        operator
            .amend("secure/kube-controller-manager.yaml.j2", from, to)
            .unwrap()
    };
    amend(
        "--terminated-pod-gc-threshold=30000",
        "--terminated-pod-gc-threshold=31000",
    );
    let said = run(&operator, &["publish", "-e", "local", "secure", "--no-gc"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(bundles(&bucket).len(), 31);
    amend(
        "--terminated-pod-gc-threshold=31000",
        "--terminated-pod-gc-threshold=32000",
    );
    let said = run(&operator, &["publish", "-e", "local", "secure"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("secure: deleted "), "{said:?}");
    // The newest 20, and release 1, which is still the good one.
    assert_eq!(bundles(&bucket).len(), 21, "{said:?}");
    let said = run(&operator, &["publish", "-e", "local", "secure"]).await;
    assert!(
        said.out.contains("nothing differs") && !said.err.contains("deleted"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_collected_while_its_release_is_published_is_put_back() {
    let bucket = Bucket::start().await.unwrap();
    let proxy = FaultyProxy::start(bucket.store().addr()).await.unwrap();
    let operator = Operator::new(&proxy.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let file = operator.path("tool-v1");
    std::fs::write(&file, "a tool").unwrap();
    let file = file.to_str().unwrap();
    let said = run(
        &operator,
        &[
            "artifacts",
            "add",
            "-e",
            "local",
            "tool",
            file,
            "--version",
            "v1",
        ],
    )
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    let places = "artifacts:\n  - name: tool\n    path: /opt/bin/tool\n    mode: \"0755\"\n";
    std::fs::write(operator.path("manifests/secure/node.yaml"), places).unwrap();
    let digest = shared::digest::Sha256Digest::of(b"a tool");
    let tool = keys::target(&"secure".parse().unwrap(), &digest, "tool-v1");

    // The publish puts it into the bucket before it goes on; a collection goes by before the last write.
    let (object, collection) = (bucket.object(&tool), bucket.object(keys::COLLECTION));
    let gone = object.clone();
    let collects = move |request: &ProxyRequest| {
        let takes_number = request.key.starts_with("groups/secure/metadata/")
            && request.key.ends_with(".targets.json");
        if request.method == Method::PUT && takes_number {
            std::fs::remove_file(&gone).unwrap();
            let ended =
                r#"{"format":1,"by":"bob","until":"2026-01-01T00:00:00Z","ended":true,"nonce":7}"#;
            std::fs::write(&collection, ended).unwrap();
        }
        false
    };
    proxy.set_where(collects, Fault::Reset);
    let said = run(&operator, &["publish", "-e", "local", "secure"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(std::fs::read(&object).unwrap(), b"a tool");
}
