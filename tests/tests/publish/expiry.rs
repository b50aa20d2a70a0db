//! Signatures that age: renewed in time, and still renewable afterwards.

use ctl::publish::{Publication, refresh};
use jiff::{SignedDuration, Timestamp};
use platform_tests::reports::{idle, write_report};
use platform_tests::workspace::{Bucket, Operator, group, refresh_as_node};
use shared::names::GroupName;
use shared::store::{PutCondition, keys};
use shared::trust::sign::{ListedTarget, Lives, Versions, sign_documents};
use shared::trust::{TrustError, TrustErrorKind, Trusted};
use tempfile::TempDir;

use super::{released, unchanged};

struct Stage {
    bucket: Bucket,
    operator: Operator,
    secure: GroupName,
    node: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let bucket = Bucket::start().await.unwrap();
        let operator = Operator::new(&bucket.endpoint()).await.unwrap();
        operator.publish().await.unwrap();
        Self {
            bucket,
            operator,
            secure: group("secure"),
            node: TempDir::new().unwrap(),
        }
    }

    async fn as_node(&self) -> Result<Trusted, TrustError> {
        let root = self.operator.root(&self.secure).await.unwrap();
        refresh_as_node(
            &self.operator.context,
            &self.secure,
            &root,
            self.node.path(),
        )
        .await
    }

    async fn refresh(&self, force: bool) -> Publication {
        let keyring = self.operator.keyring().await.unwrap();
        refresh(&self.operator.context, &keyring, &self.secure, force)
            .await
            .unwrap()
    }

    /// Signs what is published again, to expire at `end`.
    async fn signed_until(&self, end: Timestamp) {
        let keyring = self.operator.keyring().await.unwrap();
        let group_keys = keyring.group(&self.secure).unwrap();
        let published = self.operator.published(&self.secure).await.unwrap();
        let listed: Vec<ListedTarget> = published
            .releases()
            .map(|r| ListedTarget {
                name: r.name.clone(),
                length: r.length,
                sha256: r.sha256,
                custom: r.custom.to_custom().unwrap(),
            })
            .collect();
        let version = std::num::NonZeroU64::new(self.visible_version().await + 1).unwrap();
        let versions = Versions {
            targets: version,
            snapshot: version,
            timestamp: version,
        };
        let lives = Lives {
            targets: end,
            snapshot: end,
            timestamp: end,
        };
        let root = group_keys.roots.last().unwrap().as_bytes();
        let signed = sign_documents(root, &group_keys.repository, &listed, versions, lives)
            .await
            .unwrap();
        let prefix = keys::metadata_prefix(&self.secure);
        for (name, bytes) in [
            (format!("{version}.targets.json"), signed.targets),
            (format!("{version}.snapshot.json"), signed.snapshot),
            ("timestamp.json".to_owned(), signed.timestamp),
        ] {
            let key = format!("{prefix}{name}");
            let store = &self.operator.context.store;
            store.put(&key, bytes, PutCondition::Always).await.unwrap();
        }
    }

    /// The version of the timestamp in the bucket, taken as it is.
    async fn visible_version(&self) -> u64 {
        let text = std::fs::read(self.bucket.object(&keys::timestamp(&self.secure))).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        document["signed"]["version"].as_u64().unwrap()
    }
}

fn in_days(days: i64) -> Timestamp {
    let end = Timestamp::now() + SignedDuration::from_hours(24 * days);
    end.round(jiff::Unit::Second).unwrap()
}

#[tokio::test]
async fn young_signatures_are_renewed_only_by_force() {
    let stage = Stage::new().await;
    let before = stage.bucket.requests();
    let done = stage.refresh(false).await;
    assert!(unchanged(Some(&done)), "{done:?}");
    assert_eq!(stage.bucket.requests().since(&before).of("PutObject"), 0);

    let first = stage.as_node().await.unwrap();
    let done = stage.refresh(true).await;
    assert!(matches!(done, Publication::Renewed { .. }), "{done:?}");
    let second = stage.as_node().await.unwrap();
    assert!(second.timestamp_version() > first.timestamp_version());
    assert_eq!(first.current(), second.current(), "the release is the same");
    assert_eq!(
        stage
            .bucket
            .keys()
            .iter()
            .filter(|k| k.ends_with(".bundle"))
            .count(),
        2
    );
}

