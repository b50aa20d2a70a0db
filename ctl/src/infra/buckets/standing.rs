//! How a bucket's name stands: one judgement, for `doctor` to report and for what makes buckets to go by.

use aws_sdk_s3::types::{ServerSideEncryption, Tag};

use super::{Purpose, TAG_ENVIRONMENT, TAG_MANAGER, tags};
use crate::aws::{Aws, AwsError, AwsErrorKind, call};
use crate::env::Environment;

/// How a bucket's name stands.
#[derive(Debug, Clone)]
pub enum Standing {
    /// Nobody's.
    Free,
    /// Ours to use and to change.
    Ours(Marks),
    /// Ours, but in that region.
    Elsewhere(String),
    /// There and full, and nothing says that it is platformctl's.
    Unmarked,
    /// It has that other environment's releases.
    OfEnvironment(String),
    /// Somebody else's.
    Foreign,
    /// Ours, but we may not.
    Refused(AwsError),
    /// It cannot be told.
    Unknown(AwsError),
}

/// What a bucket of ours says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// Whether S3 encrypts with a KMS key by default. A machine's role may use none for that.
    pub by_kms: bool,
}

/// What was seen of a bucket that answers, before it is judged.
#[derive(Debug, Clone, Default)]
struct Seen {
    region: Option<String>,
    manager: Option<String>,
    environment: Option<String>,
    empty: bool,
    by_kms: bool,
}

/// What is wrong with a bucket, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub says: String,
    /// What to do.
    pub fix: String,
}

// === impl Purpose ===

impl Purpose {
    /// The environment's key that names the bucket.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Secrets => "secrets_bucket_name",
            Self::Terraform => "terraform_bucket_name",
        }
    }
}

/// Looks at a bucket. `account` is the 12 digits of the caller's.
pub async fn standing(
    aws: &Aws,
    environment: &Environment,
    account: &str,
    name: &str,
    purpose: Purpose,
) -> Standing {
    let request = aws
        .s3()
        .head_bucket()
        .bucket(name)
        // Somebody else's bucket that lets us in is still not ours.
        .expected_bucket_owner(account)
        .send();
    match call("s3:ListBucket", name, request).await {
        Ok(answer) => {
            let region = answer.bucket_region().unwrap_or(aws.region()).to_owned();
            // Only its own region tells more of it.
            let seen = if region == aws.region() {
                look(aws, name).await
            } else {
                Ok(Seen::default())
            };
            match seen {
                Ok(seen) => judge(
                    environment,
                    purpose,
                    Seen {
                        region: Some(region),
                        ..seen
                    },
                ),
                Err(error) => Standing::Refused(error),
            }
        }
        Err(error) => refused(aws, name, error).await,
    }
}

