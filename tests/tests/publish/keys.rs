//! The keyring and the repository that it belongs to: nothing lost in a race, nothing old or foreign taken.

use bytes::Bytes;
use ctl::keyring::{self, KeyringGone, KeyringRolledBack};
use ctl::publish::RepositoryError;
use platform_tests::workspace::{Bucket, Operator, group};
use shared::documents::{KeyringError, seal_keyring};
use shared::names::GroupName;
use shared::store::{PutCondition, keys};

use super::{released, told, unchanged};

/// Puts the keyring's content into the bucket as `version`, encrypted afresh.
async fn put_as(operator: &Operator, version: u64) -> Vec<u8> {
    let content = operator.keyring().await.unwrap().content;
    let sealed = seal_keyring(&content, version, operator.context.wrap.as_ref(), &[])
        .await
        .unwrap();
    put(operator, &sealed).await;
    sealed
}

async fn put(operator: &Operator, bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let store = &operator.context.store;
    store
        .put(keys::KEYRING, bytes, PutCondition::Always)
        .await
        .unwrap();
}

#[tokio::test]
async fn two_operators_make_one_keyring() {
    for _ in 0..4 {
        let bucket = Bucket::start().await.unwrap();
        let ann = Operator::new(&bucket.endpoint()).await.unwrap();
        let bob = ann.colleague(&bucket.endpoint()).await.unwrap();
        let (a, b) = tokio::join!(
            keyring::read_or_create(&ann.context),
            keyring::read_or_create(&bob.context)
        );
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a.content, b.content);
        assert_eq!((a.mark.version, &a.mark), (1, &b.mark));
        let groups: Vec<&str> = a.content.groups.keys().map(GroupName::as_str).collect();
        assert_eq!(groups, ["compute", "secure"]);
    }
}

#[tokio::test]
async fn the_keys_of_a_new_group_join_the_others() {
    let bucket = Bucket::start().await.unwrap();
    let ann = Operator::new(&bucket.endpoint()).await.unwrap();
    let mut only_secure = ann.context.clone();
    only_secure
        .workspace
        .groups
        .retain(|g| g.as_str() == "secure");
    let first = keyring::read_or_create(&only_secure).await.unwrap();
    let bob = ann.colleague(&bucket.endpoint()).await.unwrap();
    let (a, b) = tokio::join!(
        keyring::read_or_create(&ann.context),
        keyring::read_or_create(&bob.context)
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(
        (a.mark.version, &a.mark, &a.content),
        (2, &b.mark, &b.content)
    );
    let secure = group("secure");
    assert_eq!(a.group(&secure).unwrap(), first.group(&secure).unwrap());
    a.group(&group("compute")).unwrap();
}

#[tokio::test]
async fn an_old_keyring_put_back_is_refused() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let old = std::fs::read(bucket.object(keys::KEYRING)).unwrap();
    let new = put_as(&operator, 2).await;
    operator
        .amend(
            "secure/kube-controller-manager.yaml.j2",
            "--terminated-pod-gc-threshold=1000",
            "--terminated-pod-gc-threshold=20000",
        )
        .unwrap();
    let done = operator.publish().await.unwrap();
    assert_eq!(released(done.get("secure")), 2);

    put(&operator, &old).await;
    let error = operator.publish().await.unwrap_err();
    assert!(error.is::<KeyringRolledBack>(), "{error:?}");
    assert!(told(&error).contains("version 1"), "{error:#}");
    // Version 2 again, but not that one.
    put_as(&operator, 2).await;
    let error = operator.publish().await.unwrap_err();
    assert!(error.is::<KeyringRolledBack>(), "{error:?}");

    put(&operator, &new).await;
    let done = operator.publish().await.unwrap();
    assert!(unchanged(done.get("secure")), "{done:?}");
}

