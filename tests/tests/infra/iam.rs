//! What each group's role may do, by the policy that is in the account. The judge is ours: **not an AWS result**.

use platform_tests::iam::{Decision, Request, judge};
use serde_json::{Value, json};

const BUCKET: &str = "arn:aws:s3:::example-dev-secrets";
/// That of the machines that `adoption.rs` plays.
const ROLE_ID: &str = "AROAEXAMPLEROLEID:";
const ME: &str = "AROAEXAMPLE:i-0123456789abcdef0";

struct Role<'a> {
    group: &'static str,
    other: &'static str,
    policies: &'a [Value],
    key: String,
}

// === impl Role ===

impl Role<'_> {
    #[track_caller]
    fn may(&self, wanted: bool, request: Request) {
        let request = request.with("aws:userid", ME);
        let decision = judge(self.policies, &request).unwrap();
        assert_eq!(
            decision == Decision::Allowed,
            wanted,
            "{}: {request:?}",
            self.group
        );
    }

    #[track_caller]
    fn object(&self, wanted: bool, action: &str, key: &str) {
        self.may(wanted, Request::new(action, &format!("{BUCKET}/{key}")));
    }

    fn decrypt(&self, environment: Option<&str>, group: Option<&str>) -> Request {
        let mut request = Request::new("kms:Decrypt", &self.key);
        for (key, value) in [("environment", environment), ("group", group)] {
            if let Some(value) = value {
                request = request.with(&format!("kms:EncryptionContext:{key}"), value);
            }
        }
        request
    }
}

/// Both roles of an observed account.
pub(crate) fn check_roles(seen: &Value) {
    for (group, other) in [("secure", "compute"), ("compute", "secure")] {
        let found = &seen["roles"][format!("kube-dev-{group}")];
        assert_eq!(found["attached"], json!([]), "nothing but its own policy");
        assert_eq!(found["profiles"], json!([format!("kube-dev-{group}")]));
        assert_eq!(
            found["trust"]["Statement"][0]["Principal"],
            json!({"Service": "ec2.amazonaws.com"})
        );
        let policies = found["policies"].as_array().unwrap();
        let statements = policies[0]["Statement"].as_array().unwrap();
        let unwrap = statements
            .iter()
            .find(|s| s["Action"] == "kms:Decrypt")
            .unwrap();
        check(&Role {
            group,
            other,
            policies,
            key: unwrap["Resource"].as_str().unwrap().to_owned(),
        });
    }
}

