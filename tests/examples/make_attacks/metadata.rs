//! Attacks on the signed metadata: all that somebody without the signing keys can do, and more.

use platform_tests::attacks::Expect;
use shared::store::keys;

use crate::fixture::{BEFORE, Fixture, NEXT, Stage};
use crate::publisher::{Bucket, far, lives, past};

pub async fn attacks(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let mut all = replays(stage).await?;
    all.extend(signatures(stage).await?);
    all.extend(mixtures(stage).await?);
    all.extend(expired(stage).await?);
    all.extend(damaged_state(stage).await?);
    Ok(all)
}

async fn replays(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let old = stage.publisher.release(BEFORE - 1, &stage.changed).await?;
    let replay = stage.publisher.publish(BEFORE - 1, &[&old]).await?;

    let rotated = stage.publisher.rotated().await?;
    let release = rotated.release(BEFORE, &stage.files).await?;
    let after_rotation = Fixture {
        before: Some(rotated.publish(BEFORE, &[&release]).await?),
        ..stage.refused(
            "older-release-after-rotation",
            "The node has root 2 with new keys; an older release signed with the old keys is replayed and root 2 withheld.",
            replay.clone(),
            (
                "verify",
                "signature",
                "the timestamp metadata is not signed by the trusted keys (those of root 2)",
            ),
        )
    };

    let listed_again = stage.publisher.publish(NEXT, &[&old]).await?;
    let other = stage.publisher.release(BEFORE, &stage.changed).await?;
    let equivocation = stage.publisher.publish(NEXT, &[&other]).await?;
    Ok(vec![
        stage.refused_later(
            "older-release",
            "The whole bucket is put back to an older release.",
            replay,
            ("verify", "rollback", "older than version 3 trusted already"),
        ),
        after_rotation,
        stage.refused_later(
            "older-number-signed",
            "New genuine metadata lists only a release that is older than the one in the node's ledger.",
            listed_again,
            ("verify", "rollback", "numbers only grow"),
        ),
        stage.refused_later(
            "same-number-other-content",
            "New genuine metadata lists the release that the node has with another bundle.",
            equivocation,
            ("verify", "equivocation", "one number must not name two bundles"),
        ),
    ])
}

async fn signatures(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let publisher = &stage.publisher;
    let next = stage.next().await?;
    let impostor = publisher.impostor().await?;
    let sign_with = async |keys| {
        let thief = publisher.with_keys(keys).await?;
        let documents = thief.sign(NEXT, &[&next], lives(far()?)).await?;
        let mut bucket = Bucket::default();
        bucket.put_repository(publisher, &documents, &[&next]);
        anyhow::Ok(bucket)
    };
    let nothing_stolen = sign_with(impostor.keys.clone()).await?;
    let mut keys = impostor.keys.clone();
    keys.timestamp = publisher.keys.timestamp.clone();
    let timestamp_stolen = sign_with(keys.clone()).await?;
    keys.snapshot = publisher.keys.snapshot.clone();
    let online_keys_stolen = sign_with(keys).await?;

    let mut forged_root = impostor.publish(NEXT, &[&next]).await?;
    let root = forged_root.0.remove("groups/secure/metadata/1.root.json");
    let forged = String::from_utf8(root.unwrap_or_default())?.replacen(
        "\"version\": 1",
        "\"version\": 2",
        1,
    );
    forged_root.put_metadata(publisher, "1.root.json", &publisher.roots[0]);
    forged_root.put_metadata(publisher, "2.root.json", forged.as_bytes());
    Ok(vec![
        stage.refused_later(
            "wrong-key",
            "Everything is signed with keys that the root does not name.",
            nothing_stolen,
            (
                "verify",
                "signature",
                "the timestamp metadata is not signed by the trusted keys (those of root 1)",
            ),
        ),
        stage.refused_later(
            "wrong-snapshot-key",
            "The timestamp key was stolen; snapshot and targets are signed with other keys.",
            timestamp_stolen,
            (
                "verify",
                "signature",
                "the snapshot metadata is not signed by the trusted keys",
            ),
        ),
        stage.refused_later(
            "wrong-targets-key",
            "The timestamp and snapshot keys were stolen; targets are signed with another key.",
            online_keys_stolen,
            (
                "verify",
                "signature",
                "the targets metadata is not signed by the trusted keys",
            ),
        ),
        stage.refused_later(
            "forged-root",
            "A new root names the attacker's keys and is signed with them only.",
            forged_root,
            (
                "verify",
                "signature",
                "the root metadata is not signed by the trusted keys",
            ),
        ),
    ])
}