#[tokio::test]
async fn an_old_keyring_is_noticed_without_a_memory_of_the_newer_one() {
    let bucket = Bucket::start().await.unwrap();
    let ann = Operator::new(&bucket.endpoint()).await.unwrap();
    ann.publish().await.unwrap();
    let timestamp = keys::timestamp(&group("secure"));
    let old_keyring = std::fs::read(bucket.object(keys::KEYRING)).unwrap();
    let old_timestamp = std::fs::read(bucket.object(&timestamp)).unwrap();
    let new_keyring = put_as(&ann, 2).await;
    let amend = |who: &Operator, from: u32, to: u32| {
        let count = |n| format!("--terminated-pod-gc-threshold={n}");
        let template = "secure/kube-controller-manager.yaml.j2";
        who.amend(template, &count(from), &count(to)).unwrap();
    };
    amend(&ann, 1_000, 20_000);
    ann.publish().await.unwrap();

    // With the timestamp gone nothing says what is current, but release 2 was signed all the same.
    put(&ann, &old_keyring).await;
    ann.context.store.delete(&timestamp).await.unwrap();
    let bob = ann.colleague(&bucket.endpoint()).await.unwrap();
    let error = bob.publish().await.unwrap_err();
    assert!(error.is::<KeyringRolledBack>(), "{error:?}");

    // With both put back, the number that the next release would have is taken already.
    let bytes = Bytes::from(old_timestamp);
    let on = PutCondition::Always;
    ann.context.store.put(&timestamp, bytes, on).await.unwrap();
    let carl = ann.colleague(&bucket.endpoint()).await.unwrap();
    amend(&carl, 20_000, 30_000);
    let error = carl.publish().await.unwrap_err();
    assert!(error.is::<KeyringRolledBack>(), "{error:?}");

    put(&ann, &new_keyring).await;
    let done = carl.publish().await.unwrap();
    assert_eq!(released(done.get("secure")), 3);
}

#[tokio::test]
async fn a_number_that_nobody_of_ours_signed_is_passed_over() {
    let bucket = Bucket::start().await.unwrap();
    let ann = Operator::new(&bucket.endpoint()).await.unwrap();
    let forged = format!("{}9.targets.json", keys::metadata_prefix(&group("secure")));
    let bytes = Bytes::from_static(b"{\"signed\":{},\"signatures\":[]}");
    let on = PutCondition::Always;
    ann.publish().await.unwrap();
    ann.context.store.put(&forged, bytes, on).await.unwrap();
    let timestamp = keys::timestamp(&group("secure"));
    ann.context.store.delete(&timestamp).await.unwrap();
    let bob = ann.colleague(&bucket.endpoint()).await.unwrap();
    let done = bob.publish().await.unwrap();
    assert_eq!(released(done.get("secure")), 2);
}

#[tokio::test]
async fn the_keyring_of_another_environment_is_refused() {
    let bucket = Bucket::start().await.unwrap();
    let local = Operator::new(&bucket.endpoint()).await.unwrap();
    local.publish().await.unwrap();
    let foreign = std::fs::read(bucket.object(keys::KEYRING)).unwrap();

    let bucket = Bucket::start().await.unwrap();
    let other = Operator::of_environment(&bucket.endpoint(), "other")
        .await
        .unwrap();
    put(&other, &foreign).await;
    let error = other.publish().await.unwrap_err();
    let cause = error.downcast_ref::<KeyringError>();
    let cause = cause.unwrap_or_else(|| panic!("{error:?}"));
    assert!(
        matches!(cause, KeyringError::Environment { .. }),
        "{cause:?}"
    );
    assert_eq!(bucket.keys(), [keys::KEYRING]);
}

#[tokio::test]
async fn a_keyring_that_is_gone_is_not_made_anew() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let colleague = operator.colleague(&bucket.endpoint()).await.unwrap();
    let kept = std::fs::read(bucket.object(keys::KEYRING)).unwrap();
    operator.context.store.delete(keys::KEYRING).await.unwrap();
    for who in [&operator, &colleague] {
        let error = who.publish().await.unwrap_err();
        assert!(error.is::<KeyringGone>(), "{error:?}");
    }
    assert!(!bucket.object(keys::KEYRING).exists());
    put(&operator, &kept).await;
    let done = operator.publish().await.unwrap();
    assert!(done.values().all(|p| unchanged(Some(p))), "{done:?}");
}

#[tokio::test]
async fn metadata_that_is_gone_is_no_empty_bucket() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let key = keys::timestamp(&group("secure"));
    operator.context.store.delete(&key).await.unwrap();
    let error = operator.publish().await.unwrap_err();
    let cause = error.downcast_ref::<RepositoryError>();
    let cause = cause.unwrap_or_else(|| panic!("{error:?}"));
    assert!(
        matches!(cause, RepositoryError::Gone { version: 1, .. }),
        "{cause:?}"
    );
    assert!(told(&error).contains(&key), "{error:#}");
}
