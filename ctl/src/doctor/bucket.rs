//! The two buckets: ours, or to be had. And where the secrets bucket is there, what it holds.

use jiff::Timestamp;
use shared::store::ObjectStore as _;

use super::identity::judge_clock;
use super::{Line, contents};
use crate::aws::{Aws, AwsError, AwsErrorKind, call};
use crate::context::{Context, Workspace};

/// How a bucket's name stands.
#[derive(Debug, Clone)]
enum Standing {
    /// Ours, in this region where the answer names one.
    Ours(Option<String>),
    /// Nobody's.
    Free,
    /// Somebody else's.
    Foreign,
    /// Ours, but we may not.
    Refused(AwsError),
    /// It cannot be told.
    Unknown(AwsError),
}

pub(super) async fn check(
    aws: &Aws,
    workspace: &Workspace,
    account: &str,
    now: Timestamp,
) -> Vec<Line> {
    let environment = &workspace.environment;
    let name = environment.secrets_bucket.as_str();
    let secrets = look(aws, name, account).await;
    let mut lines = vec![judge(
        "secrets bucket",
        name,
        aws.region(),
        "secrets_bucket_name",
        &secrets,
    )];
    if let Some(bucket) = &environment.terraform_bucket {
        let found = look(aws, bucket.as_str(), account).await;
        lines.push(judge(
            "terraform bucket",
            bucket.as_str(),
            aws.region(),
            "terraform_bucket_name",
            &found,
        ));
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

async fn look(aws: &Aws, name: &str, account: &str) -> Standing {
    let request = aws
        .s3()
        .head_bucket()
        .bucket(name)
        // Somebody else's bucket that lets us in is still not ours.
        .expected_bucket_owner(account)
        .send();
    let error = match call("s3:ListBucket", name, request).await {
        Ok(answer) => return Standing::Ours(answer.bucket_region),
        Err(error) => error,
    };
    // An answer to HEAD has no body, and so no code.
    match error.status {
        Some(404) => Standing::Free,
        // Ours or not: it is in another region, and only the owner is told more.
        Some(301) if error.bucket_region.is_some() => Standing::Ours(error.bucket_region),
        Some(403) => {
            let ours = call("s3:ListAllMyBuckets", name, aws.s3().list_buckets().send()).await;
            match ours {
                Ok(ours) if ours.buckets().iter().any(|b| b.name() == Some(name)) => {
                    Standing::Refused(error)
                }
                Ok(_) => Standing::Foreign,
                Err(_) => Standing::Unknown(error),
            }
        }
        _ => Standing::Unknown(error),
    }
}

fn judge(check: &'static str, name: &str, region: &str, key: &str, standing: &Standing) -> Line {
    match standing {
        Standing::Ours(Some(found)) if found != region => Line::fail(
            check,
            format!("{name} is in {found}, not {region}"),
            format!("name another bucket in {key}"),
        ),
        Standing::Ours(_) => Line::ok(check, format!("{name} is there")),
        Standing::Free => Line::ok(check, format!("{name} is not there yet: the name is free")),
        Standing::Foreign => Line::fail(
            check,
            format!("{name} belongs to somebody else"),
            format!("choose another name in {key}: names of buckets are unique among all accounts"),
        ),
        Standing::Refused(error) => Line::unseen(check, error),
        Standing::Unknown(error) if error.kind == AwsErrorKind::Denied => Line::fail(
            check,
            format!("{name} is somebody else's, or you may not use it"),
            format!(
                "have s3:ListBucket on it and s3:ListAllMyBuckets allowed, or choose another name in {key}"
            ),
        ),
        Standing::Unknown(error) => Line::unseen(check, error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok as Well};
    use super::*;

    #[test]
    fn buckets() {
        let error = |kind| AwsError::made_up("s3:ListBucket", kind);
        let region = |r: &str| Standing::Ours(Some(r.to_owned()));
        for (standing, verdict, says) in [
            (region("eu-west-1"), Well, "b is there"),
            (Standing::Ours(None), Well, "b is there"),
            (Standing::Free, Well, "the name is free"),
            (
                region("eu-west-2"),
                Fail,
                "b is in eu-west-2, not eu-west-1",
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
            let line = judge(
                "secrets bucket",
                "b",
                "eu-west-1",
                "secrets_bucket_name",
                &standing,
            );
            assert_eq!(line.verdict, verdict, "{line:?}");
            assert!(line.says.contains(says), "{line:?}");
            assert_eq!(line.fix.is_none(), verdict == Well, "{line:?}");
        }
    }
}