async fn mixtures(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let publisher = &stage.publisher;
    let next = stage.next().await?;
    // With the release before as the good one, the genuine targets are longer than the ones put in their place: so it
    // is their digest that tells, not their length.
    let bucket = publisher.publish(NEXT, &[&next, &stage.release]).await?;
    let prefix = keys::metadata_prefix(&publisher.group);
    let old = |role: &str| stage.before.0.get(&format!("{prefix}{BEFORE}.{role}.json"));
    let swapped = |role: &str| {
        let mut bucket = bucket.clone();
        let bytes = old(role).cloned().unwrap_or_default();
        bucket.put_metadata(publisher, &format!("{NEXT}.{role}.json"), &bytes);
        bucket
    };
    Ok(vec![
        stage.refused_later(
            "mixed-targets",
            "The snapshot of one release stands beside the genuine targets of another.",
            swapped("targets"),
            ("verify", "mismatch", "cannot read 4.targets.json"),
        ),
        stage.refused_later(
            "mixed-snapshot",
            "The timestamp of one release stands beside the genuine snapshot of another.",
            swapped("snapshot"),
            ("verify", "mismatch", "cannot read 4.snapshot.json"),
        ),
    ])
}

async fn expired(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let next = stage.next().await?;
    let sign = async |lives| {
        let documents = stage.publisher.sign(NEXT, &[&next], lives).await?;
        let mut bucket = Bucket::default();
        bucket.put_repository(&stage.publisher, &documents, &[&next]);
        anyhow::Ok(bucket)
    };
    let mut timestamp = lives(far()?);
    timestamp.timestamp = past()?;
    let mut targets = lives(far()?);
    targets.targets = past()?;
    Ok(vec![
        stage.refused_later(
            "expired-timestamp",
            "The metadata is genuine, but nobody has signed a timestamp for years: the newer one is withheld.",
            sign(timestamp).await?,
            ("verify", "expired", "the timestamp metadata has expired"),
        ),
        stage.refused_later(
            "expired-targets",
            "The targets metadata has expired under a fresh timestamp.",
            sign(targets).await?,
            ("verify", "expired", "the targets metadata has expired"),
        ),
    ])
}

async fn damaged_state(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let bucket = stage.publish_next(&stage.next().await?).await?;
    let cut = |name, does, file, expected| Fixture {
        cut: vec![file],
        ..stage.refused_later(name, does, bucket.clone(), expected)
    };
    Ok(vec![
        Fixture {
            // It can't tell which files are its own, so it does not come up at all.
            expect: Expect::Refused {
                text: "ledger.json is cut off or changed".to_owned(),
                status: None,
            },
            ..cut(
                "cut-ledger",
                "The node's ledger is cut off in the middle, so that it forgets what it owns.",
                "state/ledger.json",
                ("", "", ""),
            )
        },
        cut(
            "cut-trust-timestamp",
            "The timestamp in the node's trust store is cut off in the middle, so that it forgets the version.",
            "state/trust/timestamp.json",
            ("verify", "local_state", "timestamp.json is damaged"),
        ),
        cut(
            "cut-trust-root",
            "The newest root in the node's trust store is cut off in the middle.",
            "state/trust/root.json",
            ("verify", "local_state", "root.json is damaged"),
        ),
        cut(
            "cut-trust-snapshot",
            "The snapshot in the node's trust store is cut off in the middle, so that it forgets what was listed.",
            "state/trust/snapshot.json",
            ("verify", "local_state", "snapshot.json is damaged"),
        ),
        cut(
            "cut-trust-targets",
            "The targets in the node's trust store are cut off in the middle, so that it forgets their version.",
            "state/trust/targets.json",
            ("verify", "local_state", "targets.json is damaged"),
        ),
        Fixture {
            cut: Vec::new(),
            remove: vec!["state/trust/root.json"],
            // It does not begin again from the root that every signer of old can speak for.
            expect: Expect::Refused {
                text: "root.json is missing although timestamp.json is there".to_owned(),
                status: None,
            },
            ..cut(
                "lost-trust-root",
                "The newest root in the node's trust store is taken away, so that it begins again from the first.",
                "",
                ("", "", ""),
            )
        },
    ])
}
