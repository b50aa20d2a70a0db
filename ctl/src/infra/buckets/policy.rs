//! What the two buckets must be like: their policies and how long old versions stay.

use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, ExpirationStatus, LifecycleExpiration, LifecycleRule,
    LifecycleRuleFilter, NoncurrentVersionExpiration,
};
use serde_json::{Value, json};

/// What a bucket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The releases, the keyring, what nodes report.
    Secrets,
    /// Terraform's state.
    Terraform,
}

/// What is written once and never again (docs/protocol.md §1).
pub const IMMUTABLE: &[&str] = &[
    "bootstrap/*",
    "groups/*/targets/*",
    "groups/*/metadata/*.root.json",
    "groups/*/metadata/*.targets.json",
    "groups/*/metadata/*.snapshot.json",
    "etcd/*/cluster.json",
    "etcd/*/backups/*",
    "etcd/*/snapshots/*",
    "etcd/*/started/*",
];

/// A part of an upload in parts stays for so long without its other parts.
const PARTS_DAYS: i32 = 7;

/// How long a version stays that is not the current one any more, by prefix. `operator/` is not there: an older keyring is
/// what brings a cluster back.
const SECRETS_DAYS: &[(&str, i32)] = &[
    // Each node writes one every five minutes.
    ("nodes/", 1),
    ("rollouts/", 7),
    ("groups/", 90),
    ("etcd/", 30),
    ("bootstrap/", 90),
];
/// A state of the last year, should one be wanted back.
const TERRAFORM_DAYS: &[(&str, i32)] = &[("", 365)];

// === impl Purpose ===

impl Purpose {
    /// The bucket's policy.
    #[must_use]
    pub fn policy(self, partition: &str, bucket: &str) -> Value {
        let arn = format!("arn:{partition}:s3:::{bucket}");
        let mut statements = vec![json!({
            "Sid": "OnlyOverTls",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [arn, format!("{arn}/*")],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        })];
        if self == Self::Secrets {
            let immutable: Vec<String> = IMMUTABLE.iter().map(|p| format!("{arn}/{p}")).collect();
            // Uploading a part of an object is a PutObject too, and has no such header.
            statements.push(json!({
                "Sid": "NeverOverwritten",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:PutObject",
                "Resource": immutable,
                "Condition": {
                    "Null": {"s3:if-none-match": "true"},
                    "Bool": {"s3:ObjectCreationOperation": "true"},
                },
            }));
        }
        json!({"Version": "2012-10-17", "Statement": statements})
    }

    /// The bucket's lifecycle.
    #[must_use]
    pub fn lifecycle(self) -> Vec<LifecycleRule> {
        let days = match self {
            Self::Secrets => SECRETS_DAYS,
            Self::Terraform => TERRAFORM_DAYS,
        };
        let versions = days.iter().filter_map(|(prefix, days)| {
            let name = prefix.trim_end_matches('/');
            rule(
                &format!(
                    "old-versions-{}",
                    if name.is_empty() { "all" } else { name }
                ),
                prefix,
            )
            .noncurrent_version_expiration(
                NoncurrentVersionExpiration::builder()
                    .noncurrent_days(*days)
                    .build(),
            )
            .expiration(
                LifecycleExpiration::builder()
                    .expired_object_delete_marker(true)
                    .build(),
            )
            .build()
            .ok()
        });
        let parts = AbortIncompleteMultipartUpload::builder()
            .days_after_initiation(PARTS_DAYS)
            .build();
        let parts = rule("lost-parts", "")
            .abort_incomplete_multipart_upload(parts)
            .build();
        versions.chain(parts.ok()).collect()
    }
}

fn rule(id: &str, prefix: &str) -> aws_sdk_s3::types::builders::LifecycleRuleBuilder {
    LifecycleRule::builder()
        .id(id)
        .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
        .status(ExpirationStatus::Enabled)
}

/// What of a rule is ours to compare: S3 may give it back with more, or in another order.
#[must_use]
pub(super) fn essence(rules: &[LifecycleRule]) -> Vec<String> {
    let mut all: Vec<String> = rules
        .iter()
        .map(|rule| {
            let prefix = rule.filter().and_then(|f| f.prefix()).unwrap_or_default();
            let versions = rule
                .noncurrent_version_expiration()
                .and_then(|v| v.noncurrent_days());
            let parts = rule
                .abort_incomplete_multipart_upload()
                .and_then(|a| a.days_after_initiation());
            let markers = rule
                .expiration()
                .and_then(|e| e.expired_object_delete_marker());
            let id = rule.id().unwrap_or_default();
            format!(
                "{id} {prefix} {versions:?} {parts:?} {markers:?} {}",
                rule.status()
            )
        })
        .collect();
    all.sort();
    all
}

/// The partition that a region is in.
#[must_use]
pub(super) fn partition(region: &str) -> &'static str {
    match region {
        r if r.starts_with("cn-") => "aws-cn",
        r if r.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_never_under_a_prefix_that_is_written_once() {
        let policy = Purpose::Secrets.policy("aws", "b");
        let resources = policy["Statement"][1]["Resource"].as_array().unwrap();
        let covered = |key: &str| {
            resources.iter().any(|pattern| {
                let pattern = pattern
                    .as_str()
                    .unwrap()
                    .trim_start_matches("arn:aws:s3:::b/");
                let mut rest = key;
                let mut parts = pattern.split('*').peekable();
                let first = parts.next().unwrap();
                if !rest.starts_with(first) {
                    return false;
                }
                rest = &rest[first.len()..];
                while let Some(part) = parts.next() {
                    if parts.peek().is_none() {
                        return rest.ends_with(part);
                    }
                    match rest.find(part) {
                        Some(at) => rest = &rest[at + part.len()..],
                        None => return false,
                    }
                }
                rest.is_empty()
            })
        };
        for changes in [
            "operator/keyring.json",
            "groups/secure/metadata/timestamp.json",
            "rollouts/secure.json",
            "nodes/secure/A:i-1.json",
        ] {
            assert!(!covered(changes), "{changes}");
        }
        for fixed in [
            "bootstrap/ab.platform-agent",
            "groups/secure/targets/ab.release-1.bundle",
            "groups/compute/metadata/1.root.json",
            "groups/compute/metadata/12.snapshot.json",
            "etcd/1/cluster.json",
            "etcd/1/backups/20261123T024942Z-7.json",
            "etcd/1/snapshots/20261123T024942Z-7/0000.age",
            "etcd/1/started/R:i-0.json",
        ] {
            assert!(covered(fixed), "{fixed}");
        }
        let terraform = Purpose::Terraform.policy("aws", "b");
        assert_eq!(terraform["Statement"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn old_keyrings_stay() {
        let rules = Purpose::Secrets.lifecycle();
        assert_eq!(rules.len(), SECRETS_DAYS.len() + 1);
        for rule in &rules {
            let prefix = rule.filter().unwrap().prefix().unwrap();
            let forgets = rule.noncurrent_version_expiration().is_some();
            assert!(
                !(forgets && "operator/keyring.json".starts_with(prefix)),
                "{prefix}"
            );
        }
    }
}
