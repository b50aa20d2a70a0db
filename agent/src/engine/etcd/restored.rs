//! What is left to do once a restored cluster has a leader: the past's leases go, and each member holds its data against the
//! others'. Both are marked on the disk before there is data, so neither is forgotten by an agent that was killed.

use std::time::Duration;

use futures::future::join_all;
use shared::backup::BUMP_REVISION;
use shared::documents::Phase;
use shared::etcd::EtcdRole;
use tokio::time::Instant;

use super::{Ended, Pass};
use crate::engine::Agent;
use crate::etcd::{EtcdClient, EtcdIdentity, KvDigest, MemberLook, ToDo, look};
use crate::trouble::chain;

/// Where API servers say that they live. Those of before the restore do not.
const LEASES: &str = "/registry/masterleases/";
/// How long removing the leases may take.
const LEASES_DEADLINE: Duration = Duration::from_secs(15);
/// How long having all members digest what they hold may take.
const COMPARE_DEADLINE: Duration = Duration::from_secs(240);

/// From a comparison that found a difference to the next: each reads all that a member holds.
const COMPARE_AGAIN: Duration = Duration::from_secs(300);
/// What kind of trouble a difference is, for status and metrics.
const DIFFERS: &str = "etcd_differs";

/// What the digests of the members say.
#[derive(Debug, PartialEq, Eq)]
enum Comparison {
    /// Every other member that answered holds the same.
    Agrees,
    /// Nothing yet, and why.
    Waits(String),
    /// One holds something else.
    Differs(String),
}

impl Agent {
    /// Does what a restore has left to do, where it has, and says in the report what is not done yet.
    pub(super) async fn after_restore(&mut self, pass: &Pass, role: EtcdRole) -> Result<(), Ended> {
        let generation = pass.generation();
        let is_to_do = |what| pass.place.is_to_do(generation, what);
        let (leases, compare) = (is_to_do(ToDo::ClearLeases), is_to_do(ToDo::Compare));
        if role != EtcdRole::Member || !(leases || compare) {
            return Ok(());
        }
        let Some(identity) = &pass.known.identity else {
            return Ok(());
        };
        // Whatever ends this early, the next pass tries again, and meanwhile the node does not pass for one that is done.
        self.etcd.look_at = None;
        if compare {
            self.says("its restored data is not compared with the others' yet".to_owned());
        }
        let client = EtcdClient::new(identity, &pass.facts().client_url);
        let client = client.map_err(|e| Ended::Trouble("etcd_restore", chain(&e)))?;
        if leases {
            self.clear_leases(pass, &client).await?;
        }
        if compare {
            self.compare_data(pass, identity, &client).await?;
        }
        Ok(())
    }

    /// Removes what API servers of before left there. It ends by itself too, but until then names machines that are gone.
    async fn clear_leases(&mut self, pass: &Pass, client: &EtcdClient) -> Result<(), Ended> {
        // What was written since the restore has a higher revision, and is somebody's who lives.
        let order = pass.known.restore.as_ref().map(|(order, _)| order);
        let of_backup = order.map_or(0, |order| order.backup.name.revision());
        let until = of_backup.saturating_add(BUMP_REVISION);
        let delete = client.delete_older(LEASES, until);
        let what = || format!("removing {LEASES} from etcd");
        let deleted = self.network(Phase::Idle, what, LEASES_DEADLINE, delete);
        let removed = deleted
            .await?
            .map_err(|error| Ended::Trouble(error.kind.label(), chain(&error)))?;
        tracing::info!(
            removed,
            "removed the leases of API servers of before the restore"
        );
        Ok(pass.place.done(pass.generation(), ToDo::ClearLeases)?)
    }

    /// Holds what the node's own member has against what the others have. Each made its data by itself from the same backup;
    /// etcd would not notice by itself that one of them differs.
    async fn compare_data(
        &mut self,
        pass: &Pass,
        identity: &EtcdIdentity,
        client: &EtcdClient,
    ) -> Result<(), Ended> {
        if let Some((found, why)) = self.etcd.differs.clone()
            && found.elapsed() < COMPARE_AGAIN
        {
            self.says(why.clone());
            return Err(Ended::Trouble(DIFFERS, why));
        }
        let own = pass.facts().name.clone();
        let comparing = compared(client, identity, &own);
        let what = || "comparing what etcd's members hold".to_owned();
        let said = self
            .network(Phase::Idle, what, COMPARE_DEADLINE, comparing)
            .await?;
        self.etcd.differs = None;
        match said {
            Comparison::Agrees => {
                tracing::info!(generation = %pass.generation(), "the restored data is the same on every member that answers");
                pass.place.done(pass.generation(), ToDo::Compare)?;
                self.says(String::new());
                Ok(())
            }
            Comparison::Waits(why) => {
                self.says(format!("its restored data is not compared yet: {why}"));
                Ok(())
            }
            Comparison::Differs(why) => {
                let why =
                    format!("{why}: restore again, and look at the machine's disk and memory");
                self.etcd.differs = Some((Instant::now(), why.clone()));
                self.says(why.clone());
                Err(Ended::Trouble(DIFFERS, why))
            }
        }
    }

