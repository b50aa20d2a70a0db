//! Making a bucket, and making it what it must be: each property is read first and written only where it differs.

use anyhow::Context as _;
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, BucketLocationConstraint, BucketVersioningStatus,
    CreateBucketConfiguration, ObjectOwnership, PublicAccessBlockConfiguration,
    ServerSideEncryption, ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration,
    ServerSideEncryptionRule, Tag, Tagging, VersioningConfiguration,
};
use serde_json::Value;

use super::policy::{essence, partition};
use super::{Bucket, Purpose, Survey, TAG_ENVIRONMENT, TAG_MANAGER, TAG_PLATFORM, tags};
use crate::aws::{Aws, AwsError, AwsErrorKind, call};
use crate::env::Environment;

/// `CreateBucket` takes no region there.
const WITHOUT_CONSTRAINT: &str = "us-east-1";

impl Survey {
    /// Makes what is missing and sets what differs; a line for each thing done, none where all was as it must be.
    ///
    /// # Errors
    /// What AWS refused, with the action that is missing. What was done stays, and the next run goes on.
    pub async fn mend(&self, aws: &Aws, environment: &Environment) -> anyhow::Result<Vec<String>> {
        let mut done = Vec::new();
        for bucket in &self.buckets {
            let name = &bucket.name;
            if !bucket.exists {
                create(aws, name).await?;
                done.push(format!("made {name}"));
            }
            let work = Work {
                aws,
                environment,
                bucket,
                account: &self.account,
            };
            let set = work.mend().await.with_context(|| {
                format!("bucket {name} is not yet what it must be; run the same again")
            })?;
            if !set.is_empty() {
                done.push(format!("set {} of {name}", set.join(", ")));
            }
        }
        Ok(done)
    }
}

async fn create(aws: &Aws, name: &str) -> Result<(), AwsError> {
    let region = aws.region();
    let place = (region != WITHOUT_CONSTRAINT).then(|| {
        CreateBucketConfiguration::builder()
            .location_constraint(BucketLocationConstraint::from(region))
            .build()
    });
    let request = aws
        .s3()
        .create_bucket()
        .bucket(name)
        .object_ownership(ObjectOwnership::BucketOwnerEnforced)
        .set_create_bucket_configuration(place)
        .send();
    let made = call("s3:CreateBucket", format!("bucket {name}"), request).await;
    match made {
        // A first answer that was lost, or another operator at the same moment.
        Err(e) if e.kind == AwsErrorKind::Other("BucketAlreadyOwnedByYou".to_owned()) => Ok(()),
        made => made.map(|_| ()),
    }
}

/// None for "there is none".
fn found<T>(answer: Result<T, AwsError>) -> Result<Option<T>, AwsError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(e) if e.kind == AwsErrorKind::NotFound || e.status == Some(404) => Ok(None),
        Err(e) => Err(e),
    }
}

struct Work<'a> {
    aws: &'a Aws,
    environment: &'a Environment,
    bucket: &'a Bucket,
    account: &'a str,
}

