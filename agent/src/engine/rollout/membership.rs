//! The group's slot for a change of etcd's membership.

use jiff::Timestamp;
use shared::bundle::TimeSpan;
use shared::etcd::{SlotAnswer, give_back_slot, take_slot};
use shared::names::{NodeId, ReleaseNumber};

use super::CONFLICT;
use crate::engine::Agent;
use crate::engine::failure::Stop;

/// Whether the node may change the membership.
#[derive(Debug)]
pub(in crate::engine) enum SlotTaken {
    /// It has held the slot already.
    Held,
    /// It holds it from now on.
    Now,
    /// Not now, and why.
    Not(String),
}

impl Agent {
    /// Takes the slot, where nobody has it.
    pub(in crate::engine) async fn take_membership(
        &mut self,
        release: ReleaseNumber,
        deadline: TimeSpan,
    ) -> Result<SlotTaken, Stop> {
        if self.has_slot() {
            return Ok(SlotTaken::Not("this node adopts a release".to_owned()));
        }
        let read = self.read_rollout().await?;
        let own = self.own_facts();
        let stamp = self.stamp(read.now);
        let document = read.document.as_ref();
        match take_slot(document, own.facts(), release, deadline, stamp) {
            SlotAnswer::Holds => Ok(SlotTaken::Held),
            SlotAnswer::Wait(why) => Ok(SlotTaken::Not(why)),
            SlotAnswer::Take(next) => match self.write_rollout(&next, read.tag).await {
                Ok(()) => Ok(SlotTaken::Now),
                Err(Stop::Failed(failure)) if failure.kind == CONFLICT => Ok(SlotTaken::Not(
                    "others write the rollout document".to_owned(),
                )),
                Err(stop) => Err(stop),
            },
        }
    }

    /// Gives it back; where that fails, the next pass does it.
    pub(in crate::engine) async fn give_back_membership(&mut self) -> Result<(), Stop> {
        let read = self.read_rollout().await?;
        let Some(document) = read.document else {
            return Ok(());
        };
        let own = self.own_facts();
        let stamp = self.stamp(read.now);
        match give_back_slot(&document, own.facts(), stamp) {
            Some(next) => self.write_rollout(&next, read.tag).await,
            None => Ok(()),
        }
    }

    /// Who is gone, by the word of an operator or of the cloud, and since when.
    pub(in crate::engine) async fn forgotten(&mut self) -> Result<Vec<(NodeId, Timestamp)>, Stop> {
        let read = self.read_rollout().await?;
        let forgotten = read.document.map(|d| d.forgotten).unwrap_or_default();
        Ok(forgotten.into_iter().map(|f| (f.node, f.at)).collect())
    }
}
