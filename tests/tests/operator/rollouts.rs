//! `status`, `publish --wait`, `pause`, `resume`, `retry`, `forget` and `explain`, with nodes that only write what nodes
//! write.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use ctl::rollouts;
use jiff::{SignedDuration, Timestamp};
use platform_tests::reports::{idle, write_report};
use platform_tests::scene::SECURE;
use platform_tests::workspace::{Bucket, Operator, group};
use shared::bundle::TimeSpan;
use shared::digest::Sha256Digest;
use shared::documents::{
    Decision, FailedAdoption, Halt, Holder, HolderWork, NodeStatus, Nonce, Phase, RolloutDocument,
    SlotReport, Transition,
};
use shared::names::ReleaseNumber;

use super::{Said, run};

struct Stage {
    bucket: Bucket,
    operator: Operator,
}

fn n(number: u64) -> ReleaseNumber {
    ReleaseNumber::new(number).unwrap()
}

fn status(node: &str, release: u64, age: i64) -> NodeStatus {
    idle(SECURE, node, release, age)
}

impl Stage {
    async fn set() -> Self {
        let bucket = Bucket::start().await.unwrap();
        let operator = Operator::new(&bucket.endpoint()).await.unwrap();
        operator.publish().await.unwrap();
        Self { bucket, operator }
    }

    async fn report(&self, status: &NodeStatus) {
        write_report(&self.bucket, &self.operator, status)
            .await
            .unwrap();
    }

    /// As a node changes it.
    async fn agree(&self, change: impl Fn(&mut RolloutDocument)) {
        let keyring = self.operator.keyring().await.unwrap();
        let secure = group(SECURE);
        let keys = keyring.group(&secure).unwrap();
        rollouts::change(&self.operator.context, keys, &secure, |document| {
            change(document);
            Ok(true)
        })
        .await
        .unwrap();
    }

