//! The decisions, one by one.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use shared::bundle::{MaxUnavailable, Probe, ProbeCheck, RolloutPolicy, TimeSpan, Waiver};
use shared::documents::{Halt, Nonce, Pause, RolloutDocument, Unavailable, UnavailableWhy};
use shared::names::{NodeId, ReleaseNumber};
use shared::rollout::{
    Admission, Ending, FirstRelease, GroupView, NodeFacts, NodeSeen, ProbeRun, ProbeVerdict,
    Resume, Stage, Stamp, Stock, Wait, Window, Wish, admit, conclude, first_release, give_back,
    is_complete, record_failure, resume,
};

const D: u64 = 100;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn number(n: u64) -> ReleaseNumber {
    ReleaseNumber::new(n).unwrap()
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn policy(max: u32) -> RolloutPolicy {
    RolloutPolicy {
        max_unavailable: MaxUnavailable::Nodes(max),
        deadline: TimeSpan::from_secs(D),
        settle: TimeSpan::from_secs(10),
        probes: vec![Probe {
            name: "web".to_owned(),
            check: ProbeCheck::Kubelet { port: 1 },
            period: TimeSpan::from_secs(1),
            timeout: TimeSpan::from_secs(1),
            success_threshold: 2,
            failure_threshold: 3,
        }],
        waiver: None,
    }
}

fn ask(
    document: &RolloutDocument,
    who: &str,
    zone: &str,
    release: u64,
    max: u32,
    when: i64,
) -> Admission {
    let id = node(who);
    let facts = NodeFacts {
        node: &id,
        zone: Some(zone),
        on_disk: Some(number(1)),
    };
    let policy = policy(max);
    let wish = Wish {
        release: number(release),
        policy: &policy,
    };
    let stamp = Stamp {
        nonce: Nonce::of(u128::try_from(when).unwrap()),
        now: at(when),
    };
    admit(document, facts, wish, None, Stock::Unknown, stamp)
}

fn taken(admission: Admission) -> RolloutDocument {
    match admission {
        Admission::Take(document) => *document,
        other => panic!("not taken: {other:?}"),
    }
}

fn waits(admission: Admission) -> &'static str {
    match admission {
        Admission::Wait(why, _) => why.kind(),
        other => panic!("does not wait: {other:?}"),
    }
}

fn back(
    document: &RolloutDocument,
    who: &str,
    zone: &str,
    release: u64,
    ending: &Ending,
    when: i64,
) -> RolloutDocument {
    let id = node(who);
    let facts = NodeFacts {
        node: &id,
        zone: Some(zone),
        on_disk: Some(number(release)),
    };
    let stamp = Stamp {
        nonce: Nonce::of(u128::try_from(when).unwrap()),
        now: at(when),
    };
    give_back(document, facts, number(release), ending, None, stamp).unwrap()
}

fn seen(who: &str, zone: &str, release: u64, when: i64) -> NodeSeen {
    NodeSeen {
        node: node(who),
        zone: Some(zone.to_owned()),
        release: Some(number(release)),
        written_at: at(when),
        held: false,
    }
}

#[test]
fn the_canary_goes_alone_then_one_zone_at_a_time() {
    let d = taken(ask(&RolloutDocument::empty(), "a", "z1", 2, 3, 0));
    assert_eq!(
        (d.release, d.zone.as_deref()),
        (Some(number(2)), Some("z1"))
    );
    assert_eq!(waits(ask(&d, "b", "z1", 2, 3, 1)), "canary");
    let d = back(&d, "a", "z1", 2, &Ending::Committed, 2);
    assert_eq!(d.committed, 1);
    assert_eq!(waits(ask(&d, "c", "z2", 2, 3, 3)), "turn");
    let d = taken(ask(&d, "b", "z1", 2, 3, 3));
    let d = taken(ask(&d, "e", "z1", 2, 3, 4));
    assert_eq!(
        waits(ask(&d, "c", "z2", 2, 3, 99)),
        "turn",
        "others are under way"
    );
    let d = back(&d, "b", "z1", 2, &Ending::Committed, 5);
    let d = back(&d, "e", "z1", 2, &Ending::Committed, 6);
    assert_eq!(waits(ask(&d, "c", "z2", 2, 3, 65)), "turn");
    let d = taken(ask(&d, "c", "z2", 2, 3, 66));
    assert_eq!(
        d.zone.as_deref(),
        Some("z2"),
        "nobody of z1 did anything for a minute"
    );
}

