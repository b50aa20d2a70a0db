//! The credentials, the account, the region and the clock.

use jiff::SignedDuration;
use shared::store::ServerTime;

use super::Line;
use crate::aws::{Aws, AwsError, AwsErrorKind, Caller, call, judge_account, needs_aliases};
use crate::env::Environment;

/// What a clock may be off without a word; the server says whole seconds.
const FINE: SignedDuration = SignedDuration::from_secs(30);
/// What a clock may be off at all: requests are refused at 15 minutes, and what is signed begins an hour in the past.
const TOLERABLE: SignedDuration = SignedDuration::from_mins(5);

/// Whether the credentials work; the caller where they do.
pub(super) async fn check(aws: &Aws, environment: &Environment) -> (Option<Caller>, Vec<Line>) {
    let caller = aws.caller().await;
    let aliases = match (&caller, needs_aliases(environment)) {
        (Ok(_), true) => aws.aliases().await,
        _ => Ok(Vec::new()),
    };
    let lines = judge(environment, &caller, aliases);
    (caller.ok(), lines)
}

fn judge(
    environment: &Environment,
    caller: &Result<Caller, AwsError>,
    aliases: Result<Vec<String>, AwsError>,
) -> Vec<Line> {
    let profile = match &environment.profile {
        Some(profile) => format!("profile {profile}: "),
        None => String::new(),
    };
    let caller = match caller {
        Ok(caller) => caller,
        Err(error) => {
            let line = Line::unseen("credentials", error);
            let says = format!("{profile}{}", line.says);
            return vec![Line { says, ..line }];
        }
    };
    let credentials = Line::ok("credentials", format!("{profile}{}", caller.arn));
    let account = match judge_account(environment, caller, aliases) {
        Ok(()) => Line::ok(
            "account",
            format!("{}, as aws_account says", caller.account),
        ),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|c| format!(" ({c})"));
            let says = error.to_string();
            let (says, fix) = says.rsplit_once([':', ';']).unwrap_or((&says, ""));
            Line::fail(
                "account",
                format!("{says}{}", cause.unwrap_or_default()),
                fix.trim(),
            )
        }
    };
    vec![credentials, account]
}

/// Whether the region is enabled in the account.
pub(super) async fn region(aws: &Aws) -> Vec<Line> {
    let answer = call(
        "ec2:DescribeRegions",
        aws.region(),
        aws.ec2()
            .describe_regions()
            .all_regions(true)
            .region_names(aws.region())
            .send(),
    )
    .await;
    let status = answer.map(|answer| {
        let mut regions = answer.regions().iter();
        let found = regions.find(|r| r.region_name() == Some(aws.region()));
        found.map(|r| r.opt_in_status().unwrap_or_default().to_owned())
    });
    vec![judge_region(aws.region(), &status)]
}

fn judge_region(region: &str, status: &Result<Option<String>, AwsError>) -> Line {
    let enable = || {
        format!(
            "enable it (`aws account enable-region --region-name {region}`), or change aws_region"
        )
    };
    match status {
        Ok(Some(status)) if status == "not-opted-in" => Line::fail(
            "region",
            format!("{region} is not enabled in this account"),
            enable(),
        ),
        Ok(Some(_)) => Line::ok("region", format!("{region} is enabled")),
        Ok(None) => Line::fail(
            "region",
            format!("there is no region {region}"),
            "mend aws_region",
        ),
        // The credentials worked for STS a moment ago.
        Err(e)
            if matches!(
                e.kind,
                AwsErrorKind::InvalidCredentials
                    | AwsErrorKind::RegionDisabled
                    | AwsErrorKind::NotFound
            ) =>
        {
            Line::fail(
                "region",
                format!("{region} does not answer this account: {}", e.answer()),
                enable(),
            )
        }
        Err(error) => Line::unseen("region", error),
    }
}

