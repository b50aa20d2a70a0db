//! `doctor`: what it sees in an account through the real clients. The judgements have their tests beside them.

use platform_tests::moto::ACCESS_KEY;
use serde_json::Value;

use crate::desk::{Desk, Said, run};

/// The verdicts by check, in order.
pub(crate) fn verdicts(said: &Said) -> Vec<(String, String)> {
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    let lines = report["lines"].as_array().unwrap().iter();
    let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    lines
        .map(|line| (text(line, "check"), text(line, "verdict")))
        .collect()
}

/// The lines that are not ok: check, verdict and what they say.
pub(crate) fn amiss(said: &Said) -> Vec<String> {
    let report: Value = serde_json::from_str(&said.out).unwrap();
    let lines = report["lines"].as_array().unwrap().iter();
    lines
        .filter(|line| line["verdict"] != "ok")
        .map(|line| {
            assert!(line["fix"].is_string(), "{line} has no fix");
            let text = |key: &str| line[key].as_str().unwrap().to_owned();
            format!("{} {}: {}", text("verdict"), text("check"), text("says"))
        })
        .collect()
}

pub(crate) const DOCTOR: [&str; 5] = ["doctor", "-e", "dev", "--output", "json"];
pub(crate) const NO_BACKUP: &str = "warn backup: no backup of etcd";

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_everything_is_well_and_each_lack_is_a_line() {
    let Some(desk) = Desk::new().await else {
        return;
    };
    let said = desk.run(&DOCTOR).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(amiss(&said), [NO_BACKUP]);
    let checks: Vec<String> = verdicts(&said).into_iter().map(|(c, _)| c).collect();
    assert_eq!(
        checks,
        [
            "credentials",
            "account",
            "artifacts",
            "region",
            "kms key",
            "kms policy",
            "kms permission",
            "secrets bucket",
            "terraform bucket",
            "clock",
            "keyring",
            "backup",
            "image",
            "instance types",
            "instance types",
            "dns zone",
            "dns names",
            "ssh access",
            "api access",
            "engine",
        ]
    );
    let text = desk.run(&["doctor", "-e", "dev"]).await;
    assert!(
        text.out
            .contains("example-dev-terraform is not there yet: the name is free")
            && text.out.ends_with("dev: 19 ok, 1 warnings, 0 failures\n"),
        "{text:?}"
    );

    // Each change of the environment, or of the account, is one line that fails.
    for (from, to, says) in [
        (
            "\"123456789012\"",
            "\"210987654321\"",
            "fail account: these credentials are of account 123456789012",
        ),
        (
            "\"123456789012\"",
            "\"acme-dev\"",
            "fail account: these credentials are of account 123456789012 (which has no alias)",
        ),
        (
            "coreos_image             = \"ami-",
            "coreos_image             = \"Flatcar-none-",
            "fail image: there is no image Flatcar-none-",
        ),
        (
            "compute_flavor           = \"t3.medium\"",
            "compute_flavor           = \"t9.mega\"",
            "fail instance types: t9.mega of group compute is not offered",
        ),
        (
            "compute_flavor           = \"t3.medium\"",
            "compute_flavor           = \"t4g.medium\"",
            "fail instance types: t4g.medium of group compute has a processor of arm64",
        ),
        (
            "\"example.com\"",
            "\"example.org\"",
            "fail dns zone: example.org is not hosted",
        ),
        (
            "ssh_access_list          = \"192.0.2.10\"",
            "ssh_access_list          = \"192.0.2.11\"",
            "fail ssh access: your address 192.0.2.10 is not in ssh_access_list",
        ),
    ] {
        let old = desk.amend(from, to);
        let said = desk.run(&DOCTOR).await;
        assert_eq!(said.code, 3, "{said:?}");
        let lines = amiss(&said);
        assert!(
            lines.len() == 2 && lines.iter().any(|l| l.starts_with(says)),
            "{says}: {lines:?}"
        );
        desk.restore(&old);
    }
    let file = desk.amend(
        "kms_master_id            = \"",
        "kms_master_id            = \"alias/none\" # \"",
    );
    let said = desk.run(&DOCTOR).await;
    assert!(
        amiss(&said)
            .iter()
            .any(|l| l == "fail kms key: there is no key alias/none in us-east-1"),
        "{said:?}"
    );
    desk.restore(&file);
    // An alias is as good as the key.
    desk.amend(
        "kms_master_id            = \"",
        "kms_master_id            = \"alias/platform-dev\" # \"",
    );
    assert_eq!(desk.run(&DOCTOR).await.code, 0);
    desk.restore(&file);

    let key = file.split("kms_master_id            = \"").nth(1).unwrap();
    let key = key.split('"').next().unwrap();
    desk.account(&["disable-key", key]);
    let said = desk.run(&DOCTOR).await;
    assert!(
        amiss(&said)
            .iter()
            .any(|l| l.starts_with("fail kms key") && l.ends_with("is Disabled")),
        "{said:?}"
    );
    desk.account(&["enable-key", key]);
    let role = r#"{"Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::123456789012:role/x"},"Action":"kms:*","Resource":"*"}]}"#;
    desk.account(&["policy", key, role]);
    let said = desk.run(&DOCTOR).await;
    assert!(
        amiss(&said)
            .iter()
            .any(|l| l.starts_with("fail kms policy")),
        "{said:?}"
    );

    desk.program("terraform", "echo '{\"terraform_version\": \"1.9.8\"}'");
    let said = desk.run(&DOCTOR).await;
    assert!(
        amiss(&said)
            .iter()
            .any(|l| l.starts_with("fail engine") && l.contains("1.9.8")),
        "{said:?}"
    );
    std::fs::remove_file(desk.path("bin/terraform")).unwrap();
    let said = desk.run(&DOCTOR).await;
    assert!(
        amiss(&said)
            .iter()
            .any(|l| l.starts_with("fail engine: neither terraform nor tofu")),
        "{said:?}"
    );
}

