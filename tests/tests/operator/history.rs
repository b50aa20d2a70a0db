//! `platformctl history` and `diff N M`.

use platform_tests::workspace::{Bucket, Operator, group};
use shared::store::keys;

use super::{publish_count, run};

const POLICY: &str = "secure/kube-apiserver/audit-policy.yaml";

async fn three_releases() -> (Bucket, Operator) {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    publish_count(&operator, 1_000, 20_000).await;
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n  - level: RequestResponse\n";
    operator.write_secret(POLICY, policy).unwrap();
    operator.publish().await.unwrap();
    (bucket, operator)
}

#[tokio::test(flavor = "multi_thread")]
async fn releases_are_told_with_what_they_changed_and_no_secret() {
    let (bucket, operator) = three_releases().await;
    let said = run(&operator, &["history", "-e", "local"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let at = |text: &str| {
        let found = said.out.find(text);
        found.unwrap_or_else(|| panic!("{text:?} is not in {}", said.out))
    };
    let three = at("release 3 at ");
    let two = at("release 2 at ");
    let one = at("release 1 at ");
    assert!(three < two && two < one, "{}", said.out);
    let policy = at("secrets/kube-apiserver/audit-policy.yaml");
    assert!(three < policy && policy < two, "{}", said.out);
    let manager = at("changed manifests/kube-controller-manager.yaml");
    assert!(two < manager && manager < one, "{}", said.out);
    assert!(said.out.contains("the first: "), "{}", said.out);
    assert!(!said.out.contains("RequestResponse"), "{}", said.out);
    // The compute group had nothing new.
    let compute = said.out.split("compute:").nth(1).unwrap();
    assert!(!compute.contains("release 2"), "{compute}");

    // What was once compared is known: the second time no bundle is fetched.
    let read = |since| bucket.requests().since(&since).of("GetObject");
    let before = bucket.requests();
    let again = run(&operator, &["history", "-e", "local"]).await;
    assert_eq!(again.out, said.out);
    let with_memory = read(before);
    let before = bucket.requests();
    let said = run(&operator, &["history", "-e", "local", "--no-changes"]).await;
    assert!(
        !said.out.contains("kube-controller-manager.yaml"),
        "{}",
        said.out
    );
    assert_eq!(read(before), with_memory);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_limits_and_the_keys_of_their_time() {
    let (_bucket, operator) = three_releases().await;
    let rotated = run(&operator, &["rotate", "signing", "-e", "local", "secure"]).await;
    assert_eq!(rotated.code, 0, "{rotated:?}");
    publish_count(&operator, 20_000, 30_000).await;
    let said = run(
        &operator,
        &[
            "history", "-e", "local", "secure", "--limit", "2", "--output", "json",
        ],
    )
    .await;
    let all = said.json();
    let releases = all[0]["releases"].as_array().unwrap();
    let numbers: Vec<u64> = releases
        .iter()
        .map(|r| r["release"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers.len(), 2, "{all}");
    assert_eq!(
        (numbers[1], releases[0]["fate"].as_str()),
        (3, Some("current"))
    );
    assert_eq!(releases[0]["replaced"], 3);
    assert_eq!(releases[1]["fate"], "replaced", "no node was ever there");
    assert_eq!(all[0]["more"], true);
    assert_eq!(all[0]["not_believed"].as_array().unwrap().len(), 0, "{all}");
    let whole = run(
        &operator,
        &[
            "history", "-e", "local", "secure", "--all", "--output", "json",
        ],
    )
    .await
    .json();
    assert_eq!(whole[0]["releases"].as_array().unwrap().len(), 4, "{whole}");
    assert_eq!(whole[0]["more"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_wrote_is_not_believed_and_the_rest_still_told() {
    let (bucket, operator) = three_releases().await;
    let secure = group("secure");
    let document = format!("{}2.targets.json", keys::metadata_prefix(&secure));
    let path = bucket.object(&document);
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = text.replacen("published_by\": \"", "published_by\": \"x", 1);
    assert!(changed != text);
    std::fs::write(&path, changed).unwrap();
    let said = run(&operator, &["history", "-e", "local", "secure"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out
            .contains("not believed: groups/secure/metadata/2.targets.json"),
        "{said:?}"
    );
    assert!(!said.out.contains("release 2 at"), "{said:?}");
    assert!(said.out.contains("release 1 at"), "{said:?}");
    // A genuine document under another number, too.
    std::fs::copy(
        bucket.object(&format!("{}1.targets.json", keys::metadata_prefix(&secure))),
        &path,
    )
    .unwrap();
    let said = run(&operator, &["diff", "-e", "local", "secure", "2", "3"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("signed, but as version 1"), "{said:?}");

    // A bundle that is not the signed one.
    let bundle = bucket
        .keys()
        .into_iter()
        .find(|key| key.starts_with("groups/secure/") && key.ends_with("release-1.bundle"))
        .unwrap();
    std::fs::write(bucket.object(&bundle), b"other bytes").unwrap();
    // Who has compared it before knows; a colleague does not.
    let colleague = operator.colleague(&bucket.endpoint()).await.unwrap();
    let said = run(&colleague, &["history", "-e", "local", "secure"]).await;
    let unknown = said.out.matches("what it changed is not known").count();
    assert_eq!(
        unknown, 2,
        "of 1 for its bundle, of 3 for what it replaced: {said:?}"
    );
    assert!(said.out.contains("it replaced release 2"), "{said:?}");
    assert!(said.out.contains("release 3 at"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_published_releases_are_compared() {
    let (_bucket, operator) = three_releases().await;
    let said = run(&operator, &["diff", "-e", "local", "secure", "1", "2"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(
        said.out.contains("secure: release 2 against release 1"),
        "{said:?}"
    );
    assert!(
        said.out.contains("-") && said.out.contains("--terminated-pod-gc-threshold=20000"),
        "{said:?}"
    );
    // Backwards, all groups: compute has no release 3.
    let said = run(
        &operator,
        &["diff", "-e", "local", "3", "1", "--output", "json"],
    )
    .await;
    assert_eq!(said.code, 3, "{said:?}");
    let all = said.json();
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    assert_eq!(all[0]["against"], 3);
    let files = all[0]["files"].as_array().unwrap();
    let policy = files
        .iter()
        .find(|f| f["path"] == "secrets/kube-apiserver/audit-policy.yaml")
        .unwrap();
    assert!(policy.get("text").is_none(), "{policy}");
    assert!(
        said.err.contains("group compute has no release 3"),
        "{said:?}"
    );

    let said = run(&operator, &["diff", "-e", "local", "secure", "2", "2"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    for wrong in [
        &["compute", "1", "2"][..],
        &["2"],
        &["1", "99"],
        &["0", "1"],
    ] {
        let mut arguments = vec!["diff", "-e", "local"];
        arguments.extend(wrong);
        let said = run(&operator, &arguments).await;
        assert_eq!(said.code, 2, "{wrong:?}: {said:?}");
    }
}
