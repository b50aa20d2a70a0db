use super::versions::check_kubernetes;
use super::*;

fn holds<T: FromStr<Err = Refused>>(good: &[&str], bad: &[&str]) {
    for text in good {
        assert!(text.parse::<T>().is_ok(), "refused: {text}");
    }
    for text in bad {
        assert!(text.parse::<T>().is_err(), "accepted: {text}");
    }
}

#[test]
fn names() {
    holds::<Name>(
        &["dev", "a", "eu-prod-2"],
        &[
            "",
            "2x",
            "-a",
            "a-",
            "a--b",
            "Dev",
            "a_b",
            "../x",
            "abcdefghijklmnopqrstuvwxy",
        ],
    );
    holds::<Account>(
        &["123456789012", "my-company"],
        &["12345", "1234567890123", "a", "My", "a--b"],
    );
    holds::<Profile>(&["dev", "AdministratorAccess-1234"], &["", "a b", "[x]"]);
    holds::<DnsName>(
        &["example.com", "cluster.local"],
        &["com", "example.com.", "Example.com", "a..b", "-a.b"],
    );
}

#[test]
fn regions() {
    holds::<Region>(
        &["eu-west-1", "us-gov-east-1", "ap-southeast-12"],
        &[
            "",
            "eu",
            "eu-west",
            "eu-west-1a",
            "europe-west1",
            "-1",
            "é-1",
        ],
    );
    assert_eq!(
        check_region("eu-west-1b").unwrap_err().help.unwrap(),
        "its region is `eu-west-1`"
    );
}

#[test]
fn buckets() {
    holds::<BucketName>(
        &["abc", "example-dev-secrets", "a.b.c"],
        &[
            "ab",
            "Abc",
            "a_b",
            "-abc",
            "abc-",
            "a..b",
            "10.0.0.1",
            "xn--abc",
            "abc-s3alias",
            &"a".repeat(64),
        ],
    );
}

#[test]
fn kms_keys() {
    let id = "1234abcd-12ab-34cd-56ef-1234567890ab";
    let arn = format!("arn:aws:kms:eu-west-1:123456789012:key/{id}");
    let bad = format!("arn:aws:s3:eu-west-1:123456789012:key/{id}");
    holds::<KmsKeyId>(
        &[
            id,
            &arn,
            "alias/platform",
            "mrk-1234abcd12ab34cd56ef1234567890ab",
            "arn:aws-cn:kms:cn-north-1:123456789012:alias/x",
        ],
        &[
            "",
            "platform",
            "alias/",
            &bad,
            "1234",
            "arn:aws:kms:eu-west-1:123456789012:x",
            "key/x",
        ],
    );
}

#[test]
fn machines() {
    holds::<InstanceType>(
        &["t3.medium", "u-6tb1.metal"],
        &["t3", "T3.medium", ".x", "3t.x"],
    );
    holds::<MachineImage>(
        &[
            "ami-f4199987",
            "ami-0123456789abcdef0",
            "Flatcar-stable-4081.2.0-hvm",
        ],
        &["ami-xyz", "", "a;b-c"],
    );
}

#[test]
fn versions() {
    holds::<KubernetesVersion>(
        &["1.36.0", "1.36.3"],
        &["1.35.9", "1.37.0", "v1.36.3", "1.36", "1.36.03", "2.36.1"],
    );
    assert!(
        check_kubernetes("1.35.2")
            .unwrap_err()
            .reason
            .contains("is Kubernetes 1.35;")
    );
    holds::<EtcdVersion>(
        &["3.6.8-0", "3.5.24-0"],
        &["3.5.23-0", "3.6.8", "2.3.8-0", "4.0.0-0", "v3.6.8-0"],
    );
}

#[test]
fn recipients() {
    let good = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let typo = good.replace("hjy5", "hjy4");
    holds::<RecoveryRecipient>(
        &[good],
        &["", "age1", &typo, &good.to_uppercase(), "ssh-ed25519 AAAA"],
    );
}