    async fn agreed(&self) -> RolloutDocument {
        let keyring = self.operator.keyring().await.unwrap();
        let secure = group(SECURE);
        let keys = keyring.group(&secure).unwrap();
        let read = rollouts::read(&self.operator.context, keys, &secure).await;
        read.unwrap().unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> Said {
        let (verb, rest) = arguments.split_first().unwrap();
        let mut all = vec![*verb, "-e", "local"];
        all.extend(rest);
        run(&self.operator, &all).await
    }
}

fn halt(document: &mut RolloutDocument) {
    document.release = Some(n(1));
    document.halted = Some(Halt {
        release: n(1),
        by: "i-2".parse().unwrap(),
        reason: "probe apiserver has failed".to_owned(),
        at: document.written_at,
    });
    document.failed = vec![FailedAdoption {
        node: "i-2".parse().unwrap(),
        release: n(1),
        why: "probe apiserver has failed".to_owned(),
        lines: vec!["GET /readyz: 503".to_owned()],
        at: document.written_at,
    }];
}

fn slot(document: &mut RolloutDocument) {
    document.holders = vec![Holder {
        node: "i-2".parse().unwrap(),
        release: n(1),
        zone: None,
        nonce: Nonce::random(),
        since: document.written_at,
        deadline: TimeSpan::from_secs(60),
        work: HolderWork::Release,
    }];
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_a_rollout_with_its_bar_slot_and_halt() {
    let stage = Stage::set().await;
    let said = stage.run(&["status", SECURE]).await;
    assert_eq!(said.code, 3, "{said:?}");
    let none = "MISSING NODES: 0 of 3 nodes have reported within the hour";
    assert!(said.out.contains(none), "{said:?}");
    assert!(said.out.contains("no node has reported yet"), "{said:?}");

    for (node, code) in [("i-1", 3), ("i-2", 3), ("i-3", 0)] {
        stage.report(&status(node, 1, 0)).await;
        let said = stage.run(&["status", SECURE]).await;
        assert_eq!(said.code, code, "{node}: {said:?}");
    }
    let path = stage.bucket.object("nodes/secure/i-3.json");
    std::fs::remove_file(path).unwrap();
    let said = stage.run(&["status", SECURE]).await;
    assert!(said.out.contains("2 of 3 nodes"), "{said:?}");
    let json = stage.run(&["status", "--output", "json"]).await.json();
    let (secure, compute) = (&json["groups"][0], &json["groups"][1]);
    assert_eq!(secure["least_nodes"], 3, "{secure}");
    let said = secure["shortage"].as_str().unwrap();
    assert!(said.starts_with("2 of 3 nodes"), "{secure}");
    let said = compute["shortage"].as_str().unwrap();
    assert!(said.starts_with("0 of 2 nodes"), "{compute}");

    stage.report(&status("i-1", 1, 0)).await;
    let mut second = status("i-2", 0, 0);
    second.phase = Phase::Probe;
    second.rollout.slot = Some(SlotReport {
        release: n(1),
        previous: None,
        since: Timestamp::now(),
        deadline: TimeSpan::from_secs(60),
        transition: Transition::Probing,
    });
    stage.report(&second).await;
    stage.agree(slot).await;
    let said = stage.run(&["status", SECURE]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(
        said.out
            .contains("[==========          ] 1 of 2 nodes have release 1: under way"),
        "{said:?}"
    );
    assert!(
        said.out.contains("i-2 has a slot for release 1") && said.out.contains("probing"),
        "{said:?}"
    );

    stage.agree(halt).await;
    let said = stage.run(&["status", SECURE]).await;
    assert!(
        said.out.contains("HALTED by i-2") && said.out.contains("GET /readyz: 503"),
        "{said:?}"
    );
    let json = stage
        .run(&["status", SECURE, "--output", "json"])
        .await
        .json();
    let rollout = &json["groups"][0]["rollout"];
    assert_eq!(rollout["state"], "halted", "{rollout}");
    assert_eq!(
        (&rollout["done"], &rollout["nodes"]),
        (&1.into(), &2.into())
    );

    let said = stage.run(&["history", SECURE]).await;
    assert!(
        said.out.contains("HALTED by i-2") && said.out.contains("failed on i-2"),
        "{said:?}"
    );

    // Somebody else's document is nobody's.
    let path = stage.bucket.object("rollouts/secure.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("readyz", "livez")).unwrap();
    let said = stage.run(&["status", SECURE]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(
        said.out.contains("rollouts/secure.json is not believed"),
        "{said:?}"
    );
    let said = stage.run(&["pause", SECURE, "--reason", "x"]).await;
    assert_eq!(said.code, 1, "nothing is written over it: {said:?}");
    // An old one that was put back is not gone by either.
    std::fs::write(&path, &text).unwrap();
    stage.agree(|document| document.committed = 2).await;
    std::fs::write(&path, &text).unwrap();
    let said = stage.run(&["status", SECURE]).await;
    assert!(
        said.out.contains("somebody put an old one back"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_without_a_terminal_appends() {
    let stage = Stage::set().await;
    stage.report(&status("i-1", 1, 0)).await;
    for (format, marks) in [("text", "[===================="), ("json", "\"groups\"")] {
        let mut command = stage.operator.platformctl();
        let mut child = command
            .args([
                "status",
                "-e",
                "local",
                SECURE,
                "--watch",
                "--interval",
                "1",
                "--output",
                format,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let seen = tokio::task::spawn_blocking(move || {
            let lines = BufReader::new(out).lines().map(Result::unwrap);
            lines
                .filter(|line| line.contains(marks))
                .take(2)
                .collect::<Vec<_>>()
        })
        .await
        .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(!seen[0].contains('\u{1b}'), "{seen:?}");
        if format == "json" {
            let _: serde_json::Value = serde_json::from_str(&seen[1]).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_waits_for_its_nodes_or_says_why_not() {
    let stage = Stage::set().await;
    let wait = ["publish", SECURE, "--wait", "--timeout", "3s"];
    let said = stage.run(&wait).await;
    assert_eq!(said.code, 0, "nobody is there to wait for: {said:?}");
    stage.report(&status("i-1", 1, 0)).await;
    let said = stage.run(&wait).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out.contains("secure: all 1 nodes have release 1"),
        "{said:?}"
    );
    stage.report(&status("i-2", 0, 0)).await;
    let said = stage.run(&wait).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("is on 1 of 2 nodes"), "{said:?}");
    assert!(said.err.contains("no more time to wait"), "{said:?}");
    // One that has been silent for a while holds it up, and only it.
    stage.report(&status("i-2", 0, 1200)).await;
    let said = stage.run(&wait).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.out.contains("i-2 (for 20m"), "{said:?}");
    stage.report(&status("i-2", 0, 0)).await;
    stage.agree(halt).await;
    let said = stage
        .run(&["publish", SECURE, "--wait", "--output", "json"])
        .await;
    assert_eq!(said.code, 3, "{said:?}");
    let waited = &said.json()["waited"][0];
    assert_eq!(waited["done"], false, "{waited}");
    let why = waited["stopped"].as_str().unwrap();
    assert!(
        why.contains("HALTED by i-2") && why.contains("503"),
        "{why}"
    );
    // It goes on, and ends well, while somebody waits.
    let said = stage.run(&["retry", SECURE]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let adopts = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        stage.report(&status("i-2", 1, 0)).await;
    };
    let arguments = ["publish", SECURE, "--wait", "--timeout", "60s"];
    let (said, ()) = tokio::join!(stage.run(&arguments), adopts);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("all 2 nodes have release 1"), "{said:?}");
    let said = stage
        .run(&["publish", SECURE, "--wait", "--timeout", "soon"])
        .await;
    assert_eq!(said.code, 2, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_resume_and_retry() {
    let stage = Stage::set().await;
    stage.report(&status("i-1", 0, 0)).await;
    let said = stage.run(&["pause", SECURE]).await;
    assert_eq!(said.code, 2, "a reason is asked for: {said:?}");
    let said = stage
        .run(&["pause", SECURE, "--reason", "moving house", "--for", "2h"])
        .await;
    assert_eq!(said.code, 0, "{said:?}");
    let pause = stage.agreed().await.paused.unwrap();
    assert!(pause.by.starts_with("tester@"), "{pause:?}");
    let time = pause.until.unwrap().duration_since(pause.since);
    assert_eq!(time, SignedDuration::from_hours(2));
    let said = stage.run(&["status", SECURE]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(
        said.out.contains("PAUSED by tester@") && said.out.contains("moving house"),
        "{said:?}"
    );
    let said = stage.run(&["publish", SECURE, "--wait"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    let said = stage.run(&["pause", SECURE, "--reason", "still"]).await;
    assert!(
        said.out.contains("until `resume`") && said.out.contains("moving house"),
        "{said:?}"
    );

    stage.agree(halt).await;
    let said = stage.run(&["resume", SECURE]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out.contains("resumed (paused by tester@") && said.out.contains("halted by i-2"),
        "{said:?}"
    );
    let said = stage.run(&["resume", SECURE]).await;
    assert!(said.out.contains("was not paused"), "{said:?}");
    let said = stage.run(&["retry", SECURE, "--output", "json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.json()[0]["release"], 1);
    let now = stage.agreed().await;
    assert!(now.halted.is_none() && now.failed.is_empty(), "{now:?}");
    assert_eq!(now.retry.unwrap().release, n(1));
    let said = stage.run(&["retry", SECURE]).await;
    assert_eq!(said.code, 2, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_and_nodes_at_once_lose_nothing() {
    let stage = Stage::set().await;
    let secure = group(SECURE);
    let keyring = stage.operator.keyring().await.unwrap();
    let keys = keyring.group(&secure).unwrap();
    // Eight writers, each of whom adds one.
    let write = |_| {
        rollouts::change(&stage.operator.context, keys, &secure, |document| {
            document.committed += 1;
            Ok(true)
        })
    };
    let first = write(0).await.unwrap();
    let writers = (0..3).map(write);
    let (done, said) = tokio::join!(
        futures::future::join_all(writers),
        stage.run(&["pause", SECURE, "--reason", "x"])
    );
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    assert_eq!(said.code, 0, "{said:?}");
    let now = stage.agreed().await;
    assert_eq!((now.committed, now.revision), (4, first.revision + 4));
    assert!(now.paused.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_is_forgotten_and_one_that_is_there_is_not() {
    let stage = Stage::set().await;
    stage.report(&status("i-1", 1, 0)).await;
    stage.report(&status("AROA:i-2", 0, 1200)).await;
    stage
        .agree(|document| {
            slot(document);
            document.holders[0].node = "AROA:i-2".parse().unwrap();
        })
        .await;
    let said = stage.run(&["forget", "i-1"]).await;
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.err.contains("so it is there"), "{said:?}");
    let said = stage.run(&["forget", "i-3"]).await;
    assert_eq!(said.code, 2, "{said:?}");
    let said = stage.run(&["forget", "i-2"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out
            .contains("AROA:i-2 is forgotten; its slot for release 1 is free"),
        "{said:?}"
    );
    let now = stage.agreed().await;
    assert!(
        now.holders.is_empty() && now.forgotten.len() == 1,
        "{now:?}"
    );
    stage.operator.expect_nodes(1, 2).unwrap();
    let said = stage.run(&["status", SECURE]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!said.out.contains("i-2"), "{said:?}");
    // One whose report is gone, and whose slot is not.
    stage.agree(slot).await;
    let said = stage.run(&["forget", "i-2", "--output", "json"]).await;
    assert_eq!(said.json()[0]["slot_freed"], 1, "{said:?}");
    let said = stage.run(&["forget", "i-1", "--force"]).await;
    assert_eq!(said.code, 0, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_explains_itself() {
    let stage = Stage::set().await;
    let mut one = status("AROA:i-1", 1, 0);
    one.rollout.decisions = vec![Decision {
        at: Timestamp::now(),
        what: "rollouts/secure.json: asked for a slot\u{1b}[2J".to_owned(),
        release: Some(n(1)),
        object: Some("rollouts/secure.json".to_owned()),
        digest: Some(Sha256Digest::of(b"bundle")),
        result: "waits: i-2 tries it first".to_owned(),
    }];
    stage.report(&one).await;
    let said = stage.run(&["explain", "i-1"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    for part in [
        "release 1 on its disk",
        "asked for a slot",
        "waits: i-2 tries it first",
        &Sha256Digest::of(b"bundle").short(),
    ] {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
    assert!(!said.out.contains('\u{1b}'), "{said:?}");
    let json = stage
        .run(&["explain", "AROA:i-1", "--output", "json"])
        .await
        .json();
    assert_eq!(json["status"]["rollout"]["decisions"][0]["release"], 1);
    assert_eq!(stage.run(&["explain", "nobody"]).await.code, 2);
}
