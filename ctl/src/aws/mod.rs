//! The AWS account of an environment, as an operator's verbs see it: one configuration for every service.
//!
//! What the platform runs on is made by Terraform; here it is looked at, and a few things are asked of it that change no
//! configuration (a group's desired size, the end of one machine). [`call`] gives every request a deadline and turns its
//! failure into an [`AwsError`], which says what to do.

mod account;
mod error;
mod groups;

use std::fmt;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use futures::future::BoxFuture;
use shared::store::{S3Store, SdkConfig};
use tokio::time::timeout;

pub use account::{AccountError, Caller};
pub(crate) use account::{judge_account, needs_aliases};
pub use error::{AwsError, AwsErrorKind};
pub use groups::{Member, ScalingGroup, TemplateVersion, scaling_group_name};

use crate::context::{Workspace, sdk_config};
use crate::env::Environment;
use crate::exit::mistake;

/// How long an answer may take, retries included.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// How often a request is sent at most. None of ours does more when it arrives twice.
const ATTEMPTS: u32 = 3;

/// Clients of the environment's account and region. Nothing is asked before one is used.
#[derive(Clone)]
pub struct Aws {
    sdk: SdkConfig,
    region: String,
}

impl fmt::Debug for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aws")
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

// === impl Aws ===

impl Aws {
    /// The clients of the workspace's environment.
    ///
    /// # Errors
    /// A [`crate::exit::Mistake`] where the environment is not on AWS.
    pub async fn of(workspace: &Workspace) -> anyhow::Result<Self> {
        if !workspace.environment.on_aws() {
            return Err(mistake(format!(
                "environment {} is not on AWS: it has no machines of its own (its nodes are processes of `platformctl \
                 dev up`)",
                workspace.name
            )));
        }
        let sdk = sdk_config(workspace).await?;
        Ok(Self::new(sdk, &workspace.environment))
    }

    /// The same through a configuration that was loaded already.
    #[must_use]
    pub fn new(sdk: SdkConfig, environment: &Environment) -> Self {
        let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS);
        Self {
            sdk: sdk.into_builder().retry_config(retries).build(),
            region: environment.region.to_string(),
        }
    }

    /// The region that is asked.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    /// EC2.
    #[must_use]
    pub fn ec2(&self) -> aws_sdk_ec2::Client {
        aws_sdk_ec2::Client::new(&self.sdk)
    }

    /// Auto-scaling.
    #[must_use]
    pub fn autoscaling(&self) -> aws_sdk_autoscaling::Client {
        aws_sdk_autoscaling::Client::new(&self.sdk)
    }

    /// STS.
    #[must_use]
    pub fn sts(&self) -> aws_sdk_sts::Client {
        aws_sdk_sts::Client::new(&self.sdk)
    }

    /// IAM.
    #[must_use]
    pub fn iam(&self) -> aws_sdk_iam::Client {
        aws_sdk_iam::Client::new(&self.sdk)
    }

    /// Route 53.
    #[must_use]
    pub fn route53(&self) -> aws_sdk_route53::Client {
        aws_sdk_route53::Client::new(&self.sdk)
    }

    /// KMS.
    #[must_use]
    pub fn kms(&self) -> aws_sdk_kms::Client {
        aws_sdk_kms::Client::new(&self.sdk)
    }

    /// S3, for what is about buckets.
    #[must_use]
    pub fn s3(&self) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::config::Builder::from(&self.sdk)
            .force_path_style(self.sdk.endpoint_url().is_some())
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// The objects of one bucket; it knows the server's clock from any answer.
    #[must_use]
    pub fn bucket(&self, name: &str) -> S3Store {
        S3Store::new(&self.sdk, name)
    }
}

/// Waits for the answer to a request. `action` is what a policy calls it (`ec2:DescribeImages`), `object` what it is about.
pub fn call<'a, T, E>(
    action: &'static str,
    object: impl fmt::Display,
    request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send + 'a,
) -> BoxFuture<'a, Result<T, AwsError>>
where
    T: Send + 'a,
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let object = object.to_string();
    // On the heap: what some requests hold while they wait is large.
    let request = Box::pin(request);
    Box::pin(async move {
        match timeout(DEADLINE, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(AwsError::of(action, object, &error)),
            Err(_) => Err(AwsError::late(action, object)),
        }
    })
}
