//! `doctor` on what the secrets bucket holds, and on profiles: each line as it passes, and as it does not.

use std::fs;

use platform_tests::moto::ACCESS_KEY;
use shared::names::GroupName;
use shared::store::keys;

use crate::desk::{Desk, Said, run};
use crate::doctor::{DOCTOR, NO_BACKUP, amiss, verdicts};

/// moto takes any.
const SECRET_KEY: &str = "ofTheProfile/Work";

fn verdict_of(said: &Said, check: &str) -> Vec<String> {
    let all = verdicts(said).into_iter();
    all.filter(|(c, _)| c == check).map(|(_, v)| v).collect()
}

/// With `content` in the place of an object, and the object back afterwards.
async fn with_object(desk: &Desk, key: &str, content: &[u8]) -> Said {
    let (kept, other) = (desk.path("kept"), desk.path("other"));
    let (kept, other) = (kept.to_str().unwrap(), other.to_str().unwrap());
    fs::write(other, content).unwrap();
    desk.account(&["take", key, kept]);
    desk.account(&["put", key, other]);
    let said = desk.run(&DOCTOR).await;
    desk.account(&["put", key, kept]);
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_secrets_bucket_holds_is_looked_at() {
    let Some(desk) = Desk::new().await else {
        return;
    };
    let said = desk.run(&DOCTOR).await;
    assert!(
        verdict_of(&said, "expiries").is_empty(),
        "nothing is signed yet: {said:?}"
    );
    desk.account(&["mark"]);
    assert_eq!(desk.run(&["publish", "-e", "dev"]).await.code, 0);
    let said = desk.run(&DOCTOR).await;
    assert_eq!((said.code, amiss(&said)), (0, vec![NO_BACKUP.to_owned()]));
    for check in ["keyring", "expiries", "clock", "secrets bucket"] {
        assert_eq!(verdict_of(&said, check), ["ok"], "{check}: {said:?}");
    }

    let said = with_object(&desk, keys::KEYRING, b"{}").await;
    assert_eq!(said.code, 3, "{said:?}");
    let lines = amiss(&said);
    let keyring = lines.iter().find(|l| l.starts_with("fail keyring: "));
    assert!(
        keyring.is_some_and(|l| l.contains("cannot open the keyring")),
        "{lines:?}"
    );

    let secure: GroupName = "secure".parse().unwrap();
    let timestamp = keys::timestamp(&secure);
    let said = with_object(&desk, &timestamp, b"{}").await;
    assert_eq!(said.code, 3, "{said:?}");
    let lines = amiss(&said);
    let unread = "fail expiries: the published metadata cannot be read: ";
    assert!(lines.iter().any(|l| l.starts_with(unread)), "{lines:?}");

    // A backup that nobody with the group's key wrote.
    let forged = desk.path("forged");
    fs::write(&forged, "{}").unwrap();
    let key = "etcd/1/backups/20261123T024942Z-7.json";
    desk.account(&["put", key, forged.to_str().unwrap()]);
    let said = desk.run(&DOCTOR).await;
    assert_eq!(
        (said.code, amiss(&said)),
        (
            0,
            vec![
                "warn backup: no backup of etcd that could be restored; 1 cannot be restored"
                    .to_owned()
            ]
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_used_and_one_that_is_not_there_is_said() {
    let Some(desk) = Desk::new().await else {
        return;
    };
    desk.amend(
        "aws_region               =",
        "aws_profile              = \"work\"\naws_region               =",
    );
    let without_keys = || {
        let mut command = desk.platformctl(&DOCTOR);
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY");
        command
    };
    let said = run(without_keys()).await;
    assert_eq!(said.code, 3, "{said:?}");
    let lines = amiss(&said);
    assert!(
        lines[0].starts_with("fail credentials: ") && said.out.contains("profile work"),
        "{lines:?}"
    );
    let profile =
        format!("[work]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    fs::write(desk.path("no-credentials"), profile).unwrap();
    let said = run(without_keys()).await;
    assert_eq!((said.code, amiss(&said)), (0, vec![NO_BACKUP.to_owned()]));
    assert!(said.out.contains("profile work: arn:aws:"), "{said:?}");
    assert!(!said.out.contains(SECRET_KEY), "{said:?}");
}