fn check(role: &Role<'_>) {
    let Role { group, other, .. } = role;
    let secure = *group == "secure";
    let own = format!("nodes/{group}/{ME}.json");
    let sister = format!("nodes/{group}/AROAEXAMPLE:i-0fedcba9876543210.json");
    for (key, read, write) in [
        ("operator/keyring.json".to_owned(), false, false),
        ("bootstrap/ab.platform-agent".to_owned(), true, false),
        (
            format!("groups/{group}/metadata/timestamp.json"),
            true,
            false,
        ),
        (
            format!("groups/{group}/targets/ab.release-1.bundle"),
            true,
            false,
        ),
        (
            format!("groups/{other}/metadata/timestamp.json"),
            false,
            false,
        ),
        (
            format!("groups/{other}/targets/ab.release-1.bundle"),
            false,
            false,
        ),
        (
            format!("groups/{group}2/metadata/timestamp.json"),
            false,
            false,
        ),
        (own.clone(), true, true),
        (sister, true, false),
        (format!("nodes/{other}/{ME}.json"), false, false),
        (format!("rollouts/{group}.json"), true, true),
        (format!("rollouts/{other}.json"), false, false),
        ("etcd/1/cluster.json".to_owned(), secure, secure),
        ("etcd/1/backups/x.json".to_owned(), secure, secure),
        ("etcd/1/snapshots/x/0000.age".to_owned(), secure, secure),
    ] {
        role.object(read, "s3:GetObject", &key);
        role.object(write, "s3:PutObject", &key);
        let retired = key.contains("/backups/") || key.contains("/snapshots/");
        role.object(secure && retired, "s3:DeleteObject", &key);
        for never in [
            "s3:DeleteObjectVersion",
            "s3:GetObjectVersion",
            "s3:PutObjectAcl",
        ] {
            role.object(false, never, &key);
        }
    }
    let list = |prefix: &str| Request::new("s3:ListBucket", BUCKET).with("s3:prefix", prefix);
    role.may(true, list(&format!("nodes/{group}/")));
    role.may(false, list(&format!("nodes/{other}/")));
    role.may(false, list(""));
    role.may(false, list("operator/"));
    role.may(secure, list("etcd/1/"));
    role.may(secure, list("etcd/"));
    role.may(false, Request::new("s3:ListBucket", BUCKET));
    role.may(false, Request::new("s3:PutBucketPolicy", BUCKET));
    let elsewhere =
        format!("arn:aws:s3:::example-prod-secrets/groups/{group}/metadata/timestamp.json");
    role.may(false, Request::new("s3:GetObject", &elsewhere));

    role.may(true, role.decrypt(Some("dev"), Some(group)));
    role.may(false, role.decrypt(Some("dev"), Some(other)));
    role.may(false, role.decrypt(Some("prod"), Some(group)));
    role.may(false, role.decrypt(Some("dev"), Some("operator")));
    role.may(false, role.decrypt(Some("dev"), None));
    role.may(false, role.decrypt(None, Some(group)));
    role.may(false, role.decrypt(None, None));
    let mut other_key = role.decrypt(Some("dev"), Some(group));
    other_key.resource.push('0');
    role.may(false, other_key);
    for never in [
        "kms:Encrypt",
        "kms:GenerateDataKey",
        "kms:ReEncryptFrom",
        "kms:CreateGrant",
        "kms:PutKeyPolicy",
    ] {
        let mut request = role.decrypt(Some("dev"), Some(group));
        request.action = never.to_owned();
        role.may(false, request);
    }
    role.may(secure, Request::new("ec2:DescribeInstances", "*"));
    for never in [
        "ec2:TerminateInstances",
        "ec2:RunInstances",
        "iam:PassRole",
        "sts:AssumeRole",
        "autoscaling:SetDesiredCapacity",
    ] {
        role.may(false, Request::new(never, "*"));
    }
}

/// What the secrets bucket's own policy refuses to everybody.
pub(crate) fn check_bucket(seen: &Value) {
    let policy = [seen["buckets"]["example-dev-secrets"]["policy"].clone()];
    let denied = |request: &Request| judge(&policy, request).unwrap() == Decision::Denied;
    let put = |key: &str| {
        Request::new("s3:PutObject", &format!("{BUCKET}/{key}"))
            .with("aws:SecureTransport", "true")
            .with("s3:ObjectCreationOperation", "true")
    };
    for once in [
        "bootstrap/ab.platform-agent",
        "groups/secure/targets/ab.release-1.bundle",
        "groups/compute/metadata/2.root.json",
        "groups/compute/metadata/2.targets.json",
        "etcd/1/cluster.json",
        "etcd/1/backups/x.json",
        "etcd/1/snapshots/x/0000.age",
    ] {
        assert!(denied(&put(once)), "{once}");
        assert!(!denied(&put(once).with("s3:if-none-match", "*")), "{once}");
        let part = put(once).with("s3:ObjectCreationOperation", "false");
        assert!(!denied(&part), "a part of {once}");
    }
    for often in [
        "operator/keyring.json",
        "groups/secure/metadata/timestamp.json",
        "rollouts/secure.json",
    ] {
        assert!(!denied(&put(often)), "{often}");
        assert!(
            denied(&put(often).with("aws:SecureTransport", "false")),
            "{often}"
        );
    }
}

/// The role of a group and the bucket's own policy at once, as AWS judges them: what either denies is denied.
fn together(seen: &Value, group: &str) -> Vec<Value> {
    let role = seen["roles"][format!("kube-dev-{group}")]["policies"].as_array();
    let mut all = role.unwrap().clone();
    all.push(seen["buckets"]["example-dev-secrets"]["policy"].clone());
    all
}

