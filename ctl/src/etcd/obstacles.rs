//! What speaks against a restore, a reform, or the end of a restore: everything at once, each with what to do about it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use shared::backup::BackupName;
use shared::documents::Pause;
use shared::etcd::{EtcdRole, Generation};

use super::Backup;
use crate::keyring::Keyring;
use crate::status::{NodeReport, STALE_AFTER_SECONDS, printable};

/// What an operator knows of the machines beside what they say.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Nodes of which the operator says that their machines are gone for good.
    pub without: &'a [String],
    /// Nodes whose machines EC2 does not know any more.
    pub gone: &'a [String],
    /// A pause of the group that is in force.
    pub paused: Option<&'a Pause>,
}

/// What speaks against a restore, all of it, and what is only to be known. Whoever does not hear the order goes on with the etcd of
/// before: a quorum of those would take writes beside the restored cluster, and they would be lost later.
#[must_use]
pub fn restore_obstacles(
    generation: Generation,
    nodes: &[NodeReport],
    voters: usize,
    known: &Known<'_>,
    now: Timestamp,
) -> (Vec<String>, Vec<String>) {
    let mut against = Vec::new();
    if let Some(pause) = known.paused {
        against.push(format!(
            "the group is paused by {}, and its nodes adopt nothing: `platformctl resume` first",
            printable(&pause.by)
        ));
    }
    let deaf: Vec<String> = nodes
        .iter()
        .filter(|n| !known.without.contains(&n.node) && !known.gone.contains(&n.node))
        .filter_map(|node| deaf(generation, node, now))
        .collect();
    let quorum = voters.max(1) / 2 + 1;
    if deaf.len() >= quorum {
        against.extend(deaf);
        (against, Vec::new())
    } else {
        (against, deaf)
    }
}

/// Why a node with data of `generation` would not stop its etcd, if there is a reason to think so.
fn deaf(generation: Generation, node: &NodeReport, now: Timestamp) -> Option<String> {
    let name = &node.node;
    let gone = format!("where its machine is gone for good, add --without {name}");
    let status = match &node.status {
        Ok(status) => status,
        Err(error) => return Some(format!("{name} cannot be asked: {error}; {gone}")),
    };
    let etcd = status.etcd.as_ref()?;
    if !etcd.had_data || etcd.generation != generation {
        return None;
    }
    let age = node.age_seconds(now).unwrap_or(i64::MAX);
    if age > STALE_AFTER_SECONDS {
        return Some(format!(
            "{name} has said nothing for {age} s, and may go on with the etcd of before where only its way to S3 is cut; {gone}"
        ));
    }
    status.hold.as_ref().map(|hold| {
        format!(
            "{name} is held ({}) and adopts nothing: `platform-agent hold --lift` there",
            printable(&hold.reason)
        )
    })
}

/// What speaks against a reform, all of it: a cluster that had a leader may have taken writes, and its data would be left
/// behind. What a node does not say counts as a yes, also what it said long ago; of the nodes of `without` the operator
/// knows better.
#[must_use]
pub fn reform_obstacles(
    keyring: &Keyring,
    nodes: &[NodeReport],
    backups: &[Backup],
    without: &[String],
    now: Timestamp,
) -> Vec<String> {
    obstacles(
        keyring.content.etcd_generation,
        nodes,
        backups,
        without,
        now,
    )
}

fn obstacles(
    generation: Generation,
    nodes: &[NodeReport],
    backups: &[Backup],
    without: &[String],
    now: Timestamp,
) -> Vec<String> {
    let mut found = Vec::new();
    let of_generation: BTreeSet<&BackupName> = backups
        .iter()
        .filter(|b| b.generation == generation.get())
        .map(|b| &b.name)
        .collect();
    if let Some(newest) = of_generation.last() {
        found.push(format!(
            "generation {generation} has been backed up ({newest}): restore that instead"
        ));
    }
    for node in nodes {
        let name = format!("{}/{}", node.group, node.node);
        let is_without = without.contains(&node.node);
        let status = match &node.status {
            Ok(status) => status,
            Err(_) if is_without => continue,
            Err(error) => {
                found.push(format!("{name} cannot be asked: {error}"));
                continue;
            }
        };
        let etcd = status.etcd.as_ref().filter(|e| e.generation >= generation);
        if let Some(etcd) = etcd {
            // Its own word that there was a leader stands, however old, and whoever says that it is gone.
            if etcd.leader.is_some() || etcd.had_leader == Some(true) {
                found.push(format!("{name} has seen a leader"));
                continue;
            }
            if etcd.had_data && etcd.had_leader.is_none() && !is_without {
                found.push(format!(
                    "{name} has data, and its agent cannot tell whether there was ever a leader"
                ));
                continue;
            }
        }
        let age = node.age_seconds(now).unwrap_or(i64::MAX);
        if age > STALE_AFTER_SECONDS && !is_without {
            found.push(format!(
                "{name} has said nothing for {age} s: where its machine is gone for good, add --without {}",
                node.node
            ));
        }
    }
    found
}

