//! Whether a key's policy leaves the decision to IAM, as the default policy does: a statement that allows the account
//! itself (its root) to encrypt and decrypt. Without one, no IAM policy of any role counts.

use serde_json::Value;

/// What the platform does with a key.
const NEEDED: [&str; 2] = ["kms:Encrypt", "kms:Decrypt"];

/// Whether the policy, as JSON, lets IAM policies of `account` decide about [`NEEDED`].
pub(super) fn lets_iam_decide(policy: &str, account: &str) -> bool {
    let Ok(policy) = serde_json::from_str::<Value>(policy) else {
        return false;
    };
    let statements = each(policy.get("Statement"));
    NEEDED.iter().all(|action| {
        statements
            .iter()
            .any(|statement| allows(statement, account, action))
    })
}

fn allows(statement: &Value, account: &str, action: &str) -> bool {
    let text = |key: &str| statement.get(key).and_then(Value::as_str);
    let principal = statement.get("Principal");
    let named = principal.and_then(|p| p.get("AWS")).or(principal);
    let is_root = |name: &str| {
        let of_the_account = name.strip_suffix(&format!(":iam::{account}:root"));
        name == account || name == "*" || of_the_account.is_some_and(|p| p.starts_with("arn:aws"))
    };
    let matches = |pattern: &str| fits(&pattern.to_ascii_lowercase(), &action.to_ascii_lowercase());
    text("Effect") == Some("Allow")
        && statement.get("Condition").is_none()
        && texts(named).any(is_root)
        && texts(statement.get("Action")).any(matches)
}

/// The elements of a list, or the one that stands without a list.
fn each(value: Option<&Value>) -> Vec<&Value> {
    match value {
        Some(Value::Array(all)) => all.iter().collect(),
        Some(one) => vec![one],
        None => Vec::new(),
    }
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    each(value).into_iter().filter_map(Value::as_str)
}

/// Whether `text` fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(rest) = text.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| fits(tail, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "123456789012";

    fn policy(principal: &str, action: &str, more: &str) -> String {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{principal},"Action":{action},"Resource":"*"{more}}}]}}"#
        )
    }

    #[test]
    fn only_a_statement_for_the_whole_account_counts() {
        let root = format!(r#"{{"AWS":"arn:aws:iam::{ACCOUNT}:root"}}"#);
        let number = format!(r#"{{"AWS":["other","{ACCOUNT}"]}}"#);
        for good in [
            policy(&root, "\"kms:*\"", ""),
            policy(&number, "\"*\"", ""),
            policy("\"*\"", "[\"kms:Encrypt*\", \"kms:De*\"]", ""),
            policy(&root.replace("arn:aws:", "arn:aws-cn:"), "\"kms:*\"", ""),
        ] {
            assert!(lets_iam_decide(&good, ACCOUNT), "{good}");
        }
        let role = format!(r#"{{"AWS":"arn:aws:iam::{ACCOUNT}:role/x"}}"#);
        for bad in [
            policy(&role, "\"kms:*\"", ""),
            policy(&root, "\"kms:Decrypt\"", ""),
            policy(&root, "\"kms:Describe*\"", ""),
            policy(&root, "\"kms:*\"", r#","Condition":{"Bool":{"x":"true"}}"#),
            policy(&root, "\"kms:*\"", "").replace("Allow", "Deny"),
            policy(&root.replace(ACCOUNT, "210987654321"), "\"kms:*\"", ""),
            policy(r#"{"Service":"s3.amazonaws.com"}"#, "\"kms:*\"", ""),
            "not JSON".to_owned(),
            "{}".to_owned(),
        ] {
            assert!(!lets_iam_decide(&bad, ACCOUNT), "{bad}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("kms:*", "kms:decrypt", true),
            ("kms:*crypt", "kms:decrypt", true),
            ("*", "", true),
            ("kms:*x", "kms:decrypt", false),
            ("kms:decrypt", "kms:decrypt2", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
