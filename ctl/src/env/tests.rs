use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SAMPLE: &str = include_str!("../../../environments/env.tfvars.sample");
const LOCAL: &str = include_str!("../../../environments/local.tfvars");

const DEV: &str = r#"
aws_account              = "123456789012"
aws_region               = "eu-west-1"
aws_profile              = "dev"
compute_asg_grace_period = "10"
compute_asg_max          = "5"
compute_asg_min          = "1"
compute_flavor           = "t3.medium"
coreos_image             = "ami-0123456789abcdef0"
dns_zone_name            = "example.com"
environment              = "dev"
etcd_flavor              = "t3.large"
kms_master_id            = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
kubeapi_access_list      = "192.0.2.0/24,198.51.100.7"
platform                 = "kube"
secrets_bucket_name      = "example-dev-secrets"
secure_asg_max           = "4"
secure_asg_min           = "3"
ssh_access_list          = ["192.0.2.10"]
terraform_bucket_name    = "example-dev-terraform"
"#;

fn dev(text: &str) -> Result<Environment, EnvError> {
    parse(text, Path::new("environments/dev.tfvars"))
}

/// The dev environment with the line of `key` replaced, or with one more line.
fn dev_with(key: &str, line: &str) -> String {
    let mut lines: Vec<&str> = DEV
        .lines()
        .filter(|l| l.split('=').next().unwrap().trim() != key)
        .collect();
    lines.push(line);
    lines.join("\n")
}

fn messages(result: Result<Environment, EnvError>) -> Vec<String> {
    match result {
        Ok(_) => Vec::new(),
        Err(error) => error
            .problems()
            .iter()
            .map(|p| p.message().to_owned())
            .collect(),
    }
}

fn rendered(error: &EnvError) -> String {
    let mut out = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::none())
        .with_width(120)
        .render_report(&mut out, error)
        .unwrap();
    out
}

/// The one problem that setting `line` for `key` in the dev environment makes.
fn only_problem(key: &str, line: &str) -> String {
    let found = messages(dev(&dev_with(key, line)));
    assert_eq!(found.len(), 1, "{line}: {found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn the_sample_has_exactly_the_known_keys() {
    let keys: Vec<_> = raw::parse(SAMPLE)
        .entries
        .into_iter()
        .map(|entry| entry.key)
        .collect();
    let expected = [
        "aws_account",
        "aws_region",
        "aws_profile",
        "compute_asg_grace_period",
        "compute_asg_max",
        "compute_asg_min",
        "compute_flavor",
        "coreos_image",
        "dns_zone_name",
        "environment",
        "etcd_flavor",
        "kms_master_id",
        "kubeapi_access_list",
        "platform",
        "secrets_bucket_name",
        "secure_asg_max",
        "secure_asg_min",
        "ssh_access_list",
        "terraform_bucket_name",
    ];
    assert_eq!(keys, expected);
    let documented: Vec<_> = documented_keys()
        .iter()
        .take(expected.len())
        .map(|key| key.name)
        .collect();
    assert_eq!(documented, expected);
}

#[test]
fn the_sample_parses_and_each_placeholder_is_reported_as_such() {
    let error = parse(SAMPLE, Path::new("environments/env.tfvars.sample")).unwrap_err();
    let lines: Vec<&str> = SAMPLE.lines().collect();
    let reported: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| {
            assert!(
                problem
                    .message()
                    .contains("still holds the sample's placeholder"),
                "{problem}"
            );
            let line = lines[problem.line().unwrap() - 1];
            let key = line.split_whitespace().next().unwrap();
            assert!(
                problem.message().starts_with(&format!("`{key}`")),
                "{problem} at {line}"
            );
            key
        })
        .collect();
    assert_eq!(
        reported,
        [
            "aws_account",
            "aws_region",
            "aws_profile",
            "coreos_image",
            "dns_zone_name",
            "environment",
            "kms_master_id",
            "kubeapi_access_list",
            "secrets_bucket_name",
            "ssh_access_list",
            "terraform_bucket_name",
        ]
    );
}