/// What a machine may write is still written once where it is to be, and over TLS only.
pub(crate) fn check_both(seen: &Value) {
    let secure = together(seen, "secure");
    let put = |key: &str| {
        Request::new("s3:PutObject", &format!("{BUCKET}/{key}"))
            .with("aws:userid", ME)
            .with("aws:SecureTransport", "true")
            .with("s3:ObjectCreationOperation", "true")
    };
    let is = |request: &Request| judge(&secure, request).unwrap();
    for once in ["etcd/1/cluster.json", "etcd/1/backups/x.json"] {
        assert_eq!(is(&put(once)), Decision::Denied, "{once}");
        let fresh = put(once).with("s3:if-none-match", "*");
        assert_eq!(is(&fresh), Decision::Allowed, "{once}");
        let open = fresh.with("aws:SecureTransport", "false");
        assert_eq!(is(&open), Decision::Denied, "{once}");
    }
    for often in [
        "rollouts/secure.json".to_owned(),
        format!("nodes/secure/{ME}.json"),
    ] {
        assert_eq!(is(&put(&often)), Decision::Allowed, "{often}");
    }
    // What nobody denies and nobody allows.
    let foreign = put("groups/secure/targets/x").with("s3:if-none-match", "*");
    assert_eq!(is(&foreign), Decision::NotAllowed);
}

/// Everything that real agents asked the account for is what their group may do.
pub(crate) fn check_requests(seen: &Value, requests: &[Value]) {
    let mut kinds = std::collections::BTreeSet::new();
    for group in ["secure", "compute"] {
        let policies = together(seen, group);
        let by = json!(format!("AGENT{group}"));
        for asked in requests.iter().filter(|asked| asked["by"] == by) {
            let request = as_judged(asked, seen, group);
            let decision = judge(&policies, &request).unwrap();
            assert_eq!(
                decision,
                Decision::Allowed,
                "{group}: {asked} as {request:?}"
            );
            kinds.insert(format!("{group} {}", request.action));
        }
    }
    for group in ["secure", "compute"] {
        for action in ["s3:GetObject", "s3:PutObject", "kms:Decrypt"] {
            let kind = format!("{group} {action}");
            assert!(kinds.contains(&kind), "no {kind} was asked for: {kinds:?}");
        }
    }
}

/// A request as AWS gives it to its policies.
fn as_judged(asked: &Value, seen: &Value, group: &str) -> Request {
    let text = |name: &str| asked[name].as_str().unwrap_or_default();
    let request = if text("target") == "TrentService.Decrypt" {
        let role = &seen["roles"][format!("kube-dev-{group}")]["policies"][0];
        let statements = role["Statement"].as_array().unwrap();
        let unwrap = statements.iter().find(|s| s["Action"] == "kms:Decrypt");
        let key = unwrap.unwrap()["Resource"].as_str().unwrap();
        let named = asked["body"]["KeyId"].as_str().unwrap();
        assert!(key.ends_with(named), "the agent names the key: {named}");
        let context = asked["body"]["EncryptionContext"].as_object().unwrap();
        context.iter().fold(
            Request::new("kms:Decrypt", key),
            |request, (name, value)| {
                let name = format!("kms:EncryptionContext:{name}");
                request.with(&name, value.as_str().unwrap())
            },
        )
    } else {
        let key = text("path").strip_prefix("/example-dev-secrets").unwrap();
        let key = key.trim_start_matches('/');
        let listed = text("query")
            .split('&')
            .find_map(|part| part.strip_prefix("prefix="));
        match (text("method"), key) {
            ("GET", "") => Request::new("s3:ListBucket", BUCKET)
                .with("s3:prefix", &listed.unwrap().replace("%2F", "/")),
            (method, key) => {
                let action = match method {
                    "GET" | "HEAD" => "s3:GetObject",
                    "PUT" => "s3:PutObject",
                    "DELETE" => "s3:DeleteObject",
                    other => panic!("{other} {asked}"),
                };
                Request::new(action, &format!("{BUCKET}/{key}"))
                    .with("s3:ObjectCreationOperation", "true")
            }
        }
    };
    let request = match asked["if_none_match"].as_str() {
        Some(tag) if request.action == "s3:PutObject" => request.with("s3:if-none-match", tag),
        _ => request,
    };
    // Whose own object it is, shows: a machine that writes another's is refused.
    let own = ROLE_ID;
    let me = text("path").rsplit('/').next().unwrap_or_default();
    let me = me
        .strip_suffix(".json")
        .filter(|name| name.starts_with(own));
    request
        .with("aws:userid", me.unwrap_or(ME))
        .with("aws:SecureTransport", "true")
}