#[test]
fn the_view_hands_the_turn_on_and_finds_the_rollout_complete() {
    let d = taken(ask(&RolloutDocument::empty(), "a", "z1", 2, 1, 0));
    let id = node("a");
    let facts = NodeFacts {
        node: &id,
        zone: Some("z1"),
        on_disk: Some(number(2)),
    };
    let stamp = || Stamp {
        nonce: Nonce::of(9),
        now: at(10),
    };
    let group = |b: u64| GroupView {
        nodes: vec![seen("a", "z1", 1, 0), seen("b", "z2", b, 5)],
        unread: Vec::new(),
    };
    let given = give_back(
        &d,
        facts,
        number(2),
        &Ending::Committed,
        Some(&group(1)),
        stamp(),
    )
    .unwrap();
    assert_eq!(
        (given.zone.as_deref(), given.size, given.good),
        (Some("z2"), 2, None)
    );
    let given = give_back(
        &d,
        facts,
        number(2),
        &Ending::Committed,
        Some(&group(2)),
        stamp(),
    )
    .unwrap();
    assert_eq!(given.good, Some(number(2)));
    assert!(
        !is_complete(&given, &group(2), number(2), at(10)),
        "the old status of a"
    );
    assert_eq!(
        conclude(&given, facts, &group(2), stamp()),
        None,
        "nothing new"
    );
    // A node that fell silent takes a place, and is taken to be gone after an hour.
    let quiet = GroupView {
        nodes: vec![seen("b", "z2", 1, -1000)],
        unread: Vec::new(),
    };
    let given = give_back(
        &d,
        facts,
        number(2),
        &Ending::Committed,
        Some(&quiet),
        stamp(),
    )
    .unwrap();
    assert_eq!((given.unavailable.len(), given.good), (1, None));
    assert_eq!(waits(ask(&given, "c", "z1", 2, 1, 11)), "capacity");
    let gone = GroupView {
        nodes: vec![seen("b", "z2", 1, -4000)],
        unread: Vec::new(),
    };
    let given = conclude(&given, facts, &gone, stamp()).unwrap();
    assert_eq!((given.unavailable.len(), given.good), (0, Some(number(2))));
}

#[test]
fn a_bad_release_halts_and_the_next_one_goes_in() {
    let d = taken(ask(&RolloutDocument::empty(), "a", "z", 2, 1, 0));
    let failed = Ending::Failed {
        why: "probe web".to_owned(),
        lines: vec!["503".to_owned()],
    };
    let noted = {
        let id = node("a");
        let facts = NodeFacts {
            node: &id,
            zone: Some("z"),
            on_disk: Some(number(2)),
        };
        let stamp = Stamp {
            nonce: Nonce::of(1),
            now: at(1),
        };
        record_failure(&d, facts, number(2), "probe web", &[], stamp).unwrap()
    };
    assert!(noted.is_halted(number(2)) && noted.holder(&node("a")).is_some());
    let d = back(&noted, "a", "z", 2, &failed, 2);
    assert!(d.holders.is_empty() && d.failed.len() == 1, "told once");
    assert_eq!(waits(ask(&d, "a", "z", 2, 1, 3)), "failed_here");
    assert_eq!(waits(ask(&d, "b", "z", 2, 1, 3)), "halted");
    let d = taken(ask(&d, "a", "z", 3, 1, 4));
    assert_eq!(d.halted, None);
    assert_eq!(waits(ask(&d, "b", "z", 2, 1, 5)), "superseded");
    // What was still under way with the older release does not halt the newer one.
    let d = back(&d, "b", "z", 2, &failed, 6);
    assert_eq!(d.halted, None);
}

