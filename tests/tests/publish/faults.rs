//! A store or a line that fails in the middle of a publish.

use std::sync::atomic::{AtomicU32, Ordering};

use http::Method;
use platform_tests::faulty_proxy::{Fault, FaultyProxy, ProxyRequest};
use platform_tests::workspace::{Bucket, Operator, carry_out, group, refresh_as_node};
use shared::store::StoreErrorKind;
use shared::trust::TrustErrorKind;
use tempfile::TempDir;

use super::{released, told};

pub(super) const TIMESTAMP: &str = "groups/secure/metadata/timestamp.json";

pub(super) struct Stage {
    pub(super) bucket: Bucket,
    pub(super) proxy: FaultyProxy,
    /// Publishes through the proxy.
    pub(super) operator: Operator,
    /// Looks at the bucket directly.
    witness: Operator,
}

impl Stage {
    pub(super) async fn new() -> Self {
        let bucket = Bucket::start().await.unwrap();
        let proxy = FaultyProxy::start(bucket.store().addr()).await.unwrap();
        let operator = Operator::new(&proxy.endpoint()).await.unwrap();
        let witness = operator.colleague(&bucket.endpoint()).await.unwrap();
        Self {
            bucket,
            proxy,
            operator,
            witness,
        }
    }

    /// The release that a node without a memory is told to run.
    async fn visible(&self) -> Result<u64, TrustErrorKind> {
        let (secure, node) = (group("secure"), TempDir::new().unwrap());
        let root = self.witness.root(&secure).await.unwrap();
        refresh_as_node(&self.witness.context, &secure, &root, node.path())
            .await
            .map(|t| t.current().unwrap().release().get())
            .map_err(|e| e.kind())
    }

    pub(super) fn amend(&self, from: u64, to: u64) {
        let count = |n: u64| format!("--terminated-pod-gc-threshold={n}");
        let template = "secure/kube-controller-manager.yaml.j2";
        self.operator
            .amend(template, &count(from), &count(to))
            .unwrap();
    }
}

fn writes_timestamp(request: &ProxyRequest) -> bool {
    request.method == Method::PUT && request.key == TIMESTAMP
}

#[tokio::test]
async fn a_crash_before_the_last_write_publishes_nothing_and_burns_its_number() {
    let stage = Stage::new().await;
    stage.proxy.set_where(writes_timestamp, Fault::Reset);
    let error = stage.operator.publish().await.unwrap_err();
    assert!(told(&error).contains("is not there"), "{error:#}");
    let nothing = TrustErrorKind::Store(StoreErrorKind::NotFound);
    assert_eq!(stage.visible().await, Err(nothing));

    stage.proxy.clear();
    let done = stage.operator.publish().await.unwrap();
    assert_eq!(released(done.get("secure")), 2, "1 was burned");
    assert_eq!(released(done.get("compute")), 1);
    assert_eq!(stage.visible().await, Ok(2));

    stage.amend(1_000, 20_000);
    stage.proxy.set_where(writes_timestamp, Fault::Reset);
    stage.operator.publish().await.unwrap_err();
    assert_eq!(stage.visible().await, Ok(2), "the release before stays");
    stage.proxy.clear();
    let done = stage.operator.publish().await.unwrap();
    assert_eq!(released(done.get("secure")), 4, "3 was burned");
    assert_eq!(stage.visible().await, Ok(4));
}

#[tokio::test]
async fn a_lost_answer_of_the_last_write_is_a_success() {
    let stage = Stage::new().await;
    stage.proxy.set_where(writes_timestamp, Fault::LostAnswer);
    let done = stage.operator.publish().await.unwrap();
    assert_eq!(released(done.get("secure")), 1);
    assert_eq!(stage.visible().await, Ok(1));
    stage.amend(1_000, 20_000);
    let done = stage.operator.publish().await.unwrap();
    assert_eq!(released(done.get("secure")), 2);
    assert_eq!(stage.visible().await, Ok(2));
}

#[tokio::test]
async fn lost_answers_of_all_other_writes_are_successes() {
    let stage = Stage::new().await;
    let immutable = |r: &ProxyRequest| r.method == Method::PUT && r.key != TIMESTAMP;
    stage.proxy.set_where(immutable, Fault::LostAnswer);
    let done = stage.operator.publish().await.unwrap();
    assert_eq!(
        (released(done.get("secure")), released(done.get("compute"))),
        (1, 1)
    );
    let keyring = stage.operator.keyring().await.unwrap();
    assert_eq!(keyring.mark.version, 1, "made once");
    assert_eq!(stage.visible().await, Ok(1));
}

#[tokio::test]
async fn a_conflict_that_comes_to_nothing_is_no_race() {
    let stage = Stage::new().await;
    stage.operator.publish().await.unwrap();
    stage.amend(1_000, 20_000);
    let asked = AtomicU32::new(0);
    stage.proxy.set_where(
        move |r| writes_timestamp(r) && asked.fetch_add(1, Ordering::Relaxed) == 0,
        Fault::Status(409, "ConditionalRequestConflict"),
    );
    let done = stage.operator.publish().await.unwrap();
    assert_eq!(released(done.get("secure")), 2);
    assert_eq!(stage.visible().await, Ok(2));
}

#[tokio::test]
async fn a_publish_that_cannot_see_its_end_says_so() {
    let stage = Stage::new().await;
    stage.operator.publish().await.unwrap();
    stage.amend(1_000, 20_000);
    let plans = stage.operator.plan().await.unwrap();
    stage.proxy.set(TIMESTAMP, Fault::Status(503, "SlowDown"));
    let error = carry_out(&stage.operator, plans).await.unwrap_err();
    assert!(told(&error).contains("could not be seen"), "{error:#}");
    assert!(!told(&error).contains("nothing was published"), "{error:#}");
    assert_eq!(stage.visible().await, Ok(1));
}

#[tokio::test]
async fn every_fault_of_a_read_stops_a_publish_before_its_first_write() {
    for fault in [
        Fault::Status(403, "AccessDenied"),
        Fault::Status(500, "InternalError"),
        Fault::TruncateBody(20),
        Fault::FlipByte(40),
        Fault::EndlessBody,
    ] {
        let stage = Stage::new().await;
        stage.operator.publish().await.unwrap();
        stage.amend(1_000, 20_000);
        let reads = |r: &ProxyRequest| r.method == Method::GET && r.key == TIMESTAMP;
        stage.proxy.set_where(reads, fault.clone());
        let before = stage.proxy.hits().method("PUT");
        stage
            .operator
            .publish()
            .await
            .expect_err("the last publish can't be seen");
        assert_eq!(stage.proxy.hits().method("PUT"), before, "{fault:?}");
        stage.proxy.clear();
        let done = stage.operator.publish().await.unwrap();
        assert_eq!(released(done.get("secure")), 2, "{fault:?}");
    }
}
