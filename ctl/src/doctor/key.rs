//! The KMS key: there, in this region, enabled, symmetric, ours to use, and open to IAM.

use std::collections::HashMap;

use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeyMetadata, KeySpec, KeyState, KeyUsageType};

use super::Line;
use super::policy::lets_iam_decide;
use crate::aws::{Aws, AwsError, AwsErrorKind, call};
use crate::env::Environment;

/// What AWS says of the key.
#[derive(Debug, Clone)]
struct Facts {
    arn: String,
    account: String,
    state: String,
    enabled: bool,
    encrypts: bool,
}

pub(super) async fn check(aws: &Aws, environment: &Environment, account: &str) -> Vec<Line> {
    let Some(key) = environment.kms_key_id() else {
        return Vec::new();
    };
    let described = call(
        "kms:DescribeKey",
        key,
        aws.kms().describe_key().key_id(key.as_str()).send(),
    )
    .await;
    let facts = described.map(|answer| answer.key_metadata.map(Facts::of));
    let mut lines = vec![judge(key.as_str(), aws.region(), account, &facts)];
    if let Ok(Some(facts)) = &facts
        && facts.enabled
        && facts.encrypts
    {
        let policy = call(
            "kms:GetKeyPolicy",
            key,
            aws.kms()
                .get_key_policy()
                .key_id(&facts.arn)
                .policy_name("default")
                .send(),
        )
        .await;
        let policy = policy.map(|answer| answer.policy.unwrap_or_default());
        lines.push(judge_policy(&facts.account, &policy));
        lines.push(judge_use(&try_out(aws, environment, &facts.arn).await));
    }
    lines
}

/// Whether the key would encrypt for us, in the context of the keyring. Nothing is encrypted: KMS answers a dry run that
/// is allowed with an error of its own.
async fn try_out(aws: &Aws, environment: &Environment, arn: &str) -> Result<(), AwsError> {
    let context = HashMap::from([
        ("environment".to_owned(), environment.name.to_string()),
        (
            "group".to_owned(),
            shared::documents::OPERATOR_GROUP.to_owned(),
        ),
        ("release".to_owned(), "1".to_owned()),
    ]);
    let request = aws
        .kms()
        .encrypt()
        .key_id(arn)
        .set_encryption_context(Some(context))
        .plaintext(Blob::new("nothing"))
        .dry_run(true)
        .send();
    match call("kms:Encrypt", arn, request).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind == AwsErrorKind::Other("DryRunOperationException".to_owned()) => Ok(()),
        Err(error) => Err(error),
    }
}

// === impl Facts ===

impl Facts {
    fn of(key: KeyMetadata) -> Self {
        let state = key.key_state().cloned();
        Self {
            arn: key.arn().unwrap_or(key.key_id()).to_owned(),
            account: key.aws_account_id().unwrap_or_default().to_owned(),
            enabled: state == Some(KeyState::Enabled),
            state: state.map_or_else(|| "unknown".to_owned(), |s| s.as_str().to_owned()),
            encrypts: key.key_spec() == Some(&KeySpec::SymmetricDefault)
                && key.key_usage() == Some(&KeyUsageType::EncryptDecrypt),
        }
    }
}

fn judge(key: &str, region: &str, account: &str, facts: &Result<Option<Facts>, AwsError>) -> Line {
    let facts = match facts {
        Ok(Some(facts)) => facts,
        Ok(None) => {
            return Line::fail(
                "kms key",
                format!("{key}: AWS said nothing of it"),
                "try again",
            );
        }
        Err(e) if e.kind == AwsErrorKind::NotFound => {
            return Line::fail(
                "kms key",
                format!("there is no key {key} in {region}"),
                "make one (`aws kms create-key`, `aws kms create-alias`), or mend kms_master_id",
            );
        }
        Err(error) => return Line::unseen("kms key", error),
    };
    let arn = &facts.arn;
    if !facts.encrypts {
        return Line::fail(
            "kms key",
            format!(
                "{arn} is not a symmetric key for encryption (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT)"
            ),
            "make one that is: neither can be changed on a key",
        );
    }
    if !facts.enabled {
        let fix = match facts.state.as_str() {
            "PendingDeletion" => {
                format!(
                    "`aws kms cancel-key-deletion --key-id {arn}`, then `aws kms enable-key`; once it is deleted, \
                                         everything encrypted with it is lost"
                )
            }
            _ => format!("`aws kms enable-key --key-id {arn}`"),
        };
        return Line::fail("kms key", format!("{arn} is {}", facts.state), fix);
    }
    if arn.split(':').nth(3) != Some(region) {
        return Line::fail(
            "kms key",
            format!("{arn} is not in {region}"),
            "use a key of the environment's region",
        );
    }
    if facts.account != account {
        return Line::warn(
            "kms key",
            format!("{arn} belongs to account {}", facts.account),
            "make sure that account means it: its policy decides about the environment's secrets",
        );
    }
    Line::ok("kms key", format!("{arn} is enabled"))
}

