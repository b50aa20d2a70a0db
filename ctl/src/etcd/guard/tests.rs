use shared::bundle::TimeSpan;
use shared::documents::{NodeStatus, Nonce};
use shared::etcd::MemberFacts;

use super::*;
use crate::status::ReportError;

fn now() -> Timestamp {
    "2026-11-27T03:00:00Z".parse().unwrap()
}

fn facts(n: u32) -> MemberFacts {
    MemberFacts {
        node: format!("AROA:i-{n}").parse().unwrap(),
        name: format!("m{n}"),
        peer_url: format!("https://m{n}:2380"),
        client_url: format!("https://m{n}:2379"),
    }
}

/// A member that reaches `of` members and itself.
fn report(n: u32, of: u32) -> NodeReport {
    let status: NodeStatus = serde_json::from_value(serde_json::json!({
        "format": 1, "environment": "dev", "group": "secure", "node": format!("AROA:i-{n}"), "agent_version": "0",
        "release": 7, "published": 7, "phase": "idle", "error": null, "hold": null, "drift_repaired": 0, "foreign": [],
        "clock_skew_seconds": null, "metadata_expires": null, "written_at": now(),
        "etcd": {
            "generation": 1, "role": "member", "facts": facts(n), "had_data": true, "leader": "m1",
            "reaches": (1..=of).map(|n| format!("m{n}")).collect::<Vec<_>>(),
        },
    }))
    .unwrap();
    NodeReport {
        node: format!("AROA:i-{n}"),
        group: "secure".parse().unwrap(),
        status: Ok(status),
    }
}

fn etcd(report: &mut NodeReport) -> &mut EtcdReport {
    report.status.as_mut().unwrap().etcd.as_mut().unwrap()
}

fn backup(generation: u32, name: &str) -> Backup {
    let manifest = serde_json::from_value(serde_json::json!({
        "format": 1, "environment": "dev", "group": "secure", "generation": generation, "name": name,
        "finished_at": "2026-11-23T03:00:00Z", "node": "i-1", "member_id": "a", "cluster_id": "b",
        "etcd_version": "3.6.8", "plain_bytes": 9000, "plain_sha256": "00".repeat(32),
        "sealed_bytes": 9500, "parts": ["00".repeat(32)], "recipients": [],
    }));
    Backup {
        generation,
        name: name.parse().unwrap(),
        manifest: Ok(manifest.unwrap()),
        missing: None,
    }
}

/// What the verbs see, owned.
struct World {
    reports: Vec<NodeReport>,
    absent: Vec<u32>,
    machines: u32,
    backups: Vec<Backup>,
    fence: FenceFound,
    holders: Result<Vec<Holder>, String>,
    voters: u32,
}

impl World {
    fn of(members: u32) -> Self {
        Self {
            reports: (1..=members).map(|n| report(n, members)).collect(),
            absent: Vec::new(),
            machines: members,
            backups: vec![backup(1, "20261127T021000Z-7")],
            fence: fence(members),
            holders: Ok(Vec::new()),
            voters: members,
        }
    }

