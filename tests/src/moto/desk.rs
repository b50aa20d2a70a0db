//! An operator's working directory of an environment on AWS, with moto in AWS's place.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use tempfile::TempDir;

use super::{ACCESS_KEY, Moto, REGION, SECRET_KEY};
use crate::workspace::write_manifests;

/// The secrets bucket's name.
pub const BUCKET: &str = "example-dev-secrets";

impl Moto {
    /// Makes the secrets bucket.
    ///
    /// # Errors
    /// What moto refused.
    pub async fn create_bucket(&self) -> anyhow::Result<()> {
        let s3 = self.s3().await;
        s3.create_bucket().bucket(BUCKET).send().await?;
        Ok(())
    }

    /// Makes a KMS key; gives its id.
    ///
    /// # Errors
    /// What moto refused.
    pub async fn create_key(&self) -> anyhow::Result<String> {
        let made = self.kms().await.create_key().send().await?;
        Ok(made.key_metadata.context("a key")?.key_id)
    }

    /// A working directory with the environment `dev`, every key of it filled in. Its machines need no artifacts: what a
    /// publish to AWS insists on is no matter of these tests.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn lay_out(&self, key: &str) -> anyhow::Result<TempDir> {
        let directory = TempDir::new()?;
        write_manifests(directory.path())?;
        // For real machines there must be one; without a probe nobody has to wait.
        let policy = "max_unavailable: 1\nsettle: 0s\n";
        std::fs::write(
            directory.path().join("manifests/secure/rollout.yaml"),
            policy,
        )?;
        for group in ["secure", "compute"] {
            let path = format!("manifests/{group}/node.yaml");
            fs::write(directory.path().join(path), "restarts: []\nartifacts: []\n")?;
        }
        fs::create_dir(directory.path().join("environments"))?;
        let text = format!(
            r#"aws_account              = "123456789012"
aws_region               = "{REGION}"
aws_endpoint_url         = "{}"
compute_asg_grace_period = "10"
compute_asg_max          = "5"
compute_asg_min          = "1"
compute_flavor           = "t3.medium"
coreos_image             = "ami-0123456789abcdef0"
dns_zone_name            = "example.com"
environment              = "dev"
etcd_flavor              = "t3.medium"
kms_master_id            = "{key}"
kubeapi_access_list      = "192.0.2.0/24"
platform                 = "kube"
secrets_bucket_name      = "{BUCKET}"
secure_asg_max           = "4"
secure_asg_min           = "3"
ssh_access_list          = "192.0.2.10"
terraform_bucket_name    = "example-dev-terraform"
"#,
            self.endpoint()
        );
        fs::write(directory.path().join("environments/dev.tfvars"), text)?;
        Ok(directory)
    }
}

/// Gives a program AWS's own variables, and nothing of this machine's configuration.
pub fn with_credentials(command: &mut Command, home: &Path) {
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_DEFAULT_REGION", REGION)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", home.join("no-config"))
        .env("AWS_SHARED_CREDENTIALS_FILE", home.join("no-credentials"))
        .env_remove("AWS_PROFILE")
        .stdin(Stdio::null());
}

/// An agent for machines, as far as platformctl looks at it: the head of a static program for x86-64, with one segment, and
/// `content` after it.
#[must_use]
pub fn fake_agent(content: &str) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(64 + 56, 0);
    // The kind of file, the processor, the version; where the segments' headers are, how long each, and how many.
    let fields = [
        (16, 2),
        (18, 62),
        (20, 1),
        (32, 64),
        (52, 64),
        (54, 56),
        (56, 1),
        (64, 1),
    ];
    for (at, value) in fields {
        bytes[at] = value;
    }
    bytes.extend_from_slice(content.as_bytes());
    bytes
}
