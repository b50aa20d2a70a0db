//! The two buckets: ours, or to be had. And where the secrets bucket is there, what it holds.

use jiff::Timestamp;
use shared::store::ObjectStore as _;

use super::identity::judge_clock;
use super::{Line, contents};
use crate::aws::Aws;
use crate::context::{Context, Workspace};
use crate::env::Environment;
use crate::infra::buckets::{Purpose, Standing, standing};

pub(super) async fn check(
    aws: &Aws,
    workspace: &Workspace,
    account: &str,
    now: Timestamp,
) -> Vec<Line> {
    let environment = &workspace.environment;
    let name = environment.secrets_bucket.as_str();
    let secrets = standing(aws, environment, account, name, Purpose::Secrets).await;
    let mut lines = vec![judge(environment, Purpose::Secrets, name, &secrets)];
    if let Some(bucket) = &environment.terraform_bucket {
        let (name, purpose) = (bucket.as_str(), Purpose::Terraform);
        let found = standing(aws, environment, account, name, purpose).await;
        lines.push(judge(environment, purpose, name, &found));
    }
    let store = aws.bucket(name);
    // Whatever it answers, it tells the time.
    let _ = store.list(contents::BACKUPS).await;
    lines.push(judge_clock(store.server_time()));
    if matches!(secrets, Standing::Ours(_)) {
        match Context::of(workspace.clone()).await {
            Ok(context) => lines.extend(contents::check(&context, now).await),
            Err(error) => lines.push(Line::fail(
                "keyring",
                format!("{error:#}"),
                "see the lines above",
            )),
        }
    }
    lines
}

fn judge(environment: &Environment, purpose: Purpose, name: &str, standing: &Standing) -> Line {
    let check = match purpose {
        Purpose::Secrets => "secrets bucket",
        Purpose::Terraform => "terraform bucket",
    };
    if let Some(problem) = standing.problem(environment, purpose, name) {
        return Line::fail(check, problem.says, problem.fix);
    }
    match standing {
        Standing::Refused(error) | Standing::Unknown(error) => Line::unseen(check, error),
        Standing::Free => Line::ok(check, format!("{name} is not there yet: the name is free")),
        Standing::Ours(marks) if marks.by_kms && purpose == Purpose::Secrets => Line::warn(
            check,
            format!("{name} encrypts with a KMS key by default, which no machine may use"),
            "`platformctl run` sets S3's own keys; what was written with the KMS key stays unreadable for machines until it is published again",
        ),
        _ => Line::ok(check, format!("{name} is there")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok as Well, Warn};
    use super::*;
    use crate::aws::{AwsError, AwsErrorKind};
    use crate::infra::buckets::Marks;
    use crate::testing::environment;

    #[test]
    fn buckets() {
        let dev = environment("");
        let error = |kind| AwsError::made_up("s3:ListBucket", kind);
        let ours = |by_kms| Standing::Ours(Marks { by_kms });
        for (standing, verdict, says) in [
            (ours(false), Well, "b is there"),
            (ours(true), Warn, "b encrypts with a KMS key by default"),
            (Standing::Free, Well, "the name is free"),
            (
                Standing::Elsewhere("eu-west-2".into()),
                Fail,
                "b is in eu-west-2, not",
            ),
            (Standing::Unmarked, Fail, "b exists, is not empty"),
            (
                Standing::OfEnvironment("prod".into()),
                Fail,
                "b belongs to environment prod",
            ),
            (Standing::Foreign, Fail, "b belongs to somebody else"),
            (
                Standing::Refused(error(AwsErrorKind::Denied)),
                Fail,
                "access denied",
            ),
            (
                Standing::Unknown(error(AwsErrorKind::Denied)),
                Fail,
                "somebody else's, or",
            ),
            (
                Standing::Unknown(error(AwsErrorKind::Late)),
                Fail,
                "no answer",
            ),
        ] {
            let line = judge(&dev, Purpose::Secrets, "b", &standing);
            assert_eq!(line.verdict, verdict, "{line:?}");
            assert!(line.says.contains(says), "{line:?}");
            assert_eq!(line.fix.is_none(), verdict == Well, "{line:?}");
        }
        // The state is read by operators alone.
        assert_eq!(
            judge(&dev, Purpose::Terraform, "b", &ours(true)).verdict,
            Well
        );
    }
}
