//! What a release has to do with the node's member: what is held back of it, and when it may restart it.

use std::collections::BTreeSet;
use std::time::Duration;

use shared::backup::{RESTORE_FILE, RESTORE_IDENTITY_FILE, RestoreOrder};
use shared::bundle::{EtcdSection, Release};
use shared::documents::Waiting;
use shared::etcd::{
    Form, MayRestart, Memory, NO_QUORUM_PATIENCE, RestartView, Unseen, goes_back, may_restart,
    may_restart_unseen,
};
use shared::names::{EntryPath, NodeId, ReleaseNumber};
use shared::secret::SecretText;
use tokio::time::Instant;

use super::act::SLOT_DEADLINE;
use super::{Ended, Known, Pass, internal};
use crate::disk::{CheckedRelease, Plan};
use crate::engine::Agent;
use crate::engine::failure::Stop;
use crate::engine::rollout::SlotTaken;
use crate::etcd::{EtcdIdentity, EtcdPlace};
use crate::trouble::chain;

/// How long a member keeps the slot after its own restart at least: kubelet may take so long to see the new manifest, and
/// what answers until then is the member of before.
const RESTARTS: Duration = Duration::from_secs(25);

/// The names, in the manifest directory, of what a node without a member's configuration does not run.
fn held(section: Option<&EtcdSection>, memory: Option<&Memory>) -> BTreeSet<String> {
    let Some(section) = section.filter(|_| !memory.is_some_and(Memory::lets_run)) else {
        return BTreeSet::new();
    };
    let names = section.hold_back.iter();
    let names = names.filter_map(|path| path.as_str().strip_prefix("manifests/"));
    names.map(str::to_owned).collect()
}

/// Whether a release restarts the node's member: platformctl names etcd's own manifest first.
fn restarts(checked: &CheckedRelease, plan: &Plan) -> bool {
    let section = checked.release().index().etcd.as_ref();
    let own = section.and_then(|s| s.hold_back.first());
    own.is_some_and(|own| plan.write_manifests.contains(own))
}

/// What a release says its generation begins with.
fn restore_of(release: &Release) -> Result<Option<(RestoreOrder, Option<SecretText>)>, Ended> {
    let index = release.index();
    let bytes = |path: &str| {
        let path: EntryPath = path.parse().ok()?;
        release.bytes(&path)
    };
    let Some(order) = bytes(RESTORE_FILE) else {
        return Ok(None);
    };
    let order = RestoreOrder::from_file(order.expose(), &index.environment, &index.group)
        .map_err(|e| Ended::Trouble("etcd_restore", chain(&e)))?;
    let identity = bytes(RESTORE_IDENTITY_FILE)
        .map(|bytes| SecretText::new(String::from_utf8_lossy(bytes.expose()).trim().to_owned()));
    Ok(Some((order, identity)))
}

/// What a node sees of the members before a release restarts its own.
enum Sight {
    /// It has none, so nothing is restarted.
    Nobody,
    /// It does not see them.
    Unseen(Unseen),
    /// It does.
    Seen(RestartView),
}

impl Known {
    fn of(release: &Release) -> Result<Self, Ended> {
        let section = release.index().etcd.clone();
        let base = section.as_ref().and_then(|s| release.bytes(&s.base));
        let base = base.map(|b| String::from_utf8_lossy(b.expose()).into_owned());
        let identity = match &section {
            None => None,
            Some(_) => EtcdIdentity::from_release(release)
                .map_err(|why| Ended::Trouble("etcd_identity", why))?,
        };
        Ok(Self {
            release: release.index().release,
            section,
            base: base.unwrap_or_default(),
            identity,
            restore: restore_of(release)?,
        })
    }
}

impl Agent {
    /// What the release on the disk says about etcd; read once for each release.
    pub(super) async fn etcd_release(&mut self) -> Result<Option<Known>, Ended> {
        let Some(release) = self.release() else {
            return Ok(None);
        };
        if let Some(known) = &self.etcd.known
            && known.release == release
        {
            return Ok(Some(known.clone()));
        }
        let committed = self.on_disk(|disk| disk.committed()).await;
        let Some(committed) = committed.map_err(internal)?? else {
            return Ok(None);
        };
        let known = Known::of(&committed)?;
        self.etcd.known = Some(known.clone());
        Ok(Some(known))
    }

