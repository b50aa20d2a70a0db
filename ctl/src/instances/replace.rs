//! Whether a machine may be replaced: the rest of its group must carry on without it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use shared::etcd::EtcdRole;
use shared::names::ReleaseNumber;

use super::{Fleet, Instance};
use crate::env::{Environment, SECURE};
use crate::status::NodeReport;

/// The state of a member that serves.
const IN_SERVICE: &str = "InService";

/// What stands against replacing `instance`; empty where nothing does. In the secure group each machine is a member of
/// etcd: all others must be there, serve, be on the published release, and have a vote, but for those that stand by.
#[must_use]
pub fn objections(
    environment: &Environment,
    fleet: &Fleet,
    instance: &Instance,
    reports: &BTreeMap<String, NodeReport>,
    published: Option<ReleaseNumber>,
    now: Timestamp,
) -> Vec<String> {
    let mut all = Vec::new();
    match &instance.member {
        None => all.push(format!(
            "{} is in no auto-scaling group, so nothing would take its place",
            instance.label()
        )),
        Some(member) if member.lifecycle.starts_with("Terminating") => {
            all.push(format!("{} is being replaced already", instance.label()));
        }
        Some(_) => {}
    }
    if instance.group != SECURE {
        return all;
    }
    let others: Vec<&Instance> = fleet
        .instances
        .iter()
        .filter(|other| other.group == SECURE && other.id != instance.id)
        .collect();
    // The file may ask for fewer than there are: what etcd has is what was made.
    let made = fleet.groups.get(SECURE).map_or(1, |group| group.desired);
    let members = environment.groups.get(SECURE).map_or(1, |size| size.min);
    let members = members.max(made);
    let needed = usize::try_from(members.saturating_sub(1)).unwrap_or(usize::MAX);
    let stands_by = |other: &&&Instance| role(reports.get(&other.id)) == Some(EtcdRole::Spare);
    let count = others.len() - others.iter().filter(stands_by).count();
    if count < needed {
        all.push(format!(
            "there are {count} other secure machines, and etcd's {members} members need {needed}"
        ));
    }
    if published.is_none() {
        all.push("nothing is published for group secure".to_owned());
    }
    all.extend(others.into_iter().filter_map(|other| {
        let why = unfit(other, reports.get(&other.id), published, now)?;
        Some(format!("{}: {why}", other.label()))
    }));
    all
}

/// Why a machine cannot be relied on; none where it can.
fn unfit(
    instance: &Instance,
    report: Option<&NodeReport>,
    published: Option<ReleaseNumber>,
    now: Timestamp,
) -> Option<String> {
    if !instance.is_running() {
        return Some(format!("is {}", instance.state));
    }
    match &instance.member {
        None => return Some("is in no auto-scaling group".to_owned()),
        Some(member) if member.lifecycle != IN_SERVICE => {
            return Some(format!("is {} in its auto-scaling group", member.lifecycle));
        }
        Some(member) if !member.healthy => return Some("is unhealthy".to_owned()),
        Some(_) => {}
    }
    let Some(report) = report else {
        return Some("has not reported".to_owned());
    };
    let joins = || match role(Some(report))? {
        EtcdRole::Member | EtcdRole::Spare => None,
        EtcdRole::Waiting | EtcdRole::Joining | EtcdRole::Learner => {
            Some("is no member of etcd with a vote yet".to_owned())
        }
    };
    report.objection(published, now).or_else(joins)
}

/// What a machine says that it is to etcd.
fn role(report: Option<&NodeReport>) -> Option<EtcdRole> {
    Some(report?.status.as_ref().ok()?.etcd.as_ref()?.role)
}

#[cfg(test)]
mod tests {
    use shared::documents::{NodeStatus, Phase, STATUS_FORMAT};