#[test]
fn the_sample_filled_in_is_an_environment() {
    let mut text = String::new();
    for line in SAMPLE.lines() {
        let key = line.split('=').next().unwrap().trim();
        let filled = ["REQUIRED", "AWS_PROFILE", "AWS_ACCOUNT|ALIAS", "IP,IP"]
            .iter()
            .any(|p| line.contains(&format!("\"{p}\"")));
        match DEV
            .lines()
            .find(|l| l.split('=').next().unwrap().trim() == key)
            .filter(|_| filled)
        {
            Some(value) => text.push_str(value),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    dev(&text).unwrap();
}

#[test]
fn a_whole_environment() {
    let env = dev(DEV).unwrap();
    assert_eq!(env.name.as_str(), "dev");
    assert_eq!(env.groups[SECURE].min, 3);
    assert_eq!(
        env.groups[SECURE].flavor.as_ref().unwrap().as_str(),
        "t3.large"
    );
    assert_eq!(env.groups[COMPUTE].max, 5);
    assert_eq!(
        env.groups[COMPUTE].grace_period,
        Some(Duration::from_secs(10))
    );
    assert_eq!(
        env.access
            .kubeapi
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["192.0.2.0/24", "198.51.100.7/32"]
    );
    assert_eq!(
        env.networks.service.nth(10),
        Some(Ipv4Addr::new(10, 101, 0, 10))
    );
    assert_eq!(env.poll_interval, Duration::from_secs(10));
    assert_eq!(env.metrics_listen.to_string(), DEFAULT_METRICS_LISTEN);
    assert!(env.on_aws() && env.kms_key_id().is_some());
    assert_eq!(env.endpoint_url, None);
}

#[test]
fn the_local_environment_needs_nothing_of_aws() {
    let env = parse(LOCAL, Path::new("environments/local.tfvars")).unwrap();
    assert_eq!(
        env.key_wrap,
        KeyWrap::LocalFile {
            path: DEFAULT_LOCAL_KEY_FILE.into()
        }
    );
    assert_eq!(
        env.endpoint_url.as_ref().unwrap().as_str(),
        "http://127.0.0.1:9191/"
    );
    assert_eq!(env.secrets_bucket.as_str(), "platform-local-secrets");
    assert_eq!(env.region.as_str(), LOCAL_AWS_REGION);
    assert_eq!((env.groups[SECURE].min, env.groups[COMPUTE].min), (3, 2));
    assert!(!env.on_aws() && env.account.is_none() && env.terraform_bucket.is_none());
}

#[test]
fn templates_see_every_key_but_those_of_the_operators_machine() {
    let env = dev(DEV).unwrap();
    let values = env.template_values();
    let expected: BTreeSet<_> = documented_keys()
        .iter()
        .filter(|key| key.in_templates)
        .map(|key| key.name)
        .collect();
    assert_eq!(
        values.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        expected
    );
    // The file's own values come out again, so no key is read under another's name.
    for entry in raw::parse(DEV).entries {
        let Some(value) = values.get(&entry.key) else {
            continue;
        };
        let raw::RawValue::Text(text) = entry.value else {
            continue;
        };
        match value {
            Value::Number(number) => assert_eq!(number.to_string(), text, "{}", entry.key),
            Value::Array(_) => assert_eq!(value, &json!(["192.0.2.0/24", "198.51.100.7/32"])),
            other => assert_eq!(other, &json!(text), "{}", entry.key),
        }
    }
    assert_eq!(values["aws_endpoint_url"], Value::Null);
    assert_eq!(
        values["kubernetes_version"],
        json!(DEFAULT_KUBERNETES_VERSION)
    );
}

#[test]
fn every_optional_key_is_read() {
    let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let text = format!(
        "{DEV}kubernetes_version = \"1.36.1\"\netcd_version = \"3.5.24-0\"\nvpc_cidr = \"10.1.0.0/16\"\n\
         service_cidr = \"10.2.0.0/20\"\npod_cidr = \"10.3.0.0/18\"\ncluster_domain = \"k8s.test\"\n\
         aws_endpoint_url = \"https://s3.test\"\npoll_interval_seconds = 30\nmetrics_listen = \"[::1]:9000\"\n\
         recovery_recipients = [\"{recipient}\"]\nkey_wrap = \"kms\"\n"
    );
    let values = dev(&text).unwrap().template_values();
    for (key, value) in [
        ("kubernetes_version", json!("1.36.1")),
        ("etcd_version", json!("3.5.24-0")),
        ("vpc_cidr", json!("10.1.0.0/16")),
        ("service_cidr", json!("10.2.0.0/20")),
        ("pod_cidr", json!("10.3.0.0/18")),
        ("cluster_domain", json!("k8s.test")),
        ("aws_endpoint_url", json!("https://s3.test/")),
        ("poll_interval_seconds", json!(30)),
        ("metrics_listen", json!("[::1]:9000")),
        ("recovery_recipients", json!([recipient])),
        ("key_wrap", json!("kms")),
    ] {
        assert_eq!(values[key], value, "{key}");
    }
}

#[test]
fn several_mistakes_are_all_shown_at_their_lines() {
    let text = r#"aws_acount = "123456789012"
aws_region = "eu-west-1a"
compute_asg_grace_period = "soon"
compute_asg_max = 2
compute_asg_min = 3
compute_flavor = ["t3.medium"]
coreos_image = "ami-0123456789abcdef0"
dns_zone_name = "example.com"
environment = "prod"
etcd_flavor = "t3.medium"
kms_master_id = "alias/platform"
kubeapi_access_list = "192.0.2.0/24, 192.0.2.300"
platform = "kube"
platform = "kube"
secrets_bucket_name = "Secrets"
secure_asg_max = 4
secure_asg_min = 2
ssh_access_list = "IP,IP"
favourite_colour = "blue"
kubernetes_version = "1.35.4"
oops {
}
"#;
    let error = dev(text).unwrap_err();
    let found: Vec<_> = error
        .problems()
        .iter()
        .map(|p| (p.line(), p.message()))
        .collect();
    let expected = [
        (Some(1), "unknown key `aws_acount`"),
        (
            Some(2),
            "`aws_region`: `eu-west-1a` is an availability zone, not a region",
        ),
        (
            Some(3),
            "`compute_asg_grace_period` must be a whole number, not `soon`",
        ),
        (
            Some(5),
            "`compute_asg_min` (3) is more than `compute_asg_max` (2)",
        ),
        (Some(6), "`compute_flavor` must be a string"),
        (
            Some(9),
            "`environment` is `prod`, but the file's name says `dev`",
        ),
        (
            Some(12),
            "`kubeapi_access_list`: `192.0.2.300` is not an IPv4 address or CIDR block",
        ),
        (Some(14), "`platform` is set twice"),
        (
            Some(15),
            "`secrets_bucket_name`: `Secrets` is not a bucket name: only lower-case letters, digits, hyphens and dots",
        ),
        (
            Some(17),
            "`secure_asg_min` is 2, but etcd takes 1, 3, 5 or 7 members",
        ),
        (
            Some(18),
            "`ssh_access_list` still holds the sample's placeholder `IP,IP`",
        ),
        (Some(19), "unknown key `favourite_colour`"),
        (
            Some(20),
            "`kubernetes_version`: `1.35.4` is Kubernetes 1.35; this release of the platform runs 1.36 only",
        ),
        (Some(21), "a block `oops` has no place in an environment"),
        (None, "`terraform_bucket_name` is missing"),
    ];
    assert_eq!(found, expected);
    assert_eq!(error.to_string(), "15 mistakes in environments/dev.tfvars");

    // What a person sees: each message, and the excerpt with file, line and column.
    let shown = rendered(&error);
    let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for (line, message) in expected {
        assert!(flat.contains(message), "{message} is not in\n{shown}");
        if let Some(line) = line {
            assert!(
                shown.contains(&format!("[environments/dev.tfvars:{line}:")),
                "line {line} is not in\n{shown}"
            );
        }
    }
    assert!(shown.contains("did you mean `aws_account`?"));
    assert!(shown.contains("its region is `eu-west-1`"));
    assert!(
        shown.contains("[environments/dev.tfvars:12:38]"),
        "an item of a list has its own column\n{shown}"
    );
}

#[test]
fn one_mistake_looks_like_this() {
    let error = dev(&dev_with("aws_region", "aws_region = \"eu-west\"")).unwrap_err();
    let expected = "env::invalid

  x 1 mistake in environments/dev.tfvars

Error: 
  x `aws_region`: `eu-west` is not an AWS region
    ,-[environments/dev.tfvars:20:14]
 19 | terraform_bucket_name    = \"example-dev-terraform\"
 20 | aws_region = \"eu-west\"
    :              ^^^^|^^^^
    :                  `-- refused
    `----
  help: a region looks like eu-west-1
";
    assert_eq!(rendered(&error).trim_end(), expected.trim_end());
}

#[test]
fn lines_that_are_not_hcl_hide_nothing() {
    let text = format!(
        "{}\naws_profile = \"open\nmetrics_listen = [\npod_cidr = \"10.9.0.1/16\"\n",
        dev_with("aws_profile", "")
    );
    let error = dev(&text).unwrap_err();
    let found: Vec<_> = error.problems().iter().map(Problem::message).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found[0].starts_with("this is not HCL") && found[1].starts_with("this is not HCL"),
        "{found:?}"
    );
    assert_eq!(
        found[2],
        "`pod_cidr`: `10.9.0.1/16` has bits set below its prefix; the network is 10.9.0.0/16"
    );
}

#[test]
fn values_that_contradict_each_other() {
    let kms = "arn:aws:kms:us-east-1:210987654321:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let found = messages(dev(&dev_with(
        "kms_master_id",
        &format!("kms_master_id = \"{kms}\""),
    )));
    assert_eq!(found.len(), 2, "{found:?}");
    for (key, line, message) in [
        (
            "-",
            "service_cidr = \"10.100.8.0/24\"",
            "`service_cidr` (10.100.8.0/24) overlaps `vpc_cidr` (10.100.0.0/16)",
        ),
        (
            "-",
            "vpc_cidr = \"10.102.0.0/17\"",
            "`pod_cidr` (10.102.0.0/16) overlaps `vpc_cidr` (10.102.0.0/17)",
        ),
        (
            "-",
            "pod_cidr = \"10.3.0.0/22\"",
            "`pod_cidr` (10.3.0.0/22) has networks for 4 nodes, but the groups may have 9",
        ),
        (
            "-",
            "vpc_cidr = \"10.0.0.0/8\"",
            "`vpc_cidr`: `10.0.0.0/8` is a /8; terraform/ takes /16 to /24",
        ),
        (
            "-",
            "local_key_file = \"x\"",
            "`local_key_file` has no meaning with key_wrap = \"kms\"",
        ),
        (
            "-",
            "key_wrap = \"local\"",
            "`kms_master_id` has no meaning with key_wrap = \"local\"",
        ),
        (
            "-",
            "key_wrap = \"lokal\"",
            "`key_wrap`: `lokal` is not a way to wrap keys: \"kms\" or \"local\"",
        ),
        (
            "-",
            "poll_interval_seconds = 0",
            "`poll_interval_seconds` is 0, but must be 1 to 3600",
        ),
        (
            "-",
            "aws_endpoint_url = \"https://a:b@s3.test\"",
            "`aws_endpoint_url`: `https://a:b@s3.test` holds credentials, which have no place in an environment",
        ),
        (
            "secure_asg_min",
            "secure_asg_min = 0",
            "`secure_asg_min` is 0, but must be 1 to 5000",
        ),
        (
            "secure_asg_min",
            "secure_asg_min = -3",
            "`secure_asg_min` must be a whole number",
        ),
        (
            "secure_asg_min",
            "secure_asg_min = \"3.0\"",
            "`secure_asg_min` must be a whole number, not `3.0`",
        ),
        (
            "aws_account",
            "aws_account = 123456789012",
            "`aws_account` must be a string",
        ),
        (
            "aws_region",
            "aws_region = \"${var.region}\"",
            "`aws_region` must be a string",
        ),
        (
            "ssh_access_list",
            "ssh_access_list = [\"192.0.2.1\", 7]",
            "`ssh_access_list` must be a list of strings",
        ),
        (
            "ssh_access_list",
            "ssh_access_list = [\"IP\"]",
            "`ssh_access_list` still holds the sample's placeholder `IP`",
        ),
        (
            "ssh_access_list",
            "ssh_access_list = \"2001:db8::1\"",
            "`ssh_access_list`: `2001:db8::1` is IPv6; the platform's network is IPv4 only",
        ),
        (
            "terraform_bucket_name",
            "terraform_bucket_name = \"example-dev-secrets\"",
            "`terraform_bucket_name` is the secrets bucket",
        ),
        (
            "aws_region",
            "aws_regoin = \"eu-west-1\"",
            "unknown key `aws_regoin`",
        ),
        ("aws_region", "aws_region = null", "`aws_region` is missing"),
    ] {
        assert_eq!(only_problem(key, line), message);
    }
}