#[test]
fn pause_and_capacity() {
    let paused = RolloutDocument {
        paused: Some(Pause {
            by: "ada".to_owned(),
            reason: "lunch".to_owned(),
            since: at(0),
            until: Some(at(50)),
        }),
        ..RolloutDocument::empty()
    };
    assert_eq!(waits(ask(&paused, "a", "z", 2, 1, 49)), "paused");
    let d = taken(ask(&paused, "a", "z", 2, 1, 50));
    // A newer release waits for whoever is still under way.
    assert_eq!(waits(ask(&d, "b", "z", 3, 1, 51)), "capacity");
}

#[test]
fn a_slot_is_cleared_after_twice_its_deadline_and_counts_until_its_node_reports() {
    let d = taken(ask(&RolloutDocument::empty(), "a", "z", 2, 1, 0));
    let twice = i64::try_from(2 * D).unwrap();
    assert!(matches!(
        ask(&d, "b", "z", 2, 1, twice),
        Admission::Wait(Wait::Capacity(_), None)
    ));
    let Admission::Wait(Wait::Capacity(_), Some(d)) = ask(&d, "b", "z", 2, 1, twice + 1) else {
        panic!("the slot was not cleared");
    };
    assert!(d.holders.is_empty());
    assert_eq!(d.unavailable[0].node, node("a"));
    let d = back(&d, "a", "z", 2, &Ending::Committed, 300);
    assert!(d.unavailable.is_empty());
    taken(ask(&d, "b", "z", 2, 1, 301));
}

#[test]
fn an_answer_that_was_lost_is_recognised() {
    let d = taken(ask(&RolloutDocument::empty(), "a", "z", 2, 1, 7));
    let id = node("a");
    let facts = NodeFacts {
        node: &id,
        zone: Some("z"),
        on_disk: Some(number(1)),
    };
    let policy = policy(1);
    let wish = |release| Wish {
        release: number(release),
        policy: &policy,
    };
    let stamp = || Stamp {
        nonce: Nonce::of(8),
        now: at(8),
    };
    let known = Nonce::of(7);
    assert_eq!(
        admit(&d, facts, wish(2), Some(&known), Stock::Unknown, stamp()),
        Admission::Holds
    );
    // A slot for another release, or of another write, is not the one that was asked for.
    for (release, known) in [(3, &known), (2, &Nonce::of(6))] {
        let again = taken(admit(
            &d,
            facts,
            wish(release),
            Some(known),
            Stock::Unknown,
            stamp(),
        ));
        assert_eq!(again.holders.len(), 1);
        assert_eq!(again.holders[0].nonce, Nonce::of(8));
    }
}

#[test]
fn a_slot_whose_answer_was_lost_is_given_up_at_a_halt_and_at_a_pause() {
    let d = taken(ask(&RolloutDocument::empty(), "a", "z", 2, 2, 7));
    let halt = Halt {
        release: number(2),
        by: node("b"),
        reason: "it is bad".to_owned(),
        at: at(8),
    };
    let pause = Pause {
        by: "ada".to_owned(),
        reason: "lunch".to_owned(),
        since: at(8),
        until: None,
    };
    let halted = RolloutDocument {
        halted: Some(halt),
        ..d.clone()
    };
    let paused = RolloutDocument {
        paused: Some(pause),
        ..d
    };
    for (document, kind) in [(halted, "halted"), (paused, "paused")] {
        let id = node("a");
        let facts = NodeFacts {
            node: &id,
            zone: Some("z"),
            on_disk: Some(number(1)),
        };
        let policy = policy(2);
        let wish = Wish {
            release: number(2),
            policy: &policy,
        };
        let stamp = Stamp {
            nonce: Nonce::of(9),
            now: at(9),
        };
        let Admission::Wait(why, Some(next)) = admit(
            &document,
            facts,
            wish,
            Some(&Nonce::of(7)),
            Stock::Unknown,
            stamp,
        ) else {
            panic!("{kind}: it begins all the same");
        };
        assert_eq!(why.kind(), kind);
        assert!(next.holders.is_empty(), "{kind}: the slot is free again");
    }
}