    /// Holds back what the section says, unless the node has a configuration to run it with. What was held back begins only
    /// once nothing listens in its place any more: kubelet may have missed that it was gone in between, and what runs then is
    /// the member of another generation.
    pub(super) async fn hold_back_for(
        &mut self,
        section: Option<&EtcdSection>,
        memory: Option<&Memory>,
    ) -> Result<(), Ended> {
        let names = held(section, memory);
        let place = self.etcd.place.as_ref();
        let ports = place.map(EtcdPlace::ports).unwrap_or_default();
        let changed = self
            .on_disk(move |disk| {
                let before = disk.held_back()?;
                let begins = before.iter().any(|name| !names.contains(name));
                if begins && !disk.are_free(&ports) {
                    return Ok(Err(ports));
                }
                let changed = disk.hold_back(&names)?;
                if changed && disk.ledger().applying.is_none() {
                    disk.repair()?;
                }
                Ok::<_, crate::disk::DiskError>(Ok(changed.then_some(names)))
            })
            .await;
        let changed = changed.map_err(internal)??.map_err(|ports| {
            let why = format!(
                "something still listens on port {} though etcd is held back: what ran before has not ended",
                ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ")
            );
            Ended::Trouble("etcd_runs", why)
        })?;
        if let Some(names) = changed {
            tracing::info!(held_back = ?names, "the manifests that are held back changed");
        }
        Ok(())
    }

    /// Before a release is written: its base into the configuration, and what it holds back. Whether that changes the plan.
    pub(in crate::engine) async fn prepare_etcd(
        &mut self,
        release: &Release,
    ) -> Result<bool, (&'static str, String)> {
        let told = |ended: Ended| match ended {
            Ended::Trouble(kind, message) => (kind, message),
            Ended::Stop(_) => ("internal", String::new()),
        };
        let Some(place) = self.etcd.place.clone() else {
            return Ok(false);
        };
        let known = Known::of(release).map_err(told)?;
        let memory = place.memory().map_err(|e| told(e.into()))?;
        let section = known.section.as_ref();
        let memory = memory.filter(|m| section.is_some_and(|s| s.generation == m.generation));
        if let (Some(section), Some(memory)) = (section, &memory) {
            let token = shared::etcd::Fence::token(&self.identity.environment, section.generation);
            place
                .write(&known.base, &token, memory)
                .map_err(|e| told(e.into()))?;
        }
        // What its generation begins with comes first: without, it would begin with nothing.
        let pending = memory.as_ref().filter(|memory| {
            let of_this = |o: &RestoreOrder| o.generation == memory.generation.get();
            let ordered = known.restore.as_ref().is_some_and(|(o, _)| of_this(o));
            let has_data = place.has_data(memory.generation).unwrap_or(false);
            ordered && !has_data && matches!(memory.form, Form::New { .. })
        });
        let memory = memory.as_ref().filter(|_| pending.is_none());
        let names = held(section, memory);
        let changed = self.on_disk(move |disk| disk.hold_back(&names)).await;
        changed
            .map_err(|e| told(internal(e)))?
            .map_err(|e| told(e.into()))
    }

