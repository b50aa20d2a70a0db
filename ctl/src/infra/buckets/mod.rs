//! The two buckets: made when missing, and kept as they must be. They are platformctl's and not Terraform's, since the state
//! is in one of them, and a destroy keeps both.
//!
//! [`survey`] looks at both before [`Survey::mend`] changes the first: a bucket of somebody else is an error, and nothing is made.

mod mend;
mod policy;
mod remove;
mod standing;

use aws_sdk_s3::types::Tag;

use crate::aws::{Aws, AwsError, AwsErrorKind, call};
use crate::env::Environment;
use crate::exit::mistake;

pub use policy::{IMMUTABLE, Purpose};
pub use remove::remove;
pub use standing::{Marks, Problem, Standing, standing};

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
        let name = name.as_str();
        let found = standing(aws, environment, account, name, purpose).await;
        if let Some(problem) = found.problem(environment, purpose, name) {
            problems.push(format!("bucket {}: {}", problem.says, problem.fix));
            continue;
        }
        let exists = match found {
            Standing::Refused(error) | Standing::Unknown(error) => return Err(error.into()),
            Standing::Free => false,
            _ => true,
        };
        buckets.push(Bucket {
            name: name.to_owned(),
            purpose,
            exists,
        });
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

/// The tags of a bucket.
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