#[test]
fn a_silent_node_stands_in_the_way_for_an_hour_and_one_that_was_cleared_until_it_reports() {
    let silent = |why| RolloutDocument {
        unavailable: vec![Unavailable {
            node: node("gone"),
            why,
            release: None,
            since: at(0),
        }],
        ..RolloutDocument::empty()
    };
    let of = silent(UnavailableWhy::Silent);
    assert_eq!(waits(ask(&of, "a", "z", 2, 1, 3600)), "capacity");
    let d = taken(ask(&of, "a", "z", 2, 1, 3601));
    assert!(d.unavailable.is_empty());
    let of = silent(UnavailableWhy::Cleared);
    assert_eq!(waits(ask(&of, "a", "z", 2, 1, 100_000)), "capacity");
}

#[test]
fn whoever_would_begin_a_rollout_looks_first_whether_the_others_are_there() {
    let before = RolloutDocument {
        release: Some(number(1)),
        size: 3,
        ..RolloutDocument::empty()
    };
    let id = node("a");
    let facts = NodeFacts {
        node: &id,
        zone: Some("z"),
        on_disk: Some(number(1)),
    };
    let policy = policy(1);
    let wish = Wish {
        release: number(2),
        policy: &policy,
    };
    let ask = |document: &RolloutDocument, stock: Stock<'_>| {
        let stamp = Stamp {
            nonce: Nonce::of(1),
            now: at(1000),
        };
        admit(document, facts, wish, None, stock, stamp)
    };
    assert_eq!(ask(&before, Stock::NotTaken), Admission::TakeStock);
    let group = |c: i64| GroupView {
        nodes: vec![
            seen("a", "z", 1, 999),
            seen("b", "z", 1, 900),
            seen("c", "z", 1, c),
        ],
        unread: Vec::new(),
    };
    taken(ask(&before, Stock::Seen(&group(999))));
    let Admission::Wait(Wait::Capacity(why), Some(next)) = ask(&before, Stock::Seen(&group(300)))
    else {
        panic!("it begins though one of three is dead");
    };
    assert!(why.contains('c'), "{why}");
    assert_eq!((next.release, next.unavailable.len()), (Some(number(1)), 1));
    // It is in the document now: nobody looks again, until it is back.
    assert_eq!(waits(ask(&next, Stock::NotTaken)), "capacity");
    // A node that has not reported for an hour is gone, and one whose rollout began with a look needs no other.
    taken(ask(&before, Stock::Seen(&group(-4000))));
    let begun = RolloutDocument {
        release: Some(number(2)),
        committed: 1,
        ..before.clone()
    };
    taken(ask(&begun, Stock::NotTaken));
    // A large group is not read whole by each of its nodes.
    let large = RolloutDocument { size: 51, ..before };
    taken(ask(&large, Stock::NotTaken));
}

#[test]
fn nothing_is_complete_while_the_word_of_a_node_is_not_believed() {
    let view = |unread: &[&str]| GroupView {
        nodes: vec![seen("a", "z", 2, 0)],
        unread: unread.iter().map(|name| node(name)).collect(),
    };
    let mut d = RolloutDocument::empty();
    assert!(is_complete(&d, &view(&[]), number(2), at(1)));
    assert!(!is_complete(&d, &view(&["b"]), number(2), at(1)));
    d.forgotten.push(shared::documents::Forgotten {
        node: node("b"),
        by: "ada".to_owned(),
        at: at(0),
    });
    assert!(is_complete(&d, &view(&["b"]), number(2), at(1)));
}