#[tokio::test]
async fn old_signatures_are_renewed_by_refresh_and_by_publish() {
    let stage = Stage::new().await;
    // A third of a year is 121 days.
    for (days, renewed) in [(125, false), (118, true)] {
        stage.signed_until(in_days(days)).await;
        let done = stage.refresh(false).await;
        assert_eq!(
            matches!(done, Publication::Renewed { .. }),
            renewed,
            "{days}: {done:?}"
        );
    }
    assert!(stage.as_node().await.unwrap().expiry().earliest() > in_days(360));

    stage.signed_until(in_days(1)).await;
    let done = stage.operator.publish().await.unwrap();
    assert!(
        matches!(done["secure"], Publication::Renewed { .. }),
        "{done:?}"
    );
    assert!(unchanged(done.get("compute")), "{done:?}");
    assert!(stage.as_node().await.unwrap().expiry().earliest() > in_days(360));
}

#[tokio::test]
async fn expired_signatures_are_refused_by_nodes_and_renewed_by_their_signer() {
    let stage = Stage::new().await;
    stage.signed_until(in_days(-1)).await;
    let refused = stage.as_node().await.unwrap_err();
    assert_eq!(refused.kind(), TrustErrorKind::Expired, "{refused}");
    let done = stage.refresh(false).await;
    assert!(matches!(done, Publication::Renewed { .. }), "{done:?}");
    let trusted = stage.as_node().await.unwrap();
    assert_eq!(trusted.current().unwrap().release().get(), 1);

    // And new content can follow what has expired.
    stage.signed_until(in_days(-1)).await;
    stage
        .operator
        .amend(
            "secure/kube-controller-manager.yaml.j2",
            "--terminated-pod-gc-threshold=1000",
            "--terminated-pod-gc-threshold=20000",
        )
        .unwrap();
    let done = stage.operator.publish().await.unwrap();
    let release = released(done.get("secure"));
    let trusted = stage.as_node().await.unwrap();
    assert_eq!(trusted.current().unwrap().release().get(), release);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_runs_out_within_a_month_and_ends_with_3() {
    let stage = Stage::new().await;
    // Nothing else is to be wrong.
    stage.operator.expect_nodes(1, 0).unwrap();
    write_report(&stage.bucket, &stage.operator, &idle("secure", "i-1", 1, 0))
        .await
        .unwrap();
    for (days, code) in [(31, 0), (29, 3), (-1, 3)] {
        stage.signed_until(in_days(days)).await;
        let run = |format: &'static str| {
            let mut command = stage.operator.platformctl();
            command.args(["status", "-e", "local", "--output", format]);
            tokio::task::spawn_blocking(move || command.output().unwrap())
        };
        let json = run("json").await.unwrap();
        assert_eq!(json.status.code(), Some(code), "{days}: {json:?}");
        let told: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        let all = told["expires"].as_array().unwrap();
        let soon: Vec<&str> = all
            .iter()
            .filter(|e| e["soon"] == true)
            .map(|e| e["what"].as_str().unwrap())
            .collect();
        let expected: &[&str] = match code {
            3 => &["signatures of group secure"],
            _ => &[],
        };
        assert_eq!(soon, expected, "{days}: {told}");
        let text = run("text").await.unwrap();
        assert_eq!(text.status.code(), Some(code), "{days}: {text:?}");
        let said = String::from_utf8(text.stdout).unwrap();
        let verb = match days {
            31 => "expires first: signatures of group secure",
            29 => "signatures of group secure EXPIRES SOON, at",
            _ => "signatures of group secure HAS EXPIRED at",
        };
        assert!(said.contains(verb), "{days}: {said}");
    }
}
