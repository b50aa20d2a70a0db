//! What is wrong is said before anything is changed.

use serde_json::{Value, json};

use crate::desk::Desk;

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
        let good = std::fs::read_to_string(&path).unwrap();
        desk.change(key, value);
        desk.ctl(&run).with(2, &[says]);
        std::fs::write(&path, good).unwrap();
    }
    let mut without = desk.platformctl(&run);
    let nothing = desk.path("nothing");
    std::fs::create_dir(&nothing).unwrap();
    without.env("PATH", &nothing);
    let output = without.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("neither terraform nor tofu is on the PATH"),
        "{said}"
    );
    untouched(&desk, &before);
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
            &[
                "the bucket example-dev-terraform belongs to another account",
                "nothing was changed",
            ],
        );
    let after = desk.observe();
    assert_eq!(
        after["buckets"],
        json!({}),
        "the other bucket was not made either"
    );
    assert_eq!(after, before);
}