#[test]
fn a_secret_key_is_never_shown() {
    let text = dev_with(
        "-",
        "recovery_recipients = \"AGE-SECRET-KEY-1QQQSECRETQQQ\"",
    );
    let error = dev(&text).unwrap_err();
    assert_eq!(error.problems().len(), 1);
    for shown in [rendered(&error), format!("{error:?}")] {
        assert!(!shown.contains("SECRETQQQ"), "{shown}");
        assert!(shown.contains("is a secret key"), "{shown}");
    }
}

#[test]
fn an_environment_is_found_or_the_others_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "dev.tfvars",
        "prod.tfvars",
        "env.tfvars.sample",
        "notes.txt",
    ] {
        std::fs::write(dir.path().join(file), DEV).unwrap();
    }
    let path = find(dir.path(), "dev").unwrap();
    assert_eq!(load(&path).unwrap().name.as_str(), "dev");
    assert_eq!(
        load(&find(dir.path(), "prod").unwrap())
            .unwrap_err()
            .problems()
            .len(),
        1
    );

    let error = find(dir.path(), "dv").unwrap_err();
    let EnvError::NotFound { known, help, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(known, &["dev", "prod"]);
    assert_eq!(
        help,
        "did you mean `dev`? there are: dev, prod; a new one is a copy of env.tfvars.sample"
    );
    for name in ["", "../dev", "dev/", "/etc/passwd", "dev.tfvars"] {
        assert!(
            matches!(find(dir.path(), name), Err(EnvError::NotFound { .. })),
            "{name}"
        );
    }
    assert!(matches!(
        find(&dir.path().join("none"), "dev"),
        Err(EnvError::Read { .. })
    ));
}