fn judge_policy(account: &str, policy: &Result<String, AwsError>) -> Line {
    match policy {
        Ok(policy) if lets_iam_decide(policy, account) => {
            Line::ok("kms policy", "lets the account's IAM policies decide")
        }
        Ok(_) => Line::fail(
            "kms policy",
            "does not let the account's IAM policies decide, so the roles of the machines could not decrypt",
            format!(
                "add a statement that allows kms:* to arn:aws:iam::{account}:root (`aws kms put-key-policy`)"
            ),
        ),
        // Who may not read the policy may still be allowed everything else.
        Err(error) => Line::unseen("kms policy", error).mildly(),
    }
}

fn judge_use(tried: &Result<(), AwsError>) -> Line {
    match tried {
        Ok(()) => Line::ok("kms permission", "the key would encrypt for you"),
        Err(error) => Line::unseen("kms permission", error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok as Well, Warn};
    use super::*;

    const ARN: &str = "arn:aws:kms:eu-west-1:123456789012:key/1";

    fn facts() -> Facts {
        Facts {
            arn: ARN.to_owned(),
            account: "123456789012".to_owned(),
            state: "Enabled".to_owned(),
            enabled: true,
            encrypts: true,
        }
    }

    #[test]
    fn key() {
        let error = |kind| Err(AwsError::made_up("kms:DescribeKey", kind));
        let with = |change: fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            Ok(Some(facts))
        };
        for (facts, verdict, says) in [
            (with(|_| ()), Well, "is enabled"),
            (
                error(AwsErrorKind::NotFound),
                Fail,
                "there is no key alias/x in eu-west-1",
            ),
            (error(AwsErrorKind::Denied), Fail, "access denied"),
            (with(|f| f.encrypts = false), Fail, "not a symmetric key"),
            (
                with(|f| (f.enabled, f.state) = (false, "Disabled".into())),
                Fail,
                "is Disabled",
            ),
            (
                with(|f| (f.enabled, f.state) = (false, "PendingDeletion".into())),
                Fail,
                "is PendingDeletion",
            ),
            (
                with(|f| f.arn = f.arn.replace("eu-west-1", "eu-west-2")),
                Fail,
                "is not in eu-west-1",
            ),
            (
                with(|f| f.account = "210987654321".into()),
                Warn,
                "belongs to account 210987654321",
            ),
            (Ok(None), Fail, "said nothing"),
        ] {
            let line = judge("alias/x", "eu-west-1", "123456789012", &facts);
            assert_eq!((line.check, line.verdict), ("kms key", verdict), "{line:?}");
            assert!(line.says.contains(says), "{line:?}");
            assert_eq!(line.fix.is_none(), verdict == Well, "{line:?}");
        }
    }

    #[test]
    fn policy_and_use() {
        let root = r#"{"Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::123456789012:root"},"Action":"kms:*","Resource":"*"}}"#;
        let denied = |action| AwsError::made_up(action, AwsErrorKind::Denied);
        let judged = |p: Result<String, AwsError>| judge_policy("123456789012", &p).verdict;
        assert_eq!(judged(Ok(root.to_owned())), Well);
        assert_eq!(judged(Ok(root.replace(":root", ":user/op"))), Fail);
        assert_eq!(judged(Err(denied("kms:GetKeyPolicy"))), Warn);
        assert_eq!(judge_use(&Ok(())).verdict, Well);
        let line = judge_use(&Err(denied("kms:Encrypt")));
        assert_eq!(line.verdict, Fail);
        assert!(line.fix.unwrap().contains("have kms:Encrypt allowed"));
    }
}
