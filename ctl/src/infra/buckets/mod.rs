//! The two buckets: made when missing, and kept as they must be. They are platformctl's and not Terraform's, since the state
//! is in one of them, and a destroy keeps both.
//!
//! [`survey`] looks at both before [`Survey::mend`] changes the first: a bucket of somebody else is an error, and nothing is made.

mod mend;
mod policy;
mod remove;

use aws_sdk_s3::types::Tag;

use crate::aws::{Aws, AwsError, AwsErrorKind, call};
use crate::env::Environment;
use crate::exit::mistake;

pub use policy::{IMMUTABLE, Purpose};
pub use remove::remove;

const TAG_ENVIRONMENT: &str = "Env";
const TAG_PLATFORM: &str = "Platform";
const TAG_MANAGER: (&str, &str) = ("ManagedBy", "platformctl");

/// A bucket of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether it exists; if so, it is ours.
    pub exists: bool,
}

/// Both buckets as they are; where they exist, they are ours to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The secrets bucket, then Terraform's.
    pub buckets: Vec<Bucket>,
    account: String,
}

/// Looks at both buckets. `account` is the 12 digits of the caller's account.
///
/// # Errors
/// A [`crate::exit::Mistake`] naming every bucket that belongs to another account, another environment or another region.
pub async fn survey(aws: &Aws, environment: &Environment, account: &str) -> anyhow::Result<Survey> {
    let named = [
        (Some(&environment.secrets_bucket), Purpose::Secrets),
        (environment.terraform_bucket.as_ref(), Purpose::Terraform),
    ];
    let mut buckets = Vec::new();
    let mut problems = Vec::new();
    for (name, purpose) in named {
        let Some(name) = name else { continue };
        match look(aws, environment, account, name.as_str(), purpose).await? {
            Ok(exists) => buckets.push(Bucket {
                name: name.to_string(),
                purpose,
                exists,
            }),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        return Ok(Survey {
            buckets,
            account: account.to_owned(),
        });
    }
    Err(mistake(format!(
        "{}; nothing was changed",
        problems.join("; ")
    )))
}

/// Whether the bucket is there, or why it cannot be used.
async fn look(
    aws: &Aws,
    environment: &Environment,
    account: &str,
    name: &str,
    purpose: Purpose,
) -> anyhow::Result<Result<bool, String>> {
    let key = match purpose {
        Purpose::Secrets => "secrets_bucket_name",
        Purpose::Terraform => "terraform_bucket_name",
    };
    let head = aws
        .s3()
        .head_bucket()
        .bucket(name)
        .expected_bucket_owner(account)
        .send();
    let answer = match call("s3:ListBucket", format!("bucket {name}"), head).await {
        Ok(answer) => answer,
        Err(error) => return judge(error, environment, key, name),
    };
    let region = answer.bucket_region().unwrap_or_else(|| aws.region());
    if region != aws.region() {
        return Ok(Err(elsewhere(environment, key, name, region)));
    }
    let tags = tags(aws, name).await?;
    let tag = |key: &str| tags.iter().find(|tag| tag.key() == key).map(Tag::value);
    let (manager, ours) = TAG_MANAGER;
    if tag(manager) != Some(ours) && !is_empty(aws, name).await? {
        return Ok(Err(format!(
            "`{key}`: the bucket {name} exists, is not empty, and does not say that it is platformctl's: its policy and lifecycle \
             would be written over. Name another one, or tag it {manager}={ours} to hand it over"
        )));
    }
    if purpose == Purpose::Secrets
        && let Some(other) = tag(TAG_ENVIRONMENT)
        && other != environment.name.as_str()
    {
        return Ok(Err(format!(
            "`{key}`: the bucket {name} belongs to environment {other}: each environment needs one of its own"
        )));
    }
    Ok(Ok(true))
}

fn judge(
    error: AwsError,
    environment: &Environment,
    key: &str,
    name: &str,
) -> anyhow::Result<Result<bool, String>> {
    match (&error.kind, error.status, &error.bucket_region) {
        (AwsErrorKind::NotFound, ..) | (_, Some(404), _) => Ok(Ok(false)),
        (_, Some(301), Some(region)) => Ok(Err(elsewhere(environment, key, name, region))),
        (AwsErrorKind::Denied, ..) | (_, Some(403), _) if !error.is_about_credentials() => {
            Ok(Err(format!(
                "`{key}`: the bucket {name} belongs to another account, or these credentials may not see it: bucket names are the \
             world's, so take another one"
            )))
        }
        _ => Err(error.into()),
    }
}

fn elsewhere(environment: &Environment, key: &str, name: &str, region: &str) -> String {
    format!(
        "`{key}`: the bucket {name} is in region {region}, but the environment is in {}",
        environment.region
    )
}

/// A tag of a bucket; none where it has none.
async fn is_empty(aws: &Aws, bucket: &str) -> Result<bool, AwsError> {
    let request = aws.s3().list_objects_v2().bucket(bucket).max_keys(1).send();
    let answer = call("s3:ListBucket", format!("bucket {bucket}"), request).await?;
    Ok(answer.contents().is_empty())
}

async fn tags(aws: &Aws, bucket: &str) -> Result<Vec<Tag>, AwsError> {
    let request = aws.s3().get_bucket_tagging().bucket(bucket).send();
    match call("s3:GetBucketTagging", format!("bucket {bucket}"), request).await {
        Ok(answer) => Ok(answer.tag_set),
        Err(error) if error.kind == AwsErrorKind::NotFound || error.status == Some(404) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}