/// `run` stops here, before a bucket is made; what the line says then ends it, without a bucket.
#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_not_listed_is_a_line_and_adding_it_needs_no_bucket() {
    let Some(desk) = Desk::new().await else {
        return;
    };
    let place = "artifacts:\n  - {name: kubelet, path: /opt/bin/kubelet, mode: \"0755\"}\n";
    std::fs::write(desk.path("manifests/compute/node.yaml"), place).unwrap();
    let said = desk.run(&DOCTOR).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert_eq!(
        amiss(&said),
        [
            "fail artifacts: kubelet is not in artifacts.toml; machines of compute need it",
            NO_BACKUP
        ]
    );
    let command = "platformctl artifacts add -e dev kubelet https://dl.k8s.io/v1.36.3/";
    assert!(said.out.contains(command), "{said:?}");
    let said = desk.run(&["lint", "-e", "dev"]).await;
    let unlisted = "artifacts.toml: kubelet is not listed; machines of compute need it";
    assert!(
        said.code == 2 && said.out.contains(unlisted) && said.out.contains(command),
        "{said:?}"
    );
    let said = desk.run(&["lint", "-e", "dev", "secure"]).await;
    assert_eq!(said.code, 0, "{said:?}");

    let file = desk.path("kubelet");
    std::fs::write(&file, "a kubelet").unwrap();
    let file = file.display().to_string();
    let add = ["artifacts", "add", "-e", "dev", "kubelet", &*file];
    // No store answers here.
    let old = desk.amend("platform                 = \"kube\"", "platform = \"kube\"");
    desk.amend(&desk.moto.endpoint(), "http://127.0.0.1:1");
    let added = desk
        .run(&[&add[..], &["--version", "v1.36.3"]].concat())
        .await;
    assert_eq!(added.code, 0, "{added:?}");
    desk.restore(&old);
    let said = desk.run(&DOCTOR).await;
    assert_eq!((said.code, amiss(&said)), (0, vec![NO_BACKUP.to_owned()]));
    assert_eq!(desk.run(&["lint", "-e", "dev"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_aws_refuses_is_said_with_the_action_and_what_to_do() {
    let Some(desk) = Desk::new().await else {
        return;
    };
    // No credentials at all.
    let mut command = desk.platformctl(&DOCTOR);
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY");
    let said = run(command).await;
    let lines = amiss(&said);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(
        lines[0].contains("there are no usable AWS credentials"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("warn account: the region, the key"),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 2, "{lines:?}");
    let mut command = desk.platformctl(&["instances", "-e", "dev"]);
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY");
    let said = run(command).await;
    assert!(
        said.code == 1 && said.err.contains("no usable AWS credentials; log in"),
        "{said:?}"
    );

    let moto = desk.moto.endpoint();
    for (part, status, code, says) in [
        (
            "",
            403,
            "ExpiredToken",
            "fail credentials: sts:GetCallerIdentity on region us-east-1 failed: the AWS credentials have expired",
        ),
        (
            "",
            403,
            "InvalidClientTokenId",
            "fail credentials: sts:GetCallerIdentity on region us-east-1 failed: AWS does not accept",
        ),
        (
            "TrentService.DescribeKey",
            400,
            "AccessDeniedException",
            "fail kms key: kms:DescribeKey on ",
        ),
        (
            "TrentService.Encrypt",
            400,
            "AccessDeniedException",
            "fail kms permission: kms:Encrypt on ",
        ),
        (
            "TrentService.GetKeyPolicy",
            400,
            "AccessDeniedException",
            "warn kms policy: kms:GetKeyPolicy on ",
        ),
        (
            "Action=DescribeRegions",
            401,
            "AuthFailure",
            "fail region: us-east-1 does not answer this account",
        ),
        (
            "Action=DescribeImages",
            403,
            "UnauthorizedOperation",
            "fail image: ec2:DescribeImages on ",
        ),
        (
            "hostedzonesbyname",
            403,
            "AccessDenied",
            "fail dns zone: route53:ListHostedZonesByName on ",
        ),
        // In moto it is not in the list of ours either: somebody else's.
        (
            "HEAD /example-dev-terraform",
            403,
            "",
            "fail terraform bucket: example-dev-terraform belongs to somebody else",
        ),
        (
            "HEAD /example-dev-secrets",
            403,
            "",
            "fail secrets bucket: s3:ListBucket on example-dev-secrets failed: access denied",
        ),
    ] {
        let refusing = desk.refusing(part, status, code);
        let old = desk.amend(&moto, &refusing.endpoint);
        let said = desk.run(&DOCTOR).await;
        let lines = amiss(&said);
        assert!(
            lines.iter().any(|l| l.starts_with(says)),
            "{part} {code}: {lines:?}"
        );
        let failed = says.starts_with("fail");
        assert_eq!(said.code, if failed { 3 } else { 0 }, "{said:?}");
        assert!(!said.out.contains(ACCESS_KEY), "{said:?}");
        desk.restore(&old);
    }
    // A bucket that another account owns, which moto knows by the owner that is asked for.
    let lines = amiss(&desk.run(&DOCTOR).await);
    assert_eq!(lines, [NO_BACKUP]);
}
