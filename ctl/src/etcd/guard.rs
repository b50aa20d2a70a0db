//! Whether etcd can do without the machines that a verb would end, and whether what it holds has been put aside. Pure.
//!
//! Nodes' reports may be withheld, old or missing; whatever is not said counts against going on.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use shared::documents::{Holder, HolderWork};
use shared::etcd::{EtcdReport, EtcdRole, Fence, Generation};

use super::Backup;
use crate::instances::instance_of;
use crate::status::{NodeReport, printable};

/// A backup is begun each hour; one that is older than that and a while was missed.
pub const BACKUP_LIMIT: SignedDuration = SignedDuration::from_mins(75);
/// A report that is older says nothing about what its node reaches: one that is at rest writes every five minutes.
const SIGHT: SignedDuration = SignedDuration::from_secs(360);

/// Which machines of the secure group end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving<'a> {
    /// This one, by its instance.
    Machine(&'a str),
    /// Whichever an auto-scaling group chooses, until it has so many.
    DownTo(u32),
    /// All at once.
    All,
}

/// What the bucket says about who forms the generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceFound {
    /// Nobody has begun.
    Absent,
    /// These have, or will.
    There(Fence),
    /// It is there, and not to be believed.
    Unreadable(String),
}

/// A machine that there is, and what it reports.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Its instance.
    pub id: &'a str,
    /// What people call it.
    pub label: String,
    /// What it reports.
    pub report: Option<&'a NodeReport>,
}

/// All that is looked at.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The generation of the keyring.
    pub generation: Generation,
    /// How many members the environment wants.
    pub voters: u32,
    /// The machines of the secure group that there are.
    pub machines: Vec<Machine<'a>>,
    /// Every report of the group, of machines that are gone too.
    pub reports: &'a [NodeReport],
    /// The backups, the newest first.
    pub backups: &'a [Backup],
    /// Who forms the generation.
    pub fence: FenceFound,
    /// Who holds the group's slot, or why that cannot be known.
    pub holders: Result<Vec<Holder>, String>,
    /// Now, by the store's clock.
    pub now: Timestamp,
}

fn said(report: &NodeReport) -> Option<&EtcdReport> {
    report.status.as_ref().ok()?.etcd.as_ref()
}

// === impl Evidence ===

