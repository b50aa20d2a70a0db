//! In what two rollout policies differ, in words. None of it is secret: a probe names files of the release and holds none.

use shared::bundle::{Probe, RolloutPolicy};

use crate::status::printable;

/// A line for each thing that differs.
pub(super) fn changes(old: Option<&RolloutPolicy>, new: Option<&RolloutPolicy>) -> Vec<String> {
    let mut lines = match (old, new) {
        (None, None) => Vec::new(),
        (Some(_), None) => {
            vec!["removed the rollout policy: every node adopts at once".to_owned()]
        }
        (None, Some(new)) => vec![format!(
            "added a rollout policy: {} at once, {}",
            new.max_unavailable,
            match new.probes.len() {
                0 => "no probe".to_owned(),
                1 => "1 probe".to_owned(),
                many => format!("{many} probes"),
            }
        )],
        (Some(old), Some(new)) => of_both(old, new),
    };
    let waived = |policy: Option<&RolloutPolicy>| policy.and_then(|p| p.waiver.clone());
    match (waived(old), waived(new)) {
        (before, Some(waiver)) if before.as_ref() != Some(&waiver) => lines.push(format!(
            "waived the probes, which only warn now: {} (by {})",
            printable(&waiver.reason),
            printable(&waiver.by)
        )),
        (Some(_), None) if new.is_some() => lines.push("the probes decide again".to_owned()),
        _ => {}
    }
    lines
}

fn of_both(old: &RolloutPolicy, new: &RolloutPolicy) -> Vec<String> {
    let mut lines = Vec::new();
    let mut compared = |name: &str, old: String, new: String| {
        if old != new {
            lines.push(format!("changed the rollout's {name} from {old} to {new}"));
        }
    };
    compared(
        "max_unavailable",
        old.max_unavailable.to_string(),
        new.max_unavailable.to_string(),
    );
    compared(
        "deadline",
        old.deadline.to_string(),
        new.deadline.to_string(),
    );
    compared("settle", old.settle.to_string(), new.settle.to_string());
    let find = |probes: &[Probe], name: &str| probes.iter().find(|p| p.name == name).cloned();
    for probe in &new.probes {
        match find(&old.probes, &probe.name) {
            None => lines.push(format!("added the probe {}", probe.name)),
            Some(before) if before != *probe => {
                lines.push(format!("changed the probe {}", probe.name));
            }
            Some(_) => {}
        }
    }
    let gone = old
        .probes
        .iter()
        .filter(|p| find(&new.probes, &p.name).is_none());
    lines.extend(gone.map(|probe| format!("removed the probe {}", probe.name)));
    lines
}

#[cfg(test)]
mod tests {
    use shared::bundle::{MaxUnavailable, ProbeCheck, TimeSpan, Waiver};

    use super::*;

    fn probe(name: &str, failures: u32) -> Probe {
        Probe {
            name: name.to_owned(),
            check: ProbeCheck::Http {
                url: "http://127.0.0.1/".to_owned(),
                ca: None,
                certificate: None,
                key: None,
            },
            period: TimeSpan::from_secs(1),
            timeout: TimeSpan::from_secs(1),
            success_threshold: 1,
            failure_threshold: failures,
        }
    }

    fn policy(most: u32, probes: Vec<Probe>, waiver: Option<&str>) -> RolloutPolicy {
        RolloutPolicy {
            max_unavailable: MaxUnavailable::Nodes(most),
            deadline: TimeSpan::from_secs(60),
            settle: TimeSpan::from_secs(1),
            probes,
            waiver: waiver.map(|reason| Waiver {
                reason: reason.to_owned(),
                by: "ada".to_owned(),
            }),
        }
    }

    #[test]
    fn each_thing_that_differs_is_named() {
        let old = policy(1, vec![probe("a", 3), probe("b", 3)], None);
        let new = policy(2, vec![probe("a", 4), probe("c", 3)], Some("moved\u{1b}"));
        assert_eq!(changes(Some(&old), Some(&old)), Vec::<String>::new());
        let told = changes(Some(&old), Some(&new));
        assert_eq!(
            told[..4],
            [
                "changed the rollout's max_unavailable from 1 to 2",
                "changed the probe a",
                "added the probe c",
                "removed the probe b",
            ]
        );
        assert!(told[4].starts_with("waived the probes, which only warn now: moved"));
        assert!(told[4].ends_with("(by ada)") && !told[4].contains('\u{1b}'));
        assert_eq!(
            changes(Some(&new), Some(&old)).last().unwrap(),
            "the probes decide again"
        );
        assert_eq!(changes(Some(&new), Some(&new)), Vec::<String>::new());
    }

    #[test]
    fn a_policy_comes_and_goes() {
        let one = policy(1, vec![probe("a", 3)], None);
        assert_eq!(
            changes(None, Some(&one)),
            ["added a rollout policy: 1 at once, 1 probe"]
        );
        assert_eq!(
            changes(Some(&one), None),
            ["removed the rollout policy: every node adopts at once"]
        );
        assert_eq!(changes(None, None), Vec::<String>::new());
    }
}
