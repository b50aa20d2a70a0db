//! Everything that must be so before an environment can be made, or be relied on, in one report. Nothing is changed.
//!
//! Each check looks (asks AWS, a program or the bucket) and judges what it saw; the judgements are pure functions. The
//! checks run at the same time, each with a deadline, and one that cannot look says so in its line.

mod access;
mod artifacts;
mod bucket;
mod contents;
mod dns;
mod engine;
mod identity;
mod image;
mod key;
mod policy;
mod report;
mod types;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use tokio::time::timeout;
use url::Url;

pub use report::{Line, Report, Verdict};

use crate::aws::{Aws, Caller};
use crate::context::{Context, Workspace};

/// Where one's own address is asked for by default.
pub const ADDRESS_URL: &str = "https://checkip.amazonaws.com";
/// How long one check may take: several requests one after the other, each with its own deadline.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a run of the checks is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address that this machine has on the internet; none asks [`Options::address_url`] for it.
    pub public_address: Option<Ipv4Addr>,
    /// What answers a GET with the caller's address.
    pub address_url: Url,
    /// The Terraform or OpenTofu to use; none looks on the `PATH`.
    pub engine: Option<PathBuf>,
    /// The variable `PATH`.
    pub path: OsString,
    /// The time.
    pub now: Timestamp,
}

type Check<'a> = BoxFuture<'a, Vec<Line>>;

/// Runs every check that applies to the environment. A failure is a line of the report and never an error.
pub async fn examine(workspace: &Workspace, options: &Options) -> Report {
    let lines = if workspace.environment.on_aws() {
        on_aws(workspace, options).await
    } else {
        match Context::of(workspace.clone()).await {
            Ok(context) => contents::check(&context, options.now).await,
            Err(error) => vec![Line::fail(
                "store",
                format!("{error:#}"),
                "run `platformctl dev up` in this directory, and leave it running",
            )],
        }
    };
    Report {
        environment: workspace.name.to_string(),
        lines,
    }
}

async fn on_aws(workspace: &Workspace, options: &Options) -> Vec<Line> {
    let environment = &workspace.environment;
    let mut checks: Vec<Check<'_>> = Vec::new();
    let mut lines = Vec::new();
    match Aws::of(workspace).await {
        Ok(aws) => {
            // Without credentials every further line would say the same.
            let (caller, mut said) = identity::check(&aws, environment).await;
            lines.append(&mut said);
            match caller {
                Some(caller) => checks.extend(of_the_account(workspace, aws, caller, options)),
                None => lines.push(Line::warn(
                    "account",
                    "the region, the key, the buckets, the image, the instance types and the DNS zone were not looked at",
                    "mend the credentials, then run this again",
                )),
            }
        }
        Err(error) => lines.push(Line::fail(
            "credentials",
            format!("{error:#}"),
            "mend the AWS configuration",
        )),
    }
    lines.extend(artifacts::check(workspace));
    checks.push(within("access lists", access::check(environment, options)));
    checks.push(within("engine", engine::check(options)));
    lines.extend(join_all(checks).await.into_iter().flatten());
    lines
}

fn of_the_account<'a>(
    workspace: &'a Workspace,
    aws: Aws,
    caller: Caller,
    options: &'a Options,
) -> Vec<Check<'a>> {
    let environment = &workspace.environment;
    let account = caller.account.clone();
    let copies = || (aws.clone(), account.clone());
    let mut checks = Vec::new();
    let (a, _) = copies();
    checks.push(within("region", async move { identity::region(&a).await }));
    let (a, c) = copies();
    checks.push(within("kms key", async move {
        key::check(&a, environment, &c).await
    }));
    let (a, c) = copies();
    checks.push(within("buckets", async move {
        bucket::check(&a, workspace, &c, options.now).await
    }));
    let (a, _) = copies();
    checks.push(within("image", async move {
        image::check(&a, environment, options.now).await
    }));
    let (a, _) = copies();
    checks.push(within("instance types", async move {
        types::check(&a, environment).await
    }));
    checks.push(within("dns zone", async move {
        dns::check(&aws, environment).await
    }));
    checks
}

/// A check that ends.
fn within<'a>(
    check: &'static str,
    looking: impl Future<Output = Vec<Line>> + Send + 'a,
) -> Check<'a> {
    let looking = Box::pin(looking);
    Box::pin(async move {
        timeout(DEADLINE, looking).await.unwrap_or_else(|_| {
            vec![Line::fail(
                check,
                format!("no result within {} s", DEADLINE.as_secs()),
                "check the network, then try again",
            )]
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_is_a_line_that_fails() {
        let lines = within("image", std::future::pending()).await;
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].check, lines[0].verdict), ("image", Verdict::Fail));
    }
}