/// An answer to HEAD has no body, and so no code.
async fn refused(aws: &Aws, name: &str, error: AwsError) -> Standing {
    match error.status {
        Some(404) => Standing::Free,
        Some(301) => match error.bucket_region {
            // Ours or not: only the owner is told more.
            Some(region) => Standing::Elsewhere(region),
            None => Standing::Unknown(error),
        },
        Some(403) if !error.is_about_credentials() => {
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

async fn look(aws: &Aws, name: &str) -> Result<Seen, AwsError> {
    let tags = tags(aws, name).await?;
    let tag = |key: &str| {
        let found = tags.iter().find(|tag| tag.key() == key);
        found.map(Tag::value).map(str::to_owned)
    };
    let request = aws.s3().list_objects_v2().bucket(name).max_keys(1).send();
    let listed = call("s3:ListBucket", format!("bucket {name}"), request).await?;
    Ok(Seen {
        region: None,
        manager: tag(TAG_MANAGER.0),
        environment: tag(TAG_ENVIRONMENT),
        empty: listed.contents().is_empty(),
        by_kms: encrypts_by_kms(aws, name).await?,
    })
}

async fn encrypts_by_kms(aws: &Aws, name: &str) -> Result<bool, AwsError> {
    let request = aws.s3().get_bucket_encryption().bucket(name).send();
    let answer = call(
        "s3:GetEncryptionConfiguration",
        format!("bucket {name}"),
        request,
    )
    .await;
    let rules = match answer {
        Ok(answer) => answer.server_side_encryption_configuration,
        Err(e) if e.kind == AwsErrorKind::NotFound || e.status == Some(404) => None,
        Err(error) => return Err(error),
    };
    let defaults = rules.iter().flat_map(|rules| rules.rules());
    let mut algorithms = defaults
        .filter_map(|rule| rule.apply_server_side_encryption_by_default())
        .map(|by_default| by_default.sse_algorithm());
    Ok(algorithms.any(|algorithm| *algorithm != ServerSideEncryption::Aes256))
}

fn judge(environment: &Environment, purpose: Purpose, seen: Seen) -> Standing {
    match seen.region {
        Some(region) if region != environment.region.as_str() => {
            return Standing::Elsewhere(region);
        }
        _ => {}
    }
    if seen.manager.as_deref() != Some(TAG_MANAGER.1) && !seen.empty {
        return Standing::Unmarked;
    }
    match seen.environment {
        // Terraform's bucket may serve several.
        Some(other) if purpose == Purpose::Secrets && other != environment.name.as_str() => {
            Standing::OfEnvironment(other)
        }
        _ => Standing::Ours(Marks {
            by_kms: seen.by_kms,
        }),
    }
}

// === impl Standing ===

impl Standing {
    /// Why the bucket cannot be used; none where it can, where it can be made, and where it cannot be told.
    #[must_use]
    pub fn problem(
        &self,
        environment: &Environment,
        purpose: Purpose,
        name: &str,
    ) -> Option<Problem> {
        let key = purpose.key();
        let another = format!("name another bucket in {key}");
        let problem = |says: String, fix: String| Some(Problem { says, fix });
        match self {
            Self::Unknown(error) if error.kind == AwsErrorKind::Denied => problem(
                format!("{name} is somebody else's, or you may not use it"),
                format!("have s3:ListBucket on it and s3:ListAllMyBuckets allowed, or {another}"),
            ),
            Self::Free | Self::Ours(_) | Self::Refused(_) | Self::Unknown(_) => None,
            Self::Elsewhere(region) => problem(
                format!("{name} is in {region}, not {}", environment.region),
                another,
            ),
            Self::Unmarked => {
                let (manager, ours) = TAG_MANAGER;
                problem(
                    format!(
                        "{name} exists, is not empty, and does not say that it is platformctl's: its policy and lifecycle would be written over"
                    ),
                    format!("{another}, or tag it {manager}={ours} to hand it over"),
                )
            }
            Self::OfEnvironment(other) => problem(
                format!("{name} belongs to environment {other}"),
                format!("{another}: each environment needs one of its own"),
            ),
            Self::Foreign => problem(
                format!("{name} belongs to somebody else"),
                format!("{another}: names of buckets are unique among all accounts"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::environment;

    #[test]
    fn a_bucket_is_ours_by_region_tags_and_contents() {
        let dev = environment("");
        let text = |t: &str| Some(t.to_owned());
        let seen = |region: &str, manager: Option<&str>, env: Option<&str>, empty| Seen {
            region: text(region),
            manager: manager.map(str::to_owned),
            environment: env.map(str::to_owned),
            empty,
            by_kms: false,
        };
        let here = dev.region.as_str();
        let name = dev.name.as_str();
        let ours = Some("platformctl");
        for (seen, secrets, terraform) in [
            (seen(here, ours, Some(name), false), None, None),
            (seen(here, None, None, true), None, None),
            (
                seen(here, None, None, false),
                Some("is not empty"),
                Some("is not empty"),
            ),
            (
                seen(here, Some("me"), Some(name), false),
                Some("is not empty"),
                Some("is not empty"),
            ),
            (
                seen(here, ours, Some("prod"), false),
                Some("environment prod"),
                None,
            ),
            // An empty one may still be meant for another.
            (
                seen(here, None, Some("prod"), true),
                Some("environment prod"),
                None,
            ),
            (
                seen("eu-north-9", ours, Some(name), true),
                Some("is in eu-north-9"),
                Some("is in eu-north-9"),
            ),
        ] {
            for (purpose, wanted) in [(Purpose::Secrets, secrets), (Purpose::Terraform, terraform)]
            {
                let standing = judge(&dev, purpose, seen.clone());
                let problem = standing.problem(&dev, purpose, "b");
                match (&problem, wanted) {
                    (None, None) => assert!(matches!(standing, Standing::Ours(_)), "{standing:?}"),
                    (Some(problem), Some(says)) => {
                        assert!(problem.says.contains(says), "{problem:?}");
                        assert!(problem.fix.contains(purpose.key()), "{problem:?}");
                    }
                    _ => panic!("{seen:?} for {purpose:?}: {problem:?}"),
                }
            }
        }
    }
}
