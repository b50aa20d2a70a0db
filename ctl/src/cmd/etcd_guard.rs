//! What `replace`, `apply`, `run` and `destroy` ask of etcd before machines of the secure group end.

use anyhow::Context as _;
use clap::Args;

use crate::aws::Aws;
use crate::context::{Context, Workspace};
use crate::env::SECURE;
use crate::etcd::{Evidence, Gathered, Leaving, once};
use crate::infra::{ChangeKind, Plan};
use crate::instances::{Instance, read_instances};
use crate::output;

/// What an operator takes upon himself.
#[derive(Debug, Args)]
pub(super) struct WaiverArgs {
    /// Go on without a fresh backup of etcd, for this reason: what was written since the newest one may be lost.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    without_backup: Option<String>,
    /// Go on though etcd would not be sure to keep a quorum, for this reason: it may then have to be restored.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    without_quorum: Option<String>,
}

fn reason(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("it says nothing: give a reason"),
        text => Ok(text.to_owned()),
    }
}

/// What a plan would do to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Threat {
    Nothing,
    /// The ground of its machines changes: none is sure to end, and each may.
    Ground,
    /// The group becomes smaller, or may.
    Shrinks,
    /// The group goes.
    All,
}

fn threat(plan: &Plan) -> Threat {
    let of = |change: &crate::infra::Change| {
        let is = |kind: &str| change.address.contains(kind);
        match change.kind {
            _ if change.danger.is_none() || is("aws_lb.") => Threat::Nothing,
            ChangeKind::Update => Threat::Shrinks,
            ChangeKind::Replace | ChangeKind::Destroy if is("aws_autoscaling_group.") => {
                Threat::All
            }
            _ => Threat::Ground,
        }
    };
    let all: Vec<Threat> = plan.changes.iter().map(of).collect();
    let worst = [Threat::All, Threat::Shrinks, Threat::Ground];
    let worst = worst.into_iter().find(|threat| all.contains(threat));
    worst.unwrap_or(Threat::Nothing)
}

/// Refuses `apply` while etcd cannot do without what its plan ends.
pub(super) async fn before_apply(
    workspace: &Workspace,
    plan: &Plan,
    waiver: &WaiverArgs,
) -> anyhow::Result<()> {
    let threat = threat(plan);
    if threat == Threat::Nothing || waiver.is_whole() {
        return Ok(());
    }
    let context = Context::of(workspace.clone()).await?;
    let gathered = Box::pin(Gathered::read(&context)).await;
    let Some(gathered) = gathered.context(
        "it is not known whether etcd would keep its quorum and has a fresh backup, so the plan is not applied now: mend what \
         follows, or say both --without-quorum REASON and --without-backup REASON",
    )?
    else {
        return Ok(());
    };
    let aws = Aws::of(workspace).await?;
    let instances = read_instances(&aws, &workspace.environment).await?;
    let sizes = &workspace.environment.groups;
    let leaving = match threat {
        Threat::Nothing | Threat::Ground => None,
        Threat::Shrinks => Some(Leaving::DownTo(sizes.get(SECURE).map_or(0, |s| s.min))),
        Threat::All => Some(Leaving::All),
    };
    let evidence = gathered.evidence(&instances);
    waiver.judge(workspace, "the plan is not applied now", &evidence, leaving)
}

/// Refuses `destroy` while what etcd holds would be lost with it. With the buckets the backups go too.
pub(super) async fn before_destroy(
    workspace: &Workspace,
    survey: &crate::infra::buckets::Survey,
    buckets: bool,
    waiver: &WaiverArgs,
) -> anyhow::Result<()> {
    let name = workspace.environment.secrets_bucket.as_str();
    let there = survey.buckets.iter().any(|b| b.exists && b.name == name);
    if buckets || !there || waiver.without_backup.is_some() {
        return Ok(());
    }
    let context = Context::of(workspace.clone()).await?;
    let gathered = Box::pin(Gathered::read(&context)).await;
    let gathered = gathered.context(
        "it is not known whether etcd has a fresh backup, so nothing is destroyed now: mend what follows, or say \
         --without-backup REASON",
    )?;
    match gathered {
        Some(gathered) => waiver.judge(
            workspace,
            "nothing is destroyed now",
            &gathered.evidence(&[]),
            None,
        ),
        None => Ok(()),
    }
}