/// Members of a restored generation that are not well yet, each with what it says: while there is one, nodes keep the key.
#[must_use]
pub fn unfinished(
    keyring: &Keyring,
    nodes: &[NodeReport],
    voters: usize,
    without: &[String],
    now: Timestamp,
) -> Vec<String> {
    not_well(keyring.content.etcd_generation, nodes, voters, without, now)
}

fn not_well(
    generation: Generation,
    nodes: &[NodeReport],
    voters: usize,
    without: &[String],
    now: Timestamp,
) -> Vec<String> {
    let mut found = Vec::new();
    let mut members = 0;
    for node in nodes.iter().filter(|n| !without.contains(&n.node)) {
        let name = &node.node;
        let age = node.age_seconds(now).unwrap_or(i64::MAX);
        let etcd = match &node.status {
            Err(error) => {
                found.push(format!("{name} cannot be asked: {error}"));
                continue;
            }
            Ok(status) => status.etcd.as_ref(),
        };
        let stale = age > STALE_AFTER_SECONDS;
        match etcd {
            _ if stale => found.push(format!("{name} has said nothing for {age} s")),
            None => found.push(format!("{name} says nothing about etcd")),
            Some(e) if e.role == EtcdRole::Spare && e.generation == generation => {}
            Some(e) if e.generation != generation => {
                found.push(format!("{name} is of generation {} still", e.generation));
            }
            Some(e)
                if e.role == EtcdRole::Member && e.why.is_empty() && e.healthy != Some(false) =>
            {
                members += 1;
            }
            Some(e) => {
                let why = match e.why.as_str() {
                    "" => "its etcd does not answer",
                    why => why,
                };
                found.push(format!("{name} is no healthy member yet: {why}"));
            }
        }
    }
    if members < voters && without.is_empty() {
        found.push(format!("{members} of {voters} members are well"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn node(name: &str, age: i64, etcd: serde_json::Value) -> NodeReport {
        let mut etcd = etcd;
        etcd["facts"] = serde_json::json!({
            "node": name, "name": name, "peer_url": "https://a:1", "client_url": "https://a:2",
        });
        let written = Timestamp::from_second(NOW - age).unwrap();
        let status = serde_json::from_value(serde_json::json!({
            "format": 1, "environment": "dev", "group": "secure", "node": name, "agent_version": "1",
            "release": 1, "published": 1, "phase": "idle", "error": null, "hold": null, "drift_repaired": 0,
            "foreign": [], "clock_skew_seconds": null, "metadata_expires": null, "written_at": written,
            "etcd": etcd,
        }));
        NodeReport {
            node: name.to_owned(),
            group: "secure".parse().unwrap(),
            status: Ok(status.unwrap()),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    #[test]
    fn a_reform_is_for_a_cluster_that_never_had_a_leader() {
        use serde_json::json;
        let against = |nodes: &[NodeReport], without: &[String]| {
            obstacles(Generation::FIRST, nodes, &[], without, now())
        };
        // Its etcd has begun, waits for the others, and has data: that is what a reform is for.
        let alone =
            json!({"generation": 1, "role": "member", "had_data": true, "had_leader": false});
        let waits = json!({"generation": 1, "role": "waiting", "had_leader": false});
        let fresh = [node("a", 10, alone.clone()), node("b", 10, waits.clone())];
        assert!(
            against(&fresh, &[]).is_empty(),
            "{:?}",
            against(&fresh, &[])
        );
        let gone = [node("a", 10, alone.clone()), node("b", 4000, waits)];
        assert_eq!(against(&gone, &[]).len(), 1, "it may have seen one since");
        assert!(against(&gone, &["b".to_owned()]).is_empty());
        // A leader that was seen once, however long ago, and whoever is to be left out.
        for led in [
            json!({"generation": 1, "role": "member", "had_data": true, "had_leader": true}),
            json!({"generation": 1, "role": "spare", "leader": "a"}),
        ] {
            let nodes = [node("a", 4000, led)];
            assert_eq!(against(&nodes, &["a".to_owned()]).len(), 1);
        }
        // An older agent does not say whether there was one.
        let old = [node(
            "a",
            10,
            json!({"generation": 1, "role": "waiting", "had_data": true}),
        )];
        assert_eq!(against(&old, &[]).len(), 1);
        let before = [node(
            "a",
            10,
            json!({"generation": 1, "role": "member", "had_leader": true}),
        )];
        assert!(obstacles(Generation::FIRST.next(), &before, &[], &[], now()).is_empty());
    }

    #[test]
    fn a_restore_is_finished_once_every_member_is_well() {
        use serde_json::json;
        let well = json!({"generation": 2, "role": "member", "healthy": true});
        let all = || {
            vec![
                node("a", 10, well.clone()),
                node("b", 10, well.clone()),
                node("c", 10, well.clone()),
            ]
        };
        let two = Generation::FIRST.next();
        let open =
            |nodes: &[NodeReport], without: &[String]| not_well(two, nodes, 3, without, now());
        assert!(open(&all(), &[]).is_empty());
        for other in [
            node(
                "c",
                10,
                json!({"generation": 1, "role": "member", "healthy": true}),
            ),
            node(
                "c",
                10,
                json!({"generation": 2, "role": "joining", "why": "it restores"}),
            ),
            node(
                "c",
                10,
                json!({"generation": 2, "role": "member", "healthy": false}),
            ),
            node("c", 4000, well.clone()),
        ] {
            let mut nodes = all();
            nodes[2] = other;
            assert!(!open(&nodes, &[]).is_empty(), "{nodes:?}");
            assert!(open(&nodes, &["c".to_owned()]).is_empty());
        }
        assert_eq!(open(&all()[..2], &[]).len(), 1, "one has never reported");
    }

    #[test]
    fn a_restore_needs_a_quorum_to_hear_of_it() {
        use serde_json::json;
        let member = || json!({"generation": 1, "role": "member", "had_data": true});
        let fresh = |name: &str| node(name, 10, member());
        let silent = |name: &str| node(name, 4000, member());
        let nobody = Known {
            without: &[],
            gone: &[],
            paused: None,
        };
        let against = |nodes: &[NodeReport], known: &Known<'_>| {
            restore_obstacles(Generation::FIRST, nodes, 3, known, now())
        };
        let (refused, noted) = against(&[fresh("a"), fresh("b"), fresh("c")], &nobody);
        assert!(refused.is_empty() && noted.is_empty());
        // One alone can do no harm.
        let (refused, noted) = against(&[fresh("a"), fresh("b"), silent("c")], &nobody);
        assert!(
            refused.is_empty() && noted.len() == 1,
            "{refused:?} {noted:?}"
        );
        let two = [fresh("a"), silent("b"), silent("c")];
        let (refused, _) = against(&two, &nobody);
        assert_eq!(refused.len(), 2);
        assert!(refused[0].contains("--without b"), "{refused:?}");
        for known in [
            Known {
                without: &["c".to_owned()],
                ..nobody
            },
            Known {
                gone: &["c".to_owned()],
                ..nobody
            },
        ] {
            let (refused, noted) = against(&two, &known);
            assert!(refused.is_empty() && noted.len() == 1, "{refused:?}");
        }
        // A held one does not stop either; a spare, or one of an older generation, serves nobody.
        let mut held = fresh("b");
        if let Ok(status) = &mut held.status {
            status.hold = Some(shared::documents::Hold {
                reason: "a look\u{1b}".to_owned(),
                since: now(),
                until: None,
            });
        }
        let (refused, _) = against(&[fresh("a"), held, silent("c")], &nobody);
        assert_eq!(refused.len(), 2);
        assert!(refused[0].contains("hold --lift") && !refused[0].contains('\u{1b}'));
        let spare = node("b", 4000, json!({"generation": 1, "role": "spare"}));
        let two = Generation::FIRST.next();
        let of_now = node(
            "a",
            10,
            json!({"generation": 2, "role": "member", "had_data": true}),
        );
        let all = [of_now, spare, silent("c")];
        let (refused, noted) = restore_obstacles(two, &all, 3, &nobody, now());
        assert!(
            refused.is_empty() && noted.is_empty(),
            "{refused:?} {noted:?}"
        );
        let pause = Pause {
            reason: "a freeze".to_owned(),
            by: "ada".to_owned(),
            since: now(),
            until: None,
        };
        let (refused, _) = against(
            &[fresh("a")],
            &Known {
                paused: Some(&pause),
                ..nobody
            },
        );
        assert!(refused[0].contains("resume"), "{refused:?}");
    }
}