    /// What the report says that the node waits for.
    fn says(&mut self, why: String) {
        if let Some(report) = &mut self.etcd.report {
            report.why = why;
        }
    }
}

/// Has every member that answers digest what it holds, up to a revision that all of them have.
async fn compared(client: &EtcdClient, identity: &EtcdIdentity, own: &str) -> Comparison {
    let looks = match look(client, identity).await {
        Ok(looks) => looks,
        Err(error) => return Comparison::Waits(chain(&error)),
    };
    let answers = looks.iter().filter(|l| !l.member.is_learner);
    let answers = answers.filter_map(|l| Some((l, l.client.as_ref()?, l.status.as_ref().ok()?)));
    let answers: Vec<_> = answers.collect();
    let Some(revision) = answers.iter().map(|(_, _, status)| status.revision).min() else {
        return Comparison::Waits("no member answers".to_owned());
    };
    let digests = answers.iter().map(|(look, client, _)| async move {
        let digest = client.digest(revision).await;
        (name(look), digest.map_err(|e| chain(&e)))
    });
    let digests = join_all(digests.collect::<Vec<_>>()).await;
    judge(own, looks.len(), revision, &digests)
}

fn name(look: &MemberLook) -> String {
    look.member.name.clone()
}

/// What follows from the digests of those of `members` members that gave one.
fn judge(
    own: &str,
    members: usize,
    revision: u64,
    digests: &[(String, Result<KvDigest, String>)],
) -> Comparison {
    let mine = digests.iter().find(|(name, _)| name == own);
    let mine = match mine.map(|(_, digest)| digest) {
        None => return Comparison::Waits(format!("{own} does not answer")),
        Some(Err(why)) => return Comparison::Waits(format!("{own}: {why}")),
        Some(Ok(mine)) => mine,
    };
    if members == 1 {
        return Comparison::Agrees;
    }
    let mut same = 0;
    let mut waits = None;
    for (name, digest) in digests.iter().filter(|(name, _)| name != own) {
        match digest {
            Err(why) => waits = Some(format!("{name}: {why}")),
            Ok(other) if other.compact_revision != mine.compact_revision => {
                waits = Some(format!("{name} was compacted meanwhile"));
            }
            Ok(other) if other.hash != mine.hash => {
                return Comparison::Differs(format!(
                    "after the restore {own} and {name} hold different data at revision {revision} (digests {:08x} and {:08x})",
                    mine.hash, other.hash
                ));
            }
            Ok(_) => same += 1,
        }
    }
    match (waits, same) {
        (Some(why), _) => Comparison::Waits(why),
        // One that does not answer at all may be gone for good; it compares itself if it comes back.
        (None, 0) => Comparison::Waits("no other member answers".to_owned()),
        (None, _) => Comparison::Agrees,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(of: &[(&str, Option<(u32, i64)>)]) -> Vec<(String, Result<KvDigest, String>)> {
        let digest = |(hash, compact_revision)| KvDigest {
            hash,
            compact_revision,
        };
        let each = of.iter().map(|(name, said)| {
            let said = said.map(digest).ok_or_else(|| "unreachable".to_owned());
            ((*name).to_owned(), said)
        });
        each.collect()
    }

    #[test]
    fn members_agree_differ_or_are_asked_again() {
        let judged =
            |members, of: &[(&str, Option<(u32, i64)>)]| judge("a", members, 7, &digests(of));
        let waits = |c: Comparison| matches!(c, Comparison::Waits(_));
        let (same, other) = (Some((1, 5)), Some((2, 5)));
        assert_eq!(judged(1, &[("a", same)]), Comparison::Agrees);
        let all = [("a", same), ("b", same), ("c", same)];
        assert_eq!(judged(3, &all), Comparison::Agrees);
        // One that is gone for good does not answer, and is no part of it.
        assert_eq!(judged(3, &all[..2]), Comparison::Agrees);
        assert!(waits(judged(3, &all[..1])));
        assert!(waits(judged(3, &[("b", same), ("c", same)])));
        assert!(waits(judged(3, &[("a", same), ("b", same), ("c", None)])));
        assert!(waits(judged(2, &[("a", None), ("b", same)])));
        assert!(
            waits(judged(2, &[("a", same), ("b", Some((2, 6)))])),
            "compacted between the two"
        );
        let differs = judged(3, &[("a", same), ("b", None), ("c", other)]);
        assert!(
            matches!(&differs, Comparison::Differs(why) if why.contains("a and c hold different data at revision 7")),
            "{differs:?}"
        );
    }
}
