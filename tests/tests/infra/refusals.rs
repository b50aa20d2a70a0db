//! What is wrong is said before anything is changed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::desk::Desk;

const NOTHING: &str = "nothing was changed";

fn untouched(desk: &Desk, before: &Value) {
    assert_eq!(&desk.observe(), before, "nothing was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_is_named_before_anything_is_changed() {
    let Some(desk) = Desk::new().await else {
        return;
    };
    let before = desk.observe();
    let run = ["run", "--yes", "--public-address", "192.0.2.10"];

    desk.ctl(&["plan"]).with(
        2,
        &["there is no bucket", "`platformctl run -e dev` makes it"],
    );
    desk.change("aws_account", "210987654321");
    desk.ctl(&run)
        .with(2, &["of account 123456789012", "is 210987654321"]);
    desk.change("aws_account", "123456789012");
    for (key, value, says) in [
        ("secure_asg_min", "4", "etcd takes 1, 3, 5 or 7 members"),
        ("secure_asg_min", "0", "`secure_asg_min` is 0"),
        ("vpc_cidr", "10.102.0.0/16", "overlaps `vpc_cidr`"),
        (
            "availability_zones",
            "us-east-2a",
            "us-east-2a is not a zone of us-east-1",
        ),
        (
            "availability_zones",
            "us-east-1z",
            "`us-east-1z` is not an availability zone",
        ),
        ("vpc_cidr", "10.100.0.0/25", "terraform/ takes /16 to /24"),
        ("compute_volume_gb", "5", "`compute_volume_gb` is 5"),
    ] {
        let path = desk.path("environments/dev.tfvars");
        let good = fs::read_to_string(&path).unwrap();
        desk.change(key, value);
        desk.ctl(&run).with(2, &[says]);
        fs::write(&path, good).unwrap();
    }
    // Nobody can be asked: said before anything is made.
    desk.ctl(&run[..1])
        .with(2, &["nobody can be asked here", "say --yes"]);
    desk.ctl(&["run", "--yes", "--confirm", "prod"])
        .with(2, &["\"prod\" is not the name of this environment"]);

    let mut without = desk.platformctl(&run);
    let nothing = desk.path("nothing");
    fs::create_dir(&nothing).unwrap();
    without.env("PATH", &nothing);
    Desk::end_of(without).with(2, &["neither terraform nor tofu is on the PATH", NOTHING]);
    let old = desk.path("old-terraform");
    fs::write(
        &old,
        "#!/bin/sh\necho '{\"terraform_version\": \"1.9.8\"}'\n",
    )
    .unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    let mut outdated = desk.platformctl(&run);
    outdated.env("PLATFORM_ENGINE", &old);
    Desk::end_of(outdated).with(2, &["1.9.8", NOTHING]);

    let mut nobody = desk.platformctl(&run);
    nobody
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY");
    Desk::end_of(nobody).with(2, &["no usable AWS credentials", NOTHING]);
    let mut other = desk.platformctl(&run);
    other
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env("AWS_PROFILE", "nobody");
    Desk::end_of(other).with(2, &[NOTHING]);
    for (part, status, code, says) in [
        ("", 403, "ExpiredToken", "the AWS credentials have expired"),
        (
            "TrentService.Encrypt",
            400,
            "AccessDeniedException",
            "kms:Encrypt on",
        ),
        (
            "TrentService.DescribeKey",
            400,
            "AccessDeniedException",
            "kms:DescribeKey on",
        ),
    ] {
        desk.refuse(part, status, code);
        desk.ctl(&run).with(2, &[says, NOTHING]);
        desk.release();
    }
    untouched(&desk, &before);

    // Buckets that are somebody's already, each in the way of both.
    for (make, name, says) in [
        (
            r#"client("s3", "eu-west-1").create_bucket(Bucket="taken-1", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})"#,
            "taken-1",
            "taken-1 is in eu-west-1, not us-east-1",
        ),
        (
            r#"s3 = client("s3"); s3.create_bucket(Bucket="taken-2"); s3.put_bucket_tagging(Bucket="taken-2",
                Tagging={"TagSet": [{"Key": "ManagedBy", "Value": "platformctl"}, {"Key": "Env", "Value": "prod"}]})"#,
            "taken-2",
            "taken-2 belongs to environment prod",
        ),
        (
            r#"s3 = client("s3"); s3.create_bucket(Bucket="taken-3"); s3.put_object(Bucket="taken-3", Key="x", Body=b"x")"#,
            "taken-3",
            "taken-3 exists, is not empty, and does not say that it is platformctl's",
        ),
    ] {
        desk.account(make);
        let before = desk.observe();
        desk.change("secrets_bucket_name", name);
        desk.ctl(&run).with(2, &[says, NOTHING]);
        // The verbs that look at the buckets by themselves judge alike.
        desk.ctl(&["plan"]).with(2, &[says, NOTHING]);
        untouched(&desk, &before);
    }
}

/// The bucket's name is taken by another account: moto keeps accounts apart by the access key of a role in the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_somebody_else_stops_everything() {
    let Some(desk) = Desk::new().await else {
        return;
    };
    let before = desk.observe();
    desk.foreign_bucket("example-dev-terraform");
    desk.ctl(&["run", "--yes", "--public-address", "192.0.2.10"])
        .with(
            2,
            &["example-dev-terraform belongs to somebody else", NOTHING],
        );
    let after = desk.observe();
    assert_eq!(
        after["buckets"],
        json!({}),
        "the other bucket was not made either"
    );
    assert_eq!(after, before);
}