/// How far this machine's clock is from AWS's.
pub(super) fn judge_clock(seen: Option<ServerTime>) -> Line {
    let Some(seen) = seen else {
        return Line::warn(
            "clock",
            "no answer told AWS's time, so this machine's clock was not compared",
            "check the network, then try again",
        );
    };
    let ahead = seen.local.duration_since(seen.server);
    let off = format!(
        "this machine's clock is {} s {} AWS's",
        ahead.abs().as_secs(),
        if ahead.is_negative() {
            "behind"
        } else {
            "ahead of"
        }
    );
    let fix = "set it: `timedatectl set-ntp true`";
    match ahead.abs() {
        off_by if off_by <= FINE => Line::ok("clock", off),
        off_by if off_by <= TOLERABLE => Line::warn("clock", off, fix),
        _ => Line::fail("clock", off, fix),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Fail, Ok as Well, Warn};
    use super::*;
    use crate::testing::environment;

    fn caller(account: &str) -> Result<Caller, AwsError> {
        Ok(Caller {
            account: account.to_owned(),
            arn: format!("arn:aws:iam::{account}:user/op"),
        })
    }

    fn verdicts(lines: &[Line]) -> Vec<(&'static str, Verdict)> {
        lines.iter().map(|l| (l.check, l.verdict)).collect()
    }

    #[test]
    fn credentials_and_account() {
        let dev = environment("aws_profile = \"work\"");
        let lines = judge(&dev, &caller("123456789012"), Ok(vec![]));
        assert_eq!(verdicts(&lines), [("credentials", Well), ("account", Well)]);
        assert!(
            lines[0].says.starts_with("profile work: arn:aws:"),
            "{lines:?}"
        );
        let lines = judge(&dev, &caller("210987654321"), Ok(vec![]));
        assert_eq!(verdicts(&lines), [("credentials", Well), ("account", Fail)]);
        assert_eq!(
            lines[1].fix.as_deref(),
            Some("log in to the right account (aws_profile, AWS_PROFILE), or mend aws_account")
        );
        for kind in [AwsErrorKind::NoCredentials, AwsErrorKind::Expired] {
            let none = Err(AwsError::made_up("sts:GetCallerIdentity", kind));
            let lines = judge(&dev, &none, Ok(vec![]));
            assert_eq!(verdicts(&lines), [("credentials", Fail)]);
            assert!(
                lines[0].fix.as_ref().unwrap().contains("log in")
                    && lines[0].says.starts_with("profile work: "),
                "{lines:?}"
            );
        }
        let alias = environment("aws_account = \"acme\"");
        let denied = AwsError::made_up("iam:ListAccountAliases", AwsErrorKind::Denied);
        let lines = judge(&alias, &caller("123456789012"), Err(denied));
        assert_eq!(lines[1].verdict, Fail);
        assert_eq!(
            lines[1].fix.as_deref(),
            Some("the account's 12 digits there need no permission")
        );
        let lines = judge(&alias, &caller("123456789012"), Ok(vec!["acme".into()]));
        assert_eq!(lines[1].verdict, Well);
    }

    #[test]
    fn region() {
        let error = |kind| Err(AwsError::made_up("ec2:DescribeRegions", kind));
        for (status, verdict) in [
            (Ok(Some("opt-in-not-required".to_owned())), Well),
            (Ok(Some("opted-in".to_owned())), Well),
            (Ok(Some("not-opted-in".to_owned())), Fail),
            (Ok(None), Fail),
            (error(AwsErrorKind::InvalidCredentials), Fail),
            (error(AwsErrorKind::Late), Fail),
        ] {
            let line = judge_region("af-south-1", &status);
            assert_eq!((line.check, line.verdict), ("region", verdict), "{line:?}");
        }
    }

    #[test]
    fn clock() {
        let server = "2026-06-01T00:00:00Z".parse().unwrap();
        for (ahead, verdict, says) in [
            (2, Well, "2 s ahead of"),
            (-31, Warn, "31 s behind"),
            (301, Fail, "301 s ahead of"),
        ] {
            let local = server + SignedDuration::from_secs(ahead);
            let line = judge_clock(Some(ServerTime { server, local }));
            assert_eq!((line.check, line.verdict), ("clock", verdict));
            assert!(line.says.contains(says), "{line:?}");
        }
        assert_eq!(judge_clock(None).verdict, Warn);
    }
}