impl Evidence<'_> {
    /// Whether etcd may hold anything. It does not where nobody was ever to form it; or where all who were say that there never
    /// was a leader, or that they have no data and know none.
    #[must_use]
    pub fn has_formed(&self) -> bool {
        let has_data = |e: &EtcdReport| {
            let in_it = matches!(e.role, EtcdRole::Member | EtcdRole::Learner);
            let began = e.had_data || in_it;
            // What was begun and never had a leader has acknowledged nothing.
            e.leader.is_some() || e.had_leader.unwrap_or(began)
        };
        let says_nothing = |r: &NodeReport| r.status.is_err();
        let may_hold = |r: &NodeReport| says_nothing(r) || said(r).is_some_and(has_data);
        if !self.backups.is_empty() || self.reports.iter().any(may_hold) {
            return true;
        }
        let FenceFound::There(fence) = &self.fence else {
            return self.fence != FenceFound::Absent;
        };
        let spoken = |member: &shared::etcd::FenceMember| {
            let fresh = self.reports.iter().filter(|r| self.is_fresh(r));
            let mut its = fresh.filter_map(said);
            its.any(|e| e.facts.node == member.node && e.generation == fence.generation)
        };
        !fence.members.iter().all(spoken)
    }

    fn is_fresh(&self, report: &NodeReport) -> bool {
        let age = report.age_seconds(self.now);
        age.is_some_and(|age| age <= SIGHT.as_secs())
    }

    /// What keeps etcd from doing without them.
    #[must_use]
    pub fn against_quorum(&self, leaving: Leaving<'_>) -> Vec<String> {
        if !self.has_formed() {
            return Vec::new();
        }
        let id = match leaving {
            Leaving::All => {
                let all = "every member of etcd would end at once, and its data with them";
                return vec![all.to_owned()];
            }
            Leaving::Machine(id) => Some(id),
            Leaving::DownTo(_) => None,
        };
        let mut against = self.slot(id);
        let mut healthy = Vec::new();
        let mut voters = 0;
        for machine in &self.machines {
            let voice = self.voice(machine);
            voters += u32::from(matches!(voice, Ok(Some(_))));
            match voice {
                _ if Some(machine.id) == id => {}
                Ok(None) => {}
                Ok(Some(etcd)) => healthy.push((machine, etcd)),
                Err(why) => against.push(format!("{}: {why}", machine.label)),
            }
        }
        for (from, etcd) in &healthy {
            for (to, other) in &healthy {
                if from.id != to.id && !etcd.reaches.contains(&other.facts.name) {
                    against.push(format!(
                        "{}: its etcd does not reach that of {}",
                        from.label, to.label
                    ));
                }
            }
        }
        let members = self.voters.max(voters);
        let needed = members / 2 + 1;
        // Those with a vote may be the first to go.
        let ends = match leaving {
            Leaving::DownTo(count) => self.machines.len().saturating_sub(count as usize),
            _ => 0,
        };
        let remain = healthy.len().saturating_sub(ends);
        if remain < needed as usize {
            against.push(format!(
                "only {remain} healthy members of etcd would be sure to remain, and its {members} members need {needed}"
            ));
        }
        against
    }

    /// Why the newest backup does not do; none where it does, or there is nothing to lose.
    #[must_use]
    pub fn against_backup(&self) -> Option<String> {
        if !self.has_formed() {
            return None;
        }
        let good = |b: &&Backup| b.generation == self.generation.get() && b.problem().is_none();
        let newest = self.backups.iter().filter(good).max_by_key(|b| b.name.at());
        let limit = BACKUP_LIMIT.as_mins();
        let Some(newest) = newest else {
            return Some(format!(
                "generation {} of etcd has no backup that could be restored",
                self.generation
            ));
        };
        let age = self.now.duration_since(newest.name.at());
        (age.abs() > BACKUP_LIMIT).then(|| {
            format!(
                "the newest good backup of etcd, {}, is {} minutes old, and {limit} are the limit",
                newest.name,
                age.as_mins()
            )
        })
    }

    /// Whoever else is in transition.
    fn slot(&self, leaving: Option<&str>) -> Vec<String> {
        let holders = match &self.holders {
            Ok(holders) => holders,
            Err(why) => {
                return vec![format!(
                    "whether a node is in transition is not known: {why}"
                )];
            }
        };
        let others = holders
            .iter()
            .filter(|h| Some(instance_of(h.node.as_str())) != leaving);
        others
            .map(|h| match h.work {
                HolderWork::Release => format!("{} adopts release {}", h.node, h.release),
                HolderWork::Membership => format!("{} changes etcd's membership", h.node),
            })
            .collect()
    }

    /// The member with a vote that runs well on a machine; none for one that stands by; or what is wrong.
    fn voice<'m>(&self, machine: &Machine<'m>) -> Result<Option<&'m EtcdReport>, String> {
        let report = machine.report.ok_or("has not reported")?;
        let status = match &report.status {
            Ok(status) => status,
            Err(error) => return Err(error.to_string()),
        };
        if !self.is_fresh(report) {
            return Err("no report for too long".to_owned());
        }
        let etcd = status.etcd.as_ref();
        let etcd = etcd.ok_or("says nothing about etcd")?;
        if etcd.generation != self.generation {
            return Err(format!(
                "is of generation {} of etcd, not {}",
                etcd.generation, self.generation
            ));
        }
        match etcd.role {
            EtcdRole::Spare => Ok(None),
            EtcdRole::Waiting | EtcdRole::Joining | EtcdRole::Learner => {
                Err("is no member of etcd with a vote yet".to_owned())
            }
            EtcdRole::Member if !etcd.why.is_empty() => {
                Err(format!("its etcd is not well: {}", printable(&etcd.why)))
            }
            EtcdRole::Member if etcd.healthy == Some(false) => {
                Err("its etcd does not answer, or knows no leader".to_owned())
            }
            EtcdRole::Member if etcd.leader.is_none() => Err("its etcd knows no leader".to_owned()),
            EtcdRole::Member => Ok(Some(etcd)),
        }
    }
}

/// The same once, in the order of their first mention.
#[must_use]
pub fn once(lines: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    lines
        .into_iter()
        .filter(|line| seen.insert(line.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