#[test]
fn a_file_that_is_no_text_or_too_large_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dev.tfvars");
    assert!(matches!(load(&path), Err(EnvError::Read { .. })));
    std::fs::write(&path, b"a = \"\xff\"").unwrap();
    assert!(matches!(load(&path), Err(EnvError::Read { .. })));
    std::fs::write(&path, " ".repeat(1024 * 1024 + 1)).unwrap();
    assert!(matches!(load(&path), Err(EnvError::Read { .. })));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*|[a-z_=\"\\[\\]{}$%#/*,\n 0-9é-]{0,200}") {
        if let Err(error) = dev(&text) {
            prop_assert!(!error.problems().is_empty());
            rendered(&error);
        }
    }

    /// Damage to a good file is met where the parser and the checks really are.
    #[test]
    fn a_damaged_file_never_panics(at in 0..DEV.len(), drop in 0usize..40, add in "[\"=\\[\\]{}$,/*\né-]{0,4}") {
        let end = (at + drop).min(DEV.len());
        let text = format!("{}{add}{}", &DEV[..at], &DEV[end..]);
        if let Err(error) = dev(&text) {
            prop_assert!(!error.problems().is_empty());
            rendered(&error);
        }
    }

    #[test]
    fn any_value_for_any_key_never_panics(index in 0..documented_keys().len(), value in "[a-zA-Z0-9./:,é*-]{0,40}") {
        let key = documented_keys()[index].name;
        let result = dev(&dev_with(key, &format!("{key} = \"{value}\"")));
        prop_assert!(result.is_ok() || !messages(result).is_empty());
    }
}