    fn with<T>(&self, ask: impl FnOnce(&Evidence<'_>) -> T) -> T {
        let ids: Vec<String> = (1..=self.machines).map(|n| format!("i-{n}")).collect();
        let found = |id: &str| self.reports.iter().find(|r| instance_of(&r.node) == id);
        let machines = ids.iter().map(|id| Machine {
            id,
            label: format!("dev-secure ({id})"),
            report: found(id),
        });
        let there = machines.filter(|m| !self.absent.iter().any(|n| m.id == format!("i-{n}")));
        ask(&Evidence {
            generation: Generation::FIRST,
            voters: self.voters,
            machines: there.collect(),
            reports: &self.reports,
            backups: &self.backups,
            fence: self.fence.clone(),
            holders: self.holders.clone(),
            now: now(),
        })
    }

    fn quorum(&self, leaving: Leaving<'_>) -> Vec<String> {
        self.with(|e| e.against_quorum(leaving))
    }
}

fn fence(members: u32) -> FenceFound {
    FenceFound::There(Fence::new(
        &"dev".parse().unwrap(),
        Generation::FIRST,
        (1..=members).map(facts).collect(),
    ))
}

fn holder(n: u32, work: HolderWork) -> Holder {
    Holder {
        node: format!("AROA:i-{n}").parse().unwrap(),
        release: shared::names::ReleaseNumber::new(7).unwrap(),
        zone: None,
        nonce: Nonce::of(1),
        since: now(),
        deadline: "15m".parse::<TimeSpan>().unwrap(),
        work,
    }
}

const ONE: Leaving<'_> = Leaving::Machine("i-1");

#[test]
fn one_of_three_or_five_goes_while_the_others_are_well() {
    assert_eq!(World::of(3).quorum(ONE), Vec::<String>::new());
    assert_eq!(World::of(5).quorum(ONE), Vec::<String>::new());
    // Its own state is no matter, and a slot that it holds goes with it.
    let mut own = World::of(3);
    own.reports.remove(0);
    own.holders = Ok(vec![holder(1, HolderWork::Membership)]);
    assert_eq!(own.quorum(ONE), Vec::<String>::new());
    // A spare is no member: three are left.
    let mut spare = World::of(4);
    spare.voters = 3;
    etcd(&mut spare.reports[3]).role = EtcdRole::Spare;
    assert_eq!(spare.quorum(ONE), Vec::<String>::new());
    assert_eq!(spare.quorum(Leaving::Machine("i-4")), Vec::<String>::new());
}

#[test]
fn anything_amiss_with_another_stands_against_it() {
    type Change = fn(&mut World);
    let changes: [(Change, &str); 13] = [
        (|w| drop(w.reports.remove(1)), "has not reported"),
        (
            |w| w.reports[1].status = Err(ReportError::OtherNode("x".to_owned())),
            "speaks for x",
        ),
        (
            |w| {
                let status = w.reports[1].status.as_mut().unwrap();
                status.written_at = now() - SIGHT - SignedDuration::from_secs(1);
            },
            "no report for too long",
        ),
        (
            |w| w.reports[1].status.as_mut().unwrap().etcd = None,
            "says nothing about etcd",
        ),
        (
            |w| etcd(&mut w.reports[1]).generation = Generation::FIRST.next(),
            "generation 2 of etcd, not 1",
        ),
        (
            |w| etcd(&mut w.reports[1]).role = EtcdRole::Learner,
            "with a vote yet",
        ),
        (
            |w| etcd(&mut w.reports[1]).why = "no member answers".to_owned(),
            "not well: no member answers",
        ),
        (|w| etcd(&mut w.reports[1]).leader = None, "knows no leader"),
        (
            |w| etcd(&mut w.reports[1]).healthy = Some(false),
            "does not answer, or knows no leader",
        ),
        (
            |w| etcd(&mut w.reports[1]).reaches = vec!["m2".to_owned()],
            "does not reach that of dev-secure (i-3)",
        ),
        (|w| w.absent.push(2), "only 1 healthy members"),
        (
            |w| w.holders = Ok(vec![holder(2, HolderWork::Membership)]),
            "changes etcd's membership",
        ),
        (
            |w| w.holders = Err("it is not believed".to_owned()),
            "not known: it is not believed",
        ),
    ];
    for (change, says) in changes {
        let mut world = World::of(3);
        change(&mut world);
        let all = world.quorum(ONE);
        assert!(all.iter().any(|a| a.contains(says)), "{says}: {all:?}");
    }
    let mut adopts = World::of(3);
    adopts.holders = Ok(vec![holder(3, HolderWork::Release)]);
    assert!(adopts.quorum(ONE)[0].contains("adopts release 7"));
}

#[test]
fn the_last_member_and_all_of_them_never_go_unasked() {
    let all = World::of(1).quorum(ONE);
    assert!(
        all.len() == 1 && all[0].contains("only 0 healthy"),
        "{all:?}"
    );
    let all = World::of(3).quorum(Leaving::All);
    assert!(all[0].contains("every member"), "{all:?}");
}

#[test]
fn a_group_becomes_smaller_only_as_far_as_a_quorum_is_sure_to_stay() {
    let mut five = World::of(5);
    five.voters = 3;
    assert_eq!(five.quorum(Leaving::DownTo(3)), Vec::<String>::new());
    let all = five.quorum(Leaving::DownTo(1));
    assert!(
        all[0].contains("only 1") && all[0].contains("5 members need 3"),
        "{all:?}"
    );
    let mut three = World::of(3);
    three.voters = 1;
    assert_eq!(three.quorum(Leaving::DownTo(1)).len(), 1);
    // A limit alone becomes smaller: nobody goes.
    assert_eq!(
        World::of(3).quorum(Leaving::DownTo(3)),
        Vec::<String>::new()
    );
    // Two spares, but the group may choose members.
    let mut spares = World::of(5);
    spares.voters = 3;
    for spare in &mut spares.reports[3..] {
        etcd(spare).role = EtcdRole::Spare;
    }
    assert_eq!(spares.quorum(Leaving::DownTo(3)).len(), 1);
    assert_eq!(spares.quorum(Leaving::DownTo(4)), Vec::<String>::new());
}

#[test]
fn a_backup_of_this_generation_is_young_whole_and_not_of_the_future() {
    let asked = |backups: Vec<Backup>| {
        let mut world = World::of(3);
        world.backups = backups;
        world.with(|e| e.against_backup())
    };
    assert_eq!(
        asked(vec![backup(1, "20261127T014500Z-7")]),
        None,
        "75 minutes"
    );
    let old = asked(vec![backup(1, "20261127T014400Z-7")]).unwrap();
    assert!(old.contains("76 minutes old"), "{old}");
    assert!(asked(Vec::new()).unwrap().contains("no backup"));
    let other = asked(vec![backup(2, "20261127T025900Z-7")]).unwrap();
    assert!(
        other.contains("generation 1 of etcd has no backup"),
        "{other}"
    );
    let mut broken = backup(1, "20261127T025900Z-7");
    broken.missing = Some("part 1 of 1 is gone".to_owned());
    assert!(asked(vec![broken, backup(1, "20261126T000000Z-7")]).is_some());
    assert!(asked(vec![backup(1, "20261128T000000Z-7")]).is_some());
}

#[test]
fn what_never_formed_needs_nothing() {
    let mut world = world_of_waiting();
    world.fence = FenceFound::Absent;
    let nothing = |world: &World| {
        assert!(!world.with(|e| e.has_formed()));
        assert_eq!(world.with(|e| e.against_backup()), None);
        assert_eq!(world.quorum(Leaving::All), Vec::<String>::new());
    };
    nothing(&world);
    // Who was to form it is known, and each of them says of late that it has nothing.
    world.fence = fence(3);
    nothing(&world);
    // One of them began, alone: without a leader nothing was ever acknowledged.
    let begun = etcd(&mut world.reports[1]);
    (begun.role, begun.had_data, begun.had_leader) = (EtcdRole::Member, true, Some(false));
    assert!(!world.with(|e| e.has_formed()));
    let formed = |change: fn(&mut World)| {
        let mut changed = world_of_waiting();
        change(&mut changed);
        assert!(changed.with(|e| e.has_formed()));
    };
    formed(|w| drop(w.reports.remove(2)));
    formed(|w| w.reports[2].status.as_mut().unwrap().written_at = Timestamp::UNIX_EPOCH);
    formed(|w| etcd(&mut w.reports[2]).had_data = true);
    formed(|w| etcd(&mut w.reports[2]).had_leader = Some(true));
    formed(|w| etcd(&mut w.reports[2]).leader = Some("m1".to_owned()));
    formed(|w| w.reports[2].status = Err(ReportError::OtherNode("x".to_owned())));
    formed(|w| w.backups.push(backup(1, "20200101T000000Z-1")));
    formed(|w| w.fence = FenceFound::Unreadable("forged".to_owned()));
}

fn world_of_waiting() -> World {
    let mut world = World::of(3);
    world.backups.clear();
    for report in &mut world.reports {
        let etcd = etcd(report);
        (etcd.role, etcd.had_data, etcd.leader) = (EtcdRole::Waiting, false, None);
    }
    world
}

#[test]
fn a_line_is_said_once() {
    let lines = ["a", "b", "a"].map(str::to_owned).to_vec();
    assert_eq!(once(lines), ["a", "b"]);
}