    /// Why a release has to wait that restarts the node's member; none where it need not.
    pub(in crate::engine) async fn etcd_waits(
        &mut self,
        checked: &CheckedRelease,
        plan: &Plan,
    ) -> Result<Option<Waiting>, Stop> {
        let release = checked.number();
        let waits = |why: String| {
            Some(Waiting {
                release,
                kind: "etcd".to_owned(),
                why,
            })
        };
        if let Some(since) = self.etcd.holds_slot {
            // Past its deadline others clear it; the release may be what it takes to come to an end.
            if since.elapsed() < SLOT_DEADLINE.get() {
                return Ok(waits("this node changes etcd's membership".to_owned()));
            }
            self.give_back_membership().await?;
            self.etcd.holds_slot = None;
        }
        if !restarts(checked, plan) {
            self.etcd.restart = None;
            return Ok(None);
        }
        let since = match self.etcd.restart {
            Some((of, since)) if of == release => since,
            _ => Instant::now(),
        };
        self.etcd.restart = Some((release, since));
        let view = match self.restart_view(release, since).await? {
            Sight::Nobody => return Ok(None),
            Sight::Seen(view) => view,
            Sight::Unseen(why) if may_restart_unseen(why, since.elapsed()) => return Ok(None),
            Sight::Unseen(Unseen::NoQuorum) => {
                let why = "it restarts this node's etcd member, and no member answers with a quorum behind it";
                return Ok(waits(format!(
                    "{why}: for {} s",
                    NO_QUORUM_PATIENCE.as_secs()
                )));
            }
            Sight::Unseen(Unseen::NotAsked) => {
                let why = "it restarts this node's etcd member, and the others cannot be looked at";
                return Ok(waits(why.to_owned()));
            }
        };
        Ok(match may_restart(view) {
            MayRestart::Yes => None,
            MayRestart::Quorum { healthy, needed } => waits(format!(
                "it restarts this node's etcd member, and {healthy} of the others are healthy where {needed} are needed"
            )),
            MayRestart::FollowersFirst => waits(format!(
                "it restarts this node's etcd member, which leads, and {} of the others go first",
                view.others_pending
            )),
        })
    }