/// Refuses to end one secure machine while etcd cannot do without it. `others` is what else stands against that.
pub(super) fn before_replace(
    workspace: &Workspace,
    gathered: &Gathered,
    instances: &[Instance],
    leaving: &Instance,
    others: Vec<String>,
    waiver: &WaiverArgs,
) -> anyhow::Result<()> {
    let what = format!("{} is not replaced now", leaving.label());
    let leaving = Some(Leaving::Machine(&leaving.id));
    let evidence = gathered.evidence(instances);
    waiver.judge_with(workspace, &what, &evidence, leaving, others)
}

// === impl WaiverArgs ===

impl WaiverArgs {
    /// Whether nothing is left to be asked.
    fn is_whole(&self) -> bool {
        self.without_backup.is_some() && self.without_quorum.is_some()
    }

    fn judge(
        &self,
        workspace: &Workspace,
        what: &str,
        evidence: &Evidence<'_>,
        leaving: Option<Leaving<'_>>,
    ) -> anyhow::Result<()> {
        self.judge_with(workspace, what, evidence, leaving, Vec::new())
    }

    fn judge_with(
        &self,
        workspace: &Workspace,
        what: &str,
        evidence: &Evidence<'_>,
        leaving: Option<Leaving<'_>>,
        others: Vec<String>,
    ) -> anyhow::Result<()> {
        let name = &workspace.name;
        let mut against = others;
        let quorum = leaving.map_or_else(Vec::new, |l| evidence.against_quorum(l));
        match &self.without_quorum {
            Some(why) if !quorum.is_empty() => output::note(format!(
                "going on though etcd may lose its quorum ({why}): {}",
                quorum.join("; ")
            )),
            _ => against.extend(quorum),
        }
        match (evidence.against_backup(), &self.without_backup) {
            (None, _) => {}
            (Some(late), Some(why)) => {
                output::note(format!("going on without a fresh backup ({why}): {late}"));
            }
            (Some(late), None) => against.push(format!(
                "{late}: `platformctl etcd backup -e {name}` takes one now; or say --without-backup REASON"
            )),
        }
        let lines: String = once(against).iter().map(|a| format!("\n    {a}")).collect();
        match lines.is_empty() {
            true => Ok(()),
            false => anyhow::bail!("{what}:{lines}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::Change;

    fn plan(changes: &[(&str, ChangeKind, bool)]) -> Plan {
        let change = |(address, kind, danger): &(&str, ChangeKind, bool)| Change {
            address: (*address).to_owned(),
            kind: *kind,
            arguments: Vec::new(),
            danger: danger.then(|| "x".to_owned()),
        };
        Plan {
            changes: changes.iter().map(change).collect(),
        }
    }

    #[test]
    fn the_worst_change_counts_and_a_balancer_does_not() {
        const SECURE: &str = "aws_autoscaling_group.secure";
        use ChangeKind::{Destroy, Forget, Replace, Update};
        let subnet = ("aws_subnet.secure[\"a\"]", Replace, true);
        for (changes, expected) in [
            (&[][..], Threat::Nothing),
            (&[(SECURE, Update, false)], Threat::Nothing),
            (&[("aws_lb.public", Replace, true)], Threat::Nothing),
            (&[subnet], Threat::Ground),
            (&[("aws_vpc.main", Replace, true)], Threat::Ground),
            (&[(SECURE, Forget, true)], Threat::Ground),
            (&[subnet, (SECURE, Update, true)], Threat::Shrinks),
            (
                &[(SECURE, Update, true), (SECURE, Replace, true)],
                Threat::All,
            ),
            (&[subnet, (SECURE, Destroy, true)], Threat::All),
        ] {
            assert_eq!(threat(&plan(changes)), expected, "{changes:?}");
        }
    }

    #[test]
    fn a_reason_is_more_than_nothing() {
        assert!(reason("  ").is_err());
        assert_eq!(reason(" moved "), Ok("moved".to_owned()));
    }
}