#[test]
fn a_document_that_was_removed_begins_above_what_was_seen() {
    let mut d = taken(ask(&RolloutDocument::empty(), "a", "z", 2, 1, 7));
    assert_eq!(
        d.revision,
        u64::try_from(at(7).as_second()).unwrap(),
        "the first write takes the time"
    );
    for when in 8..20 {
        d = d.next(Nonce::of(1), at(when));
    }
    let again = RolloutDocument::empty().next(Nonce::of(2), at(20));
    assert!(again.revision > d.revision, "the nodes would refuse it");
    assert!(again.usable(d.revision).is_ok());
}

#[test]
fn the_time_of_a_holder() {
    let d = TimeSpan::from_secs(D);
    let window = |seconds| Window::after(Duration::from_secs(seconds), d);
    assert_eq!((window(49), window(50)), (Window::Forward, Window::Probe));
    assert_eq!((window(74), window(75)), (Window::Probe, Window::Back));
    assert_eq!(
        resume(Stage::Applying, Window::Forward),
        Resume::FinishAndProbe
    );
    assert_eq!(resume(Stage::Applying, Window::Probe), Resume::Revert);
    assert_eq!(
        resume(Stage::Probing, Window::Probe),
        Resume::FinishAndProbe
    );
    assert_eq!(resume(Stage::Probing, Window::Back), Resume::Revert);
    assert_eq!(
        resume(Stage::Granted, Window::Probe),
        Resume::GiveBackUnused
    );
    assert_eq!(resume(Stage::Reverting, Window::Forward), Resume::Revert);
    assert_eq!(resume(Stage::Committed, Window::Back), Resume::GiveBack);
}

#[test]
fn only_what_went_from_good_to_bad_counts() {
    let s = Duration::from_secs;
    let mut run = ProbeRun::new(&policy(1), &BTreeSet::new());
    run.saw("web", true, s(0));
    run.saw("web", true, s(1));
    assert_eq!(run.verdict(s(9)), ProbeVerdict::Pending, "not settled");
    assert_eq!(run.verdict(s(10)), ProbeVerdict::Healthy);
    for second in 11..14 {
        assert_ne!(run.verdict(s(second)), ProbeVerdict::Bad("web".to_owned()));
        run.saw("web", false, s(second));
    }
    assert_eq!(run.verdict(s(14)), ProbeVerdict::Bad("web".to_owned()));
    run.saw("web", true, s(15));
    assert_eq!(run.verdict(s(16)), ProbeVerdict::Pending, "it begins again");
    let before = BTreeSet::from(["web".to_owned()]);
    let warns = ProbeRun::new(&policy(1), &before);
    assert!(!warns.counts("web"));
    assert_eq!(warns.verdict(s(0)), ProbeVerdict::Healthy);
    let waived = RolloutPolicy {
        waiver: Some(Waiver {
            reason: "x".to_owned(),
            by: "y".to_owned(),
        }),
        ..policy(1)
    };
    assert!(!ProbeRun::new(&waived, &BTreeSet::new()).counts("web"));
}

#[test]
fn a_new_node_begins_with_what_is_known_to_be_good() {
    let first = |current, good: Option<u64>, document: Option<&RolloutDocument>| {
        first_release(number(current), good.map(number), document)
    };
    let halted = Some(Halt {
        release: number(3),
        by: node("a"),
        reason: String::new(),
        at: at(0),
    });
    let good = |n: u64| RolloutDocument {
        good: Some(number(n)),
        ..RolloutDocument::empty()
    };
    assert_eq!(first(1, None, None), FirstRelease::Current);
    assert_eq!(first(3, Some(2), None), FirstRelease::Good);
    assert_eq!(first(3, Some(2), Some(&good(2))), FirstRelease::Good);
    assert_eq!(first(3, Some(2), Some(&good(3))), FirstRelease::Current);
    let halted = RolloutDocument { halted, ..good(3) };
    assert_eq!(first(3, Some(2), Some(&halted)), FirstRelease::Good);
    assert_eq!(
        first(3, None, Some(&halted)),
        FirstRelease::Current,
        "there is nothing else"
    );
}