    async fn restart_view(
        &mut self,
        release: ReleaseNumber,
        since: Instant,
    ) -> Result<Sight, Stop> {
        let unseen = |why: String| {
            tracing::warn!(why, "etcd's members cannot be looked at");
            Ok(Sight::Unseen(Unseen::NotAsked))
        };
        let mut pass = match self.pass_now().await {
            Ok(Some(pass)) => pass,
            Ok(None) => return Ok(Sight::Nobody),
            Err(Ended::Trouble(_, why)) => return unseen(why),
            Err(Ended::Stop(stop)) => return Err(stop),
        };
        let own = match pass.own() {
            Ok(own) if own.has_data => own,
            Ok(_) => return Ok(Sight::Nobody),
            Err(Ended::Trouble(_, why)) => return unseen(why),
            Err(Ended::Stop(stop)) => return Err(stop),
        };
        let seen = match self.cluster(&mut pass, &own).await {
            Ok(Some(seen)) => seen,
            Ok(None) => return Ok(Sight::Unseen(Unseen::NoQuorum)),
            Err(Ended::Trouble(_, why)) => return unseen(why),
            Err(Ended::Stop(stop)) => return Err(stop),
        };
        let facts = pass.facts();
        let is_own = |m: &&shared::etcd::MemberSeen| m.name == facts.name;
        let voters: Vec<_> = seen.members.iter().filter(|m| !m.learner).collect();
        let own_healthy = voters.iter().any(|m| is_own(m) && m.healthy);
        let others = voters.iter().filter(|m| !is_own(m));
        let healthy = others.clone().filter(|m| m.healthy).count();
        let statuses = self.statuses().await?.unwrap_or_default();
        let pending = others
            .filter(|m| {
                let of = statuses
                    .iter()
                    .find(|s| s.etcd.as_ref().is_some_and(|e| e.facts.name == m.name));
                of.is_some_and(|s| s.release < Some(release))
            })
            .count();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Sight::Seen(RestartView {
            voters: number(voters.len()),
            own_healthy,
            others_healthy: number(healthy),
            leads: pass.leader.as_ref() == Some(&facts.name),
            others_pending: number(pending),
            waited: since.elapsed(),
        }))
    }

    /// For a release that has no rollout to take turns in: where it restarts this node's member, the group's slot, and why it
    /// has to wait for it. A generation that begins, and a node's first release, restart nothing.
    pub(in crate::engine) async fn etcd_turn(
        &mut self,
        checked: &CheckedRelease,
        plan: &Plan,
    ) -> Result<Option<Waiting>, Stop> {
        let release = checked.number();
        let section = checked.release().index().etcd.as_ref();
        let generation = section.map(|s| s.generation);
        let of_now = match self.etcd_release().await {
            Ok(known) => known.and_then(|k| Some(k.section?.generation)),
            Err(Ended::Stop(stop)) => return Err(stop),
            Err(Ended::Trouble(..)) => None,
        };
        let is_same = of_now != generation || self.release() == Some(release);
        if generation.is_none() || is_same || !restarts(checked, plan) {
            return Ok(None);
        }
        let place = self.etcd.place.as_ref();
        let has_data =
            |place: &EtcdPlace| generation.is_some_and(|g| place.has_data(g).unwrap_or(true));
        if !place.is_some_and(has_data) {
            return Ok(None);
        }
        if let Some(waiting) = Box::pin(self.etcd_waits(checked, plan)).await? {
            return Ok(Some(waiting));
        }
        let had = self.etcd.restarts.is_some();
        match self.take_membership(release, SLOT_DEADLINE).await? {
            SlotTaken::Held | SlotTaken::Now if had => Ok(None),
            // What was seen of the members may be old by now.
            SlotTaken::Held | SlotTaken::Now => {
                self.etcd.restarts = Some(Instant::now());
                let waiting = Box::pin(self.etcd_waits(checked, plan)).await?;
                if waiting.is_some() {
                    self.give_back_membership().await?;
                    self.etcd.restarts = None;
                }
                Ok(waiting)
            }
            SlotTaken::Not(why) => Ok(Some(Waiting {
                release,
                kind: "etcd".to_owned(),
                why: format!("it restarts this node's etcd member, and {why}"),
            })),
        }
    }

    /// It is about to be written: from now on the slot is kept until the member is back.
    pub(in crate::engine) fn etcd_begins_restart(&mut self) {
        if self.etcd.restarts.is_some() {
            self.etcd.restarts = Some(Instant::now());
            self.etcd.look_at = None;
        }
    }

    /// Gives back the slot under which the node's member was restarted, once that is well again.
    pub(super) async fn end_restart(&mut self, is_well: bool) -> Result<(), Ended> {
        let long = |since: Instant| is_well && since.elapsed() >= RESTARTS;
        if self.etcd.restarts.is_some_and(long) {
            self.give_back_membership().await?;
            self.etcd.restarts = None;
        }
        Ok(())
    }

    /// A pass over the release on the disk; none where it does not run etcd here.
    async fn pass_now(&mut self) -> Result<Option<Pass>, Ended> {
        let (place, known) = (self.etcd.place.clone(), self.etcd_release().await?);
        let (Some(place), Some(known)) = (place, known) else {
            return Ok(None);
        };
        let Some(section) = known.section.clone() else {
            return Ok(None);
        };
        let environment = self.identity.environment.clone();
        Ok(Some(Pass::new(environment, place, known, section)))
    }

    /// Why the node may not take a release, newer or older: its member's data would be of a newer etcd than the one that reads it.
    pub(in crate::engine) async fn etcd_stays(&mut self, to: &Release) -> Option<String> {
        let place = self.etcd.place.clone()?;
        let to = to.index().etcd.clone()?;
        let from = match self.etcd_release().await {
            Ok(known) => known?.section?,
            Err(_) => return None,
        };
        // Another generation begins with no data of this one.
        if from.generation != to.generation {
            return None;
        }
        let has_data = place.has_data(from.generation).unwrap_or(true);
        let back = has_data && goes_back(&from.version, &to.version);
        back.then(|| {
            format!(
                "its etcd is {} and this node's data that of {}: data goes forward only. Publish a release that mends it",
                to.version, from.version
            )
        })
    }

    /// Nodes that somebody said are gone, with when; empty where nobody can tell.
    pub(super) async fn gone_nodes(&mut self) -> Result<Vec<(NodeId, jiff::Timestamp)>, Stop> {
        match self.forgotten().await {
            Ok(gone) => Ok(gone),
            Err(Stop::Failed(failure)) => {
                tracing::debug!(
                    error = chain(failure.error.as_ref()),
                    "nobody says who is gone"
                );
                Ok(Vec::new())
            }
            Err(stop) => Err(stop),
        }
    }
}
