//! A release that is published and not begun with: a pass says so, and does not pass for one that is done.

use std::sync::atomic::Ordering;

use shared::bundle::{MaxUnavailable, RolloutPolicy, TimeSpan};
use shared::documents::{Hold, Nonce, Pause, RolloutDocument, seal_node_object};
use shared::store::{ServerTime, keys};

use super::world::{World, tick};
use crate::clock::Clock as _;
use crate::commands::{Exit, ended};
use crate::engine::{Agent, Outcome};
use crate::hold::HoldFile;

fn policy() -> RolloutPolicy {
    RolloutPolicy {
        max_unavailable: MaxUnavailable::Nodes(1),
        deadline: TimeSpan::from_millis(60_000),
        settle: TimeSpan::from_millis(1_000),
        probes: Vec::new(),
        waiver: None,
    }
}

/// The group is paused.
fn pause(w: &World) {
    let now = w.clock.now();
    let key = keys::rollout(&"secure".parse().unwrap());
    let document = RolloutDocument {
        revision: 1,
        nonce: Nonce::random(),
        written_at: now,
        paused: Some(Pause {
            by: "ada@desk".into(),
            reason: "a freeze".into(),
            since: now,
            until: None,
        }),
        ..RolloutDocument::empty()
    };
    let name = keys::bound_name(&"dev".parse().unwrap(), &key);
    let sealed = seal_node_object(&document, &name, Some(w.group_key())).unwrap();
    w.store.set(&key, sealed);
}

/// The line and the exit code of `once`.
fn said(agent: &Agent, outcome: Outcome) -> (String, Exit) {
    ended(agent, outcome).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_release_that_waits_is_not_the_current_one() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    let outcome = agent.once().await;
    let done = ("adopted release 1".to_owned(), Exit::Done);
    assert_eq!(said(&agent, outcome), done);
    pause(&w);
    w.rollout = Some(policy());
    w.publish(2).await;
    // Without the store's word for the time a node takes no slot.
    let now = w.clock.now();
    *w.store.server_time.lock().unwrap() = Some(ServerTime {
        server: now,
        local: now,
    });
    // At the pass that finds it, and at those that are answered 304.
    for _ in 0..3 {
        let outcome = tick(&mut agent).await;
        assert_eq!(outcome, Outcome::Waiting);
        let (line, exit) = said(&agent, outcome);
        assert!(
            line.starts_with("release 1 stays; release 2 is published and waits: "),
            "{line}"
        );
        assert!(line.contains("a freeze"), "{line}");
        assert_eq!(exit, Exit::Differs);
        assert_eq!(w.on_disk().unwrap(), "release 1");
        assert_eq!(agent.error(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_published_and_a_hold_are_not_done() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.sign(&[]).await;
    let outcome = agent.once().await;
    let nothing = ("nothing is published yet".to_owned(), Exit::Differs);
    assert_eq!(said(&agent, outcome), nothing);
    w.publish(1).await;
    tick(&mut agent).await;
    let hold = Hold {
        reason: "mine".into(),
        since: w.clock.now(),
        until: None,
    };
    HoldFile::in_directory(w.paths().state())
        .place(&hold)
        .unwrap();
    let outcome = agent.once().await;
    let held = ("release 1, held: mine".to_owned(), Exit::Differs);
    assert_eq!(said(&agent, outcome), held);
}

#[tokio::test(start_paused = true)]
async fn what_takes_too_long_is_named() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    w.store.hangs.store(true, Ordering::Relaxed);
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    let error = agent.error().unwrap();
    assert_eq!(error.kind, "timeout");
    let what = "reading groups/secure/metadata/timestamp.json took longer than ";
    assert!(error.message.starts_with(what), "{}", error.message);
}
