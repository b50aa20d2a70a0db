//! What a release has to do with the node's member: what is held back of it, and when it may restart it.

use std::collections::BTreeSet;

use shared::backup::{RESTORE_FILE, RESTORE_IDENTITY_FILE, RestoreOrder};
use shared::bundle::{EtcdSection, Release};
use shared::documents::Waiting;
use shared::etcd::{MayRestart, Memory, RestartView, goes_back, may_restart};
use shared::names::{EntryPath, NodeId, ReleaseNumber};
use shared::secret::SecretText;
use tokio::time::Instant;

use super::{Ended, Known, Pass, internal};
use crate::disk::{CheckedRelease, Plan};
use crate::engine::Agent;
use crate::engine::failure::Stop;
use crate::etcd::EtcdIdentity;
use crate::trouble::chain;

/// The names, in the manifest directory, of what a node without a member's configuration does not run.
fn held(section: Option<&EtcdSection>, memory: Option<&Memory>) -> BTreeSet<String> {
    let Some(section) = section.filter(|_| !memory.is_some_and(Memory::lets_run)) else {
        return BTreeSet::new();
    };
    let names = section.hold_back.iter();
    let names = names.filter_map(|path| path.as_str().strip_prefix("manifests/"));
    names.map(str::to_owned).collect()
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

    /// Holds back what the section says, unless the node has a configuration to run it with.
    pub(super) async fn hold_back_for(
        &mut self,
        section: Option<&EtcdSection>,
        memory: Option<&Memory>,
    ) -> Result<(), Ended> {
        let names = held(section, memory);
        let changed = self
            .on_disk(move |disk| {
                let changed = disk.hold_back(&names)?;
                if changed && disk.ledger().applying.is_none() {
                    disk.repair()?;
                }
                Ok::<_, crate::disk::DiskError>(changed.then_some(names))
            })
            .await;
        if let Some(names) = changed.map_err(internal)?? {
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
        let names = held(section, memory.as_ref());
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
        if self.etcd.holds_slot {
            return Ok(waits("this node changes etcd's membership".to_owned()));
        }
        let section = checked.release().index().etcd.clone();
        let own = section.as_ref().and_then(|s| s.hold_back.first());
        let restarts = own.is_some_and(|own| plan.write_manifests.contains(own));
        if !restarts {
            self.etcd.restart = None;
            return Ok(None);
        }
        let since = match self.etcd.restart {
            Some((of, since)) if of == release => since,
            _ => Instant::now(),
        };
        self.etcd.restart = Some((release, since));
        let Some(view) = self.restart_view(release, since).await? else {
            return Ok(None);
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
    ) -> Result<Option<RestartView>, Stop> {
        let mut pass = match self.pass_now().await {
            Ok(Some(pass)) => pass,
            Ok(None) | Err(Ended::Trouble(..)) => return Ok(None),
            Err(Ended::Stop(stop)) => return Err(stop),
        };
        let own = match pass.own() {
            Ok(own) if own.has_data => own,
            _ => return Ok(None),
        };
        let seen = match self.cluster(&mut pass, &own).await {
            Ok(seen) => seen,
            Err(Ended::Trouble(_, why)) => {
                tracing::warn!(why, "etcd's members cannot be looked at");
                None
            }
            Err(Ended::Stop(stop)) => return Err(stop),
        };
        let Some(seen) = seen else {
            return Ok(None);
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
        Ok(Some(RestartView {
            voters: number(voters.len()),
            own_healthy,
            others_healthy: number(healthy),
            leads: pass.leader.as_ref() == Some(&facts.name),
            others_pending: number(pending),
            waited: since.elapsed(),
        }))
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

    /// Why the node may not go back to a release: its member's data would be of a newer etcd than the one that reads it.
    pub(in crate::engine) async fn etcd_stays(&mut self, to: &Release) -> Option<String> {
        let place = self.etcd.place.clone()?;
        let to = to.index().etcd.clone()?;
        let from = match self.etcd_release().await {
            Ok(known) => known?.section?,
            Err(_) => return None,
        };
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
