//! A judge of IAM policies that knows conditions and policy variables.
//!
//! It follows AWS's documented rules for one account and identity-based policies: an explicit deny wins, something must allow, and
//! everything else is refused. It is **not an AWS result**: it proves what the rendered policies say, not what AWS makes of
//! them. What it does not know (an operator, an element) is an error and never a guess. moto evaluates neither resources nor conditions.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `s3:GetObject`.
    pub action: String,
    /// The ARN of what it is about.
    pub resource: String,
    /// Condition keys in lower case, with the request's value.
    pub context: BTreeMap<String, String>,
}

/// What the policies say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Some statement allows it, none denies it.
    Allowed,
    /// A statement denies it.
    Denied,
    /// No statement speaks of it.
    NotAllowed,
}

// === impl Request ===

impl Request {
    /// A request without context.
    #[must_use]
    pub fn new(action: &str, resource: &str) -> Self {
        Self {
            action: action.to_owned(),
            resource: resource.to_owned(),
            context: BTreeMap::new(),
        }
    }

    /// The same with a condition key.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.context.insert(key.to_lowercase(), value.to_owned());
        self
    }
}

/// Judges a request by some policies.
///
/// # Errors
/// A policy with something that this judge does not know.
pub fn judge(policies: &[Value], request: &Request) -> anyhow::Result<Decision> {
    let mut decision = Decision::NotAllowed;
    for policy in policies {
        for statement in list(policy.get("Statement").context("a policy has statements")?) {
            if !applies(&statement, request)? {
                continue;
            }
            match statement.get("Effect").and_then(Value::as_str) {
                Some("Deny") => return Ok(Decision::Denied),
                Some("Allow") => decision = Decision::Allowed,
                other => bail!("unknown effect {other:?}"),
            }
        }
    }
    Ok(decision)
}

fn applies(statement: &Value, request: &Request) -> anyhow::Result<bool> {
    let fields = statement.as_object().context("a statement is an object")?;
    let known = [
        "Sid",
        "Effect",
        "Principal",
        "Action",
        "Resource",
        "Condition",
    ];
    if let Some(unknown) = fields.keys().find(|name| !known.contains(&name.as_str())) {
        bail!("this judge does not know {unknown}");
    }
    let action = texts(statement.get("Action").context("a statement has actions")?)?;
    let resource = texts(
        statement
            .get("Resource")
            .context("a statement has resources")?,
    )?;
    // Actions are compared without case, resources with.
    let asked = request.action.to_lowercase();
    if !action
        .iter()
        .any(|pattern| like(&pattern.to_lowercase(), &asked))
    {
        return Ok(false);
    }
    let mut matched = false;
    for pattern in resource {
        matched |= match substituted(&pattern, request)? {
            Some(pattern) => like(&pattern, &request.resource),
            None => false,
        };
    }
    if !matched {
        return Ok(false);
    }
    let Some(conditions) = statement.get("Condition") else {
        return Ok(true);
    };
    for (operator, keys) in conditions.as_object().context("conditions are an object")? {
        for (key, values) in keys.as_object().context("a condition has keys")? {
            if !holds(operator, key, &texts(values)?, request)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// One operator on one key: any of the values will do.
fn holds(operator: &str, key: &str, values: &[String], request: &Request) -> anyhow::Result<bool> {
    let asked = request.context.get(&key.to_lowercase());
    if operator == "Null" {
        return Ok(values
            .iter()
            .any(|v| v == if asked.is_none() { "true" } else { "false" }));
    }
    let mut patterns = Vec::new();
    for value in values {
        patterns.extend(substituted(value, request)?);
    }
    // A key that the request does not have fails every one of these.
    let Some(asked) = asked else { return Ok(false) };
    Ok(match operator {
        "StringEquals" => patterns.iter().any(|p| p == asked),
        "StringLike" => patterns.iter().any(|p| like(p, asked)),
        "Bool" => patterns.iter().any(|p| p.eq_ignore_ascii_case(asked)),
        other => bail!("this judge does not know the operator {other}"),
    })
}

/// The text with its variables filled in; none where the request lacks one, and then nothing matches.
fn substituted(text: &str, request: &Request) -> anyhow::Result<Option<String>> {
    let mut all = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').context("a variable ends with }")?;
        all.push_str(before);
        match request.context.get(&name.to_lowercase()) {
            Some(value) => all.push_str(value),
            None => return Ok(None),
        }
        rest = after;
    }
    all.push_str(rest);
    Ok(Some(all))
}

/// `*` is any text, `?` any character.
fn like(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            text.char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .any(|at| like(rest, &text[at..]))
        }
        Some(wanted) => text.chars().next().is_some_and(|found| {
            (wanted == '?' || wanted == found)
                && like(&pattern[wanted.len_utf8()..], &text[found.len_utf8()..])
        }),
    }
}

fn list(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    }
}

fn texts(value: &Value) -> anyhow::Result<Vec<String>> {
    let text = |v: &Value| v.as_str().map(str::to_owned).context("a text");
    list(value).iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy() -> Vec<Value> {
        vec![json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["s3:Get*"], "Resource": "arn:aws:s3:::b/a/*"},
            {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::b/${aws:userid}.json"},
            {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "key", "Condition":
                {"StringEquals": {"kms:EncryptionContext:group": ["x", "y"]}}},
            {"Effect": "Deny", "Action": "s3:*", "Resource": "*", "Condition":
                {"Bool": {"aws:SecureTransport": "false"}}},
        ]})]
    }

    #[test]
    fn allow_deny_variables_and_conditions() {
        let is = |request: &Request| judge(&policy(), request).unwrap();
        let get = Request::new("s3:getobject", "arn:aws:s3:::b/a/x");
        assert_eq!(is(&get), Decision::Allowed);
        assert_eq!(
            is(&get.clone().with("aws:securetransport", "false")),
            Decision::Denied
        );
        assert_eq!(
            is(&Request::new("s3:GetObject", "arn:aws:s3:::b/A/x")),
            Decision::NotAllowed
        );
        let put = Request::new("s3:PutObject", "arn:aws:s3:::b/me.json");
        assert_eq!(is(&put), Decision::NotAllowed, "no aws:userid, no match");
        assert_eq!(is(&put.clone().with("aws:userid", "me")), Decision::Allowed);
        assert_eq!(is(&put.with("aws:userid", "you")), Decision::NotAllowed);
        let decrypt = Request::new("kms:Decrypt", "key");
        assert_eq!(is(&decrypt), Decision::NotAllowed);
        assert_eq!(
            is(&decrypt.with("kms:EncryptionContext:group", "y")),
            Decision::Allowed
        );
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        let request = Request::new("a:b", "c").with("k", "v");
        let all = |more: Value| {
            let mut statement = json!({"Effect": "Allow", "Action": "*", "Resource": "*"});
            statement
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            judge(&[json!({"Statement": statement})], &request)
        };
        assert!(all(json!({})).is_ok());
        assert!(all(json!({"NotAction": "x"})).is_err());
        assert!(all(json!({"Condition": {"DateLessThan": {"k": "v"}}})).is_err());
    }
}