impl Work<'_> {
    async fn mend(&self) -> anyhow::Result<Vec<&'static str>> {
        let mut set = Vec::new();
        if self.public_access().await? {
            set.push("no public access");
        }
        if self.versioning().await? {
            set.push("versioning");
        }
        if self.encryption().await? {
            set.push("encryption by S3's own keys");
        }
        if self.policy().await? {
            set.push("the policy");
        }
        if self.lifecycle().await? {
            set.push("the lifecycle");
        }
        if self.tagging().await? {
            set.push("tags");
        }
        Ok(set)
    }

    fn object(&self) -> String {
        format!("bucket {}", self.bucket.name)
    }

    async fn public_access(&self) -> anyhow::Result<bool> {
        let (s3, name) = (self.aws.s3(), &self.bucket.name);
        let wanted = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .ignore_public_acls(true)
            .block_public_policy(true)
            .restrict_public_buckets(true)
            .build();
        let request = s3.get_public_access_block().bucket(name).send();
        let is = found(call("s3:GetBucketPublicAccessBlock", self.object(), request).await)?;
        if is
            .and_then(|is| is.public_access_block_configuration)
            .as_ref()
            == Some(&wanted)
        {
            return Ok(false);
        }
        let request = s3
            .put_public_access_block()
            .bucket(name)
            .expected_bucket_owner(self.account)
            .public_access_block_configuration(wanted)
            .send();
        call("s3:PutBucketPublicAccessBlock", self.object(), request).await?;
        Ok(true)
    }

    async fn versioning(&self) -> anyhow::Result<bool> {
        let (s3, name) = (self.aws.s3(), &self.bucket.name);
        let request = s3.get_bucket_versioning().bucket(name).send();
        let is = call("s3:GetBucketVersioning", self.object(), request).await?;
        if is.status() == Some(&BucketVersioningStatus::Enabled) {
            return Ok(false);
        }
        let wanted = VersioningConfiguration::builder()
            .status(BucketVersioningStatus::Enabled)
            .build();
        let request = s3
            .put_bucket_versioning()
            .bucket(name)
            .expected_bucket_owner(self.account)
            .versioning_configuration(wanted)
            .send();
        call("s3:PutBucketVersioning", self.object(), request).await?;
        Ok(true)
    }

    /// S3's own keys: what is secret is encrypted before it gets here. An operator's KMS key for the state is left as it is; for the
    /// secrets bucket it is not, since no machine may use it: neither read a release nor write its status.
    async fn encryption(&self) -> anyhow::Result<bool> {
        let (s3, name) = (self.aws.s3(), &self.bucket.name);
        let request = s3.get_bucket_encryption().bucket(name).send();
        let is = found(call("s3:GetEncryptionConfiguration", self.object(), request).await)?;
        let rules = is.and_then(|is| is.server_side_encryption_configuration);
        let fits = |rule: &ServerSideEncryptionRule| {
            let algorithm = rule
                .apply_server_side_encryption_by_default()
                .map(ServerSideEncryptionByDefault::sse_algorithm);
            self.bucket.purpose == Purpose::Terraform
                || algorithm.is_none_or(|is| *is == ServerSideEncryption::Aes256)
        };
        if rules.is_some_and(|is| !is.rules().is_empty() && is.rules().iter().all(fits)) {
            return Ok(false);
        }
        let by_default = ServerSideEncryptionByDefault::builder()
            .sse_algorithm(ServerSideEncryption::Aes256)
            .build()?;
        let rule = ServerSideEncryptionRule::builder()
            .apply_server_side_encryption_by_default(by_default)
            .build();
        let wanted = ServerSideEncryptionConfiguration::builder()
            .rules(rule)
            .build()?;
        let request = s3
            .put_bucket_encryption()
            .bucket(name)
            .expected_bucket_owner(self.account)
            .server_side_encryption_configuration(wanted)
            .send();
        call("s3:PutEncryptionConfiguration", self.object(), request).await?;
        Ok(true)
    }

    async fn policy(&self) -> anyhow::Result<bool> {
        let (s3, name) = (self.aws.s3(), &self.bucket.name);
        let wanted = self
            .bucket
            .purpose
            .policy(partition(self.aws.region()), name);
        let request = s3.get_bucket_policy().bucket(name).send();
        let is = found(call("s3:GetBucketPolicy", self.object(), request).await)?;
        let is: Option<Value> = is
            .and_then(|is| is.policy)
            .and_then(|text| serde_json::from_str(&text).ok());
        if is.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        let request = s3
            .put_bucket_policy()
            .bucket(name)
            .expected_bucket_owner(self.account)
            .policy(wanted.to_string())
            .send();
        call("s3:PutBucketPolicy", self.object(), request).await?;
        Ok(true)
    }

    async fn lifecycle(&self) -> anyhow::Result<bool> {
        let (s3, name) = (self.aws.s3(), &self.bucket.name);
        let wanted = self.bucket.purpose.lifecycle();
        let request = s3.get_bucket_lifecycle_configuration().bucket(name).send();
        let is = found(call("s3:GetLifecycleConfiguration", self.object(), request).await)?;
        if is.is_some_and(|is| essence(is.rules()) == essence(&wanted)) {
            return Ok(false);
        }
        let wanted = BucketLifecycleConfiguration::builder()
            .set_rules(Some(wanted))
            .build()?;
        let request = s3
            .put_bucket_lifecycle_configuration()
            .bucket(name)
            .expected_bucket_owner(self.account)
            .lifecycle_configuration(wanted)
            .send();
        call("s3:PutLifecycleConfiguration", self.object(), request).await?;
        Ok(true)
    }

    /// Adds ours to the tags that are there. Terraform's bucket may serve several environments, and names none.
    async fn tagging(&self) -> anyhow::Result<bool> {
        let name = &self.bucket.name;
        let mut ours = vec![
            (TAG_PLATFORM, self.environment.platform.as_str()),
            TAG_MANAGER,
        ];
        if self.bucket.purpose == Purpose::Secrets {
            ours.push((TAG_ENVIRONMENT, self.environment.name.as_str()));
        }
        let mut all = tags(self.aws, name).await?;
        let missing: Vec<_> = ours
            .into_iter()
            .filter(|(key, value)| !all.iter().any(|t| t.key() == *key && t.value() == *value))
            .collect();
        if missing.is_empty() {
            return Ok(false);
        }
        for (key, value) in missing {
            all.retain(|tag| tag.key() != key);
            all.push(Tag::builder().key(key).value(value).build()?);
        }
        let tagging = Tagging::builder().set_tag_set(Some(all)).build()?;
        let request = self
            .aws
            .s3()
            .put_bucket_tagging()
            .bucket(name)
            .expected_bucket_owner(self.account)
            .tagging(tagging)
            .send();
        call("s3:PutBucketTagging", self.object(), request).await?;
        Ok(true)
    }
}
