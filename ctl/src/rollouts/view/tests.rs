use shared::bundle::TimeSpan;
use shared::documents::{
    FailedAdoption, Forgotten, Hold, Holder, HolderWork, Nonce, Phase, STATUS_FORMAT,
};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn n(number: u64) -> ReleaseNumber {
    ReleaseNumber::new(number).unwrap()
}

fn node(name: &str, release: u64, written: i64) -> NodeReport {
    let status = NodeStatus {
        format: STATUS_FORMAT,
        environment: "dev".parse().unwrap(),
        group: "secure".parse().unwrap(),
        node: name.parse().unwrap(),
        agent_version: String::new(),
        agent_sha256: None,
        update_rejected: None,
        release: ReleaseNumber::new(release),
        published: None,
        phase: Phase::Idle,
        error: None,
        hold: None,
        drift_repaired: 0,
        foreign: Vec::new(),
        clock_skew_seconds: None,
        etcd: None,
        metadata_expires: None,
        rollout: shared::documents::RolloutReport::default(),
        backup: None,
        rewrite: None,
        written_at: at(written),
    };
    NodeReport {
        node: name.to_owned(),
        group: "secure".parse().unwrap(),
        status: Ok(status),
    }
}

fn view(document: &RolloutDocument, nodes: &[NodeReport]) -> RolloutView {
    RolloutView::of(Some(n(7)), Ok(Some(document)), nodes, at(1000))
}

fn halted() -> RolloutDocument {
    RolloutDocument {
        halted: Some(Halt {
            release: n(7),
            by: "i-2".parse().unwrap(),
            reason: "probe apiserver".to_owned(),
            at: at(900),
        }),
        failed: vec![FailedAdoption {
            node: "i-2".parse().unwrap(),
            release: n(7),
            why: "probe apiserver".to_owned(),
            lines: vec!["503 \u{1b}[2J".to_owned()],
            at: at(900),
        }],
        ..RolloutDocument::empty()
    }
}

#[test]
fn counts_and_completes() {
    let empty = RolloutDocument::empty();
    let mut nodes = vec![
        node("i-1", 7, 990),
        node("i-2", 6, 990),
        node("i-3", 8, 990),
    ];
    let seen = view(&empty, &nodes);
    assert_eq!((seen.done, seen.nodes), (2, 3));
    assert_eq!(seen.verdict(n(7)), Verdict::Wait);
    assert!(
        seen.lines()[0].starts_with("[=============       ] 2 of 3"),
        "{:?}",
        seen.lines()
    );
    nodes[1] = node("i-2", 7, 990);
    assert_eq!(view(&empty, &nodes).verdict(n(7)), Verdict::Done);
    // Somebody is still in transition.
    let busy = RolloutDocument {
        holders: vec![Holder {
            node: "i-2".parse().unwrap(),
            release: n(7),
            zone: None,
            nonce: Nonce::of(1),
            since: at(980),
            deadline: TimeSpan::from_secs(60),
            work: HolderWork::Release,
        }],
        ..empty.clone()
    };
    assert_eq!(view(&busy, &nodes).verdict(n(7)), Verdict::Wait);
    assert_eq!(view(&empty, &[]).verdict(n(7)), Verdict::Done);
    let newer = view(&empty, &nodes).verdict(n(6));
    assert!(matches!(newer, Verdict::Stopped(why) if why.contains("release 7")));
}

#[test]
fn a_halt_is_told_with_what_the_probe_saw() {
    let nodes = [node("i-1", 6, 990), node("i-2", 6, 990)];
    let Verdict::Stopped(why) = view(&halted(), &nodes).verdict(n(7)) else {
        panic!("it is halted");
    };
    assert!(
        why.contains("HALTED by i-2") && why.contains("503"),
        "{why}"
    );
    assert!(!why.contains('\u{1b}'), "{why}");
    // Of another release, it halts nothing.
    let mut other = halted();
    other.halted.as_mut().unwrap().release = n(6);
    assert_eq!(view(&other, &nodes).verdict(n(7)), Verdict::Wait);
}

#[test]
fn pauses_silence_and_holds_are_told_apart() {
    let paused = RolloutDocument {
        paused: Some(Pause {
            by: "ann".to_owned(),
            reason: "lunch".to_owned(),
            since: at(900),
            until: Some(at(1001)),
        }),
        ..RolloutDocument::empty()
    };
    let behind = [node("i-1", 6, 990)];
    assert!(
        matches!(view(&paused, &behind).verdict(n(7)), Verdict::Stopped(w) if w.contains("lunch"))
    );
    let done = view(&paused, &[node("i-1", 7, 990)]);
    assert_eq!(done.state, RolloutState::Complete);
    assert!(done.lines().join("\n").contains("PAUSED by ann"));
    let over = RolloutView::of(Some(n(7)), Ok(Some(&paused)), &behind, at(1001));
    assert_eq!(over.verdict(n(7)), Verdict::Wait);

    let empty = RolloutDocument::empty();
    let silent = [node("i-1", 7, 990), node("i-2", 6, 100)];
    let told = view(&empty, &silent);
    assert!(matches!(told.verdict(n(7)), Verdict::Stopped(w) if w.contains("i-2 (for 15m00s)")));
    // While others are on their way, that is what counts.
    let both = [node("i-1", 6, 990), node("i-2", 6, 100)];
    assert_eq!(view(&empty, &both).verdict(n(7)), Verdict::Wait);
    let forgotten = RolloutDocument {
        forgotten: vec![Forgotten {
            node: "i-2".parse().unwrap(),
            by: "ann".to_owned(),
            at: at(500),
        }],
        ..empty.clone()
    };
    assert_eq!(view(&forgotten, &silent).verdict(n(7)), Verdict::Done);
    // It came back after it was forgotten.
    let back = [node("i-1", 7, 990), node("i-2", 6, 600)];
    assert_eq!(view(&forgotten, &back).nodes, 2);
    // Gone for good.
    assert_eq!(
        view(&empty, &[node("i-1", 7, 990), node("i-2", 6, -3000)]).nodes,
        1
    );

    let mut held = node("i-1", 6, 990);
    held.status.as_mut().unwrap().hold = Some(Hold {
        reason: "disk".to_owned(),
        since: at(1),
        until: None,
    });
    assert!(
        matches!(view(&empty, &[held]).verdict(n(7)), Verdict::Stopped(w) if w.contains("i-1 (disk)"))
    );
}

#[test]
fn what_cannot_be_read_is_said() {
    let seen = RolloutView::of(Some(n(7)), Err("forged".to_owned()), &[], at(0));
    assert_eq!(seen.verdict(n(7)), Verdict::Stopped("forged".to_owned()));
    let json = serde_json::to_value(&seen).unwrap();
    assert_eq!(
        (&json["state"], &json["why"]),
        (&"unreadable".into(), &"forged".into())
    );
}

#[test]
fn bars() {
    assert_eq!(bar(0, 0), format!("[{}]", " ".repeat(20)));
    assert_eq!(bar(3, 3), format!("[{}]", "=".repeat(20)));
    assert_eq!(bar(9, 3).len(), 22);
}