    use super::super::tests::instance;
    use super::*;
    use crate::aws::Member;
    use crate::status::ReportError;
    use crate::testing::environment;

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    fn member(lifecycle: &str, healthy: bool) -> Option<Member> {
        Some(Member {
            lifecycle: lifecycle.to_owned(),
            healthy,
            template: None,
        })
    }

    fn fleet() -> Fleet {
        let mut instances: Vec<Instance> = (1..=3)
            .map(|n| instance("dev-secure", &format!("i-{n}"), n))
            .collect();
        instances.push(instance("dev-compute", "i-9", 9));
        for instance in &mut instances {
            instance.member = member(IN_SERVICE, true);
        }
        Fleet {
            instances,
            groups: BTreeMap::new(),
        }
    }

    fn report(id: &str, release: u64) -> (String, NodeReport) {
        let node = format!("AROA:{id}");
        let status = NodeStatus {
            format: STATUS_FORMAT,
            environment: "dev".parse().unwrap(),
            group: "secure".parse().unwrap(),
            node: node.parse().unwrap(),
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
            written_at: now(),
        };
        let report = NodeReport {
            node,
            group: "secure".parse().unwrap(),
            status: Ok(status),
        };
        (id.to_owned(), report)
    }

    fn reports() -> BTreeMap<String, NodeReport> {
        ["i-1", "i-2", "i-3"].map(|id| report(id, 7)).into()
    }

    fn judged(fleet: &Fleet, wanted: &str, reports: &BTreeMap<String, NodeReport>) -> Vec<String> {
        let instance = fleet.instances.iter().find(|i| i.id == wanted).unwrap();
        let published = ReleaseNumber::new(7);
        objections(&environment(""), fleet, instance, reports, published, now())
    }

    #[test]
    fn one_secure_machine_goes_while_all_others_are_well() {
        assert!(judged(&fleet(), "i-1", &reports()).is_empty());
        // Its own state is no matter: it goes.
        let mut own = fleet();
        own.instances[0].member = member(IN_SERVICE, false);
        let mut silent = reports();
        silent.remove("i-1");
        assert!(judged(&own, "i-1", &silent).is_empty());
    }

    #[test]
    fn anything_amiss_with_another_stands_against_it() {
        type Change = fn(&mut Fleet, &mut BTreeMap<String, NodeReport>);
        let changes: [(Change, &str); 8] = [
            (|f, _| f.instances[1].state = "stopped".into(), "is stopped"),
            (|f, _| f.instances[1].member = None, "no auto-scaling group"),
            (
                |f, _| f.instances[1].member = member("Terminating:Wait", true),
                "is Terminating:Wait",
            ),
            (
                |f, _| f.instances[1].member = member(IN_SERVICE, false),
                "is unhealthy",
            ),
            (
                |_, r| {
                    r.remove("i-2");
                },
                "has not reported",
            ),
            (
                |_, r| r.extend([report("i-2", 6)]),
                "not on the published release",
            ),
            (
                |_, r| {
                    let other = ReportError::OtherNode("x".to_owned());
                    r.get_mut("i-2").unwrap().status = Err(other);
                },
                "speaks for x",
            ),
            (
                |f, _| {
                    f.instances.remove(1);
                },
                "there are 1 other secure machines",
            ),
        ];
        for (change, says) in changes {
            let (mut fleet, mut reports) = (fleet(), reports());
            change(&mut fleet, &mut reports);
            let all = judged(&fleet, "i-1", &reports);
            assert!(all.len() == 1 && all[0].contains(says), "{says}: {all:?}");
            // The same is nothing to a worker.
            assert!(judged(&fleet, "i-9", &reports).is_empty(), "{says}");
        }
    }

    #[test]
    fn what_nothing_would_take_the_place_of_stays() {
        let mut fleet = fleet();
        fleet.instances[3].member = None;
        assert!(judged(&fleet, "i-9", &reports())[0].contains("nothing would take its place"));
        fleet.instances[3].member = member("Terminating", true);
        assert!(judged(&fleet, "i-9", &reports())[0].contains("being replaced already"));
    }
}
