//! Every fault of every object that a publish reads or writes: nothing is published, the object is named, and the next
//! publish works.

use futures::future::join_all;
use http::Method;
use platform_tests::faulty_proxy::{Fault, ProxyRequest};

use super::faults::{Stage, TIMESTAMP};
use super::{released, told};

const FAULTS: [Fault; 6] = [
    Fault::Status(500, "InternalError"),
    Fault::Status(503, "SlowDown"),
    Fault::Status(403, "AccessDenied"),
    Fault::Reset,
    Fault::Timeout,
    Fault::TruncateBody(20),
];

/// Which requests of the secure group's publish go wrong.
#[derive(Debug, Clone, Copy)]
struct Object {
    method: &'static str,
    starts: &'static str,
    ends: &'static str,
}

impl Object {
    fn is(self, request: &ProxyRequest) -> bool {
        request.method == Method::from_bytes(self.method.as_bytes()).unwrap()
            && request.key.starts_with(self.starts)
            && request.key.ends_with(self.ends)
    }
}

/// A publish by somebody who remembers nothing, and so reads everything. All at once: most of the time is deadlines.
async fn each_fault(object: Object) {
    // The answer to a write has no body to cut.
    let applies =
        |fault: &Fault| object.method != "PUT" || !matches!(fault, Fault::TruncateBody(_));
    let faults = FAULTS.into_iter().filter(applies);
    join_all(faults.map(|fault| one_fault(object, fault))).await;
}

async fn one_fault(object: Object, fault: Fault) {
    let stage = Stage::new().await;
    let done = stage.operator.publish().await.unwrap();
    let first = released(done.get("secure"));
    let timestamp = || std::fs::read(stage.bucket.object(TIMESTAMP)).unwrap();
    stage.amend(1_000, 1_001);
    let publisher = stage
        .operator
        .colleague(&stage.proxy.endpoint())
        .await
        .unwrap();
    let before = timestamp();
    stage.proxy.set_where(move |r| object.is(r), fault.clone());
    let error = publisher.publish().await.unwrap_err();
    assert_eq!(timestamp(), before, "{fault:?}: {error:#}");
    let said = told(&error);
    assert!(said.contains(object.starts), "{fault:?}: {said}");
    assert!(said.contains(object.ends), "{fault:?}: {said}");
    stage.proxy.clear();
    let done = publisher.publish().await.unwrap();
    let release = released(done.get("secure"));
    assert!(release > first, "{fault:?}: {release} after {first}");
}

#[tokio::test]
async fn reading_the_keyring() {
    each_fault(Object {
        method: "GET",
        starts: "operator/keyring",
        ends: ".json",
    })
    .await;
}

#[tokio::test]
async fn reading_the_timestamp() {
    each_fault(Object {
        method: "GET",
        starts: "groups/secure/metadata/",
        ends: "timestamp.json",
    })
    .await;
}

#[tokio::test]
async fn reading_the_snapshot() {
    each_fault(Object {
        method: "GET",
        starts: "groups/secure/metadata/",
        ends: ".snapshot.json",
    })
    .await;
}

#[tokio::test]
async fn reading_the_targets() {
    each_fault(Object {
        method: "GET",
        starts: "groups/secure/metadata/",
        ends: ".targets.json",
    })
    .await;
}

#[tokio::test]
async fn writing_the_bundle() {
    each_fault(Object {
        method: "PUT",
        starts: "groups/secure/targets/",
        ends: "",
    })
    .await;
}

#[tokio::test]
async fn writing_the_targets() {
    each_fault(Object {
        method: "PUT",
        starts: "groups/secure/metadata/",
        ends: ".targets.json",
    })
    .await;
}

#[tokio::test]
async fn writing_the_snapshot() {
    each_fault(Object {
        method: "PUT",
        starts: "groups/secure/metadata/",
        ends: ".snapshot.json",
    })
    .await;
}

#[tokio::test]
async fn writing_the_timestamp() {
    each_fault(Object {
        method: "PUT",
        starts: "groups/secure/metadata/",
        ends: "timestamp.json",
    })
    .await;
}

#[tokio::test]
async fn writing_the_first_keyring() {
    let faults = FAULTS.into_iter().take(5);
    join_all(faults.map(one_fault_of_the_first_keyring)).await;
}

async fn one_fault_of_the_first_keyring(fault: Fault) {
    let stage = Stage::new().await;
    let writes = |r: &ProxyRequest| r.method == Method::PUT && r.key == "operator/keyring.json";
    stage.proxy.set_where(writes, fault.clone());
    let error = stage.operator.publish().await.unwrap_err();
    let said = told(&error);
    assert!(said.contains("operator/keyring.json"), "{fault:?}: {said}");
    assert_eq!(stage.bucket.keys(), Vec::<String>::new(), "{fault:?}");
    stage.proxy.clear();
    let done = stage.operator.publish().await.unwrap();
    assert_eq!(released(done.get("secure")), 1, "{fault:?}");
}
