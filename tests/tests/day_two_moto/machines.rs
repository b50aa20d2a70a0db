//! The machines: `instances`, `ssh`, `console`, `scale`, `replace` and what `status` says of those that never reported.

use std::fs;

use bytes::Bytes;
use ctl::context::{Context, Workspace};
use ctl::keyring;
use ctl::publish::read_published;
use jiff::Timestamp;
use platform_tests::workspace::group;
use serde_json::{Value, json};
use shared::backup::BackupName;
use shared::documents::{NodeStatus, seal_node_object};
use shared::store::{PutCondition, keys};

use crate::desk::Desk;

fn members(account: &Value, group: &str) -> Vec<String> {
    let members = account["groups"][group]["members"].as_array().unwrap();
    members
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect()
}

/// Writes the status of a machine's node as its agent would.
async fn report(context: &Context, group_name: &str, instance: &str, release: Option<u64>) {
    report_with(context, group_name, instance, release, Value::Null).await;
}

async fn report_with(
    context: &Context,
    group_name: &str,
    instance: &str,
    release: Option<u64>,
    etcd: Value,
) {
    let group = group(group_name);
    let node = format!("AROAEXAMPLE:{instance}");
    let status: NodeStatus = serde_json::from_value(json!({
        "format": 1, "environment": "dev", "group": group_name, "node": node, "agent_version": "0",
        "release": release, "published": release, "phase": "idle", "error": null, "hold": null,
        "drift_repaired": 0, "foreign": [], "clock_skew_seconds": null, "metadata_expires": null,
        "written_at": Timestamp::now(), "etcd": etcd,
    }))
    .unwrap();
    let key = keys::node_status(&group, &node.parse().unwrap());
    put_sealed(context, &key, &status).await;
}

/// Writes an object of a secure node's.
async fn put_sealed<T: serde::Serialize>(context: &Context, key: &str, content: &T) {
    let keyring = keyring::read(context).await.unwrap().unwrap();
    let name = keys::bound_name(&context.workspace.name, key);
    let group = group(
        key.split('/')
            .nth(1)
            .filter(|g| *g == "compute")
            .unwrap_or("secure"),
    );
    let key_of_group = &keyring.group(&group).unwrap().group_key;
    let bytes = seal_node_object(content, &name, Some(key_of_group)).unwrap();
    put(context, key, bytes).await;
}

async fn put(context: &Context, key: &str, bytes: Vec<u8>) {
    context
        .store
        .put(key, Bytes::from(bytes), PutCondition::Always)
        .await
        .unwrap();
}

/// What a member of etcd says that reaches these.
fn member(instance: &str, reaches: &[&String]) -> Value {
    let facts = json!({
        "node": format!("AROAEXAMPLE:{instance}"), "name": instance,
        "peer_url": format!("https://{instance}:2380"), "client_url": format!("https://{instance}:2379"),
    });
    json!({
        "generation": 1, "role": "member", "facts": facts, "had_data": true, "leader": instance, "reaches": reaches,
    })
}

/// A backup of etcd that was begun so long ago, as far as a listing and its manifest tell.
async fn back_up(context: &Context, minutes: i64) {
    let at = Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
    let name: BackupName = format!("{}-7", at.strftime("%Y%m%dT%H%M%SZ"))
        .parse()
        .unwrap();
    let digest = "00".repeat(32);
    let manifest = json!({
        "format": 1, "environment": "dev", "group": "secure", "generation": 1, "name": name, "finished_at": at,
        "node": "i-1", "member_id": "a", "cluster_id": "b", "etcd_version": "3.6.8", "plain_bytes": 9000,
        "plain_sha256": digest, "sealed_bytes": 9500, "parts": [digest], "recipients": [],
    });
    put(context, &keys::snapshot_part(1, &name, 0), vec![0; 9500]).await;
    put_sealed(context, &keys::backup_manifest(1, &name), &manifest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_are_shown_reached_scaled_and_replaced() {
    let Some(desk) = Desk::new().await else {
        return;
    };
    let said = desk.run(&["instances", "-e", "dev"]).await;
    assert!(
        said.code == 0 && said.err.contains("dev has no machines"),
        "{said:?}"
    );
    let said = desk.run(&["scale", "-e", "dev", "compute", "2"]).await;
    assert!(
        said.code == 2 && said.err.contains("no auto-scaling group dev-compute"),
        "{said:?}"
    );

    let account = desk.account(&["machines"]);
    let (compute, secure) = (
        members(&account, "dev-compute"),
        members(&account, "dev-secure"),
    );
    let said = desk.run(&["publish", "-e", "dev"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let workspace = Workspace::open(desk.directory.path(), "dev").unwrap();
    let context = desk.moto.context(workspace).await.unwrap();
    let keyring = keyring::read(&context).await.unwrap().unwrap();
    let published = read_published(&context, &keyring, &group("secure"))
        .await
        .unwrap();
    let release = published.current().unwrap().release().get();
    report(&context, "secure", &secure[0], Some(release)).await;

    // --- instances
    let said = desk.run(&["instances", "-e", "dev"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 5, "{said:?}");
    assert!(
        lines[..2].iter().all(|l| l.starts_with("|  dev-compute|  ")
            && l.ends_with("|  -  |  -     |  launch template out of date")),
        "{said:?}"
    );
    assert!(
        lines[2..]
            .iter()
            .all(|l| l.starts_with("|  dev-secure |  ") && l.ends_with('|')),
        "{said:?}"
    );
    let reported = lines.iter().find(|l| l.contains(&secure[0])).unwrap();
    assert!(
        reported.ends_with(&format!("|  {release}  |  idle  |")),
        "{reported}"
    );
    let said = desk
        .run(&["instances", "-e", "dev", "--output", "json"])
        .await;
    let all: Value = serde_json::from_str(&said.out).unwrap();
    let one = all
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["id"] == *secure[0])
        .unwrap();
    assert_eq!(
        (
            &one["release"],
            &one["lifecycle"],
            &one["launch_template_out_of_date"]
        ),
        (&json!(release), &json!("InService"), &json!(false))
    );

    // --- status: four machines never reported, and none of them is old
    let said = desk.run(&["status", "-e", "dev"]).await;
    for id in compute.iter().chain(&secure[1..]) {
        assert!(said.out.contains(&format!("{id} ")), "{id}: {said:?}");
    }
    assert!(said.out.contains("never reported"), "{said:?}");

    // --- ssh
    let said = desk.run(&["ssh", "-e", "dev", "dev-compute"]).await;
    assert!(
        said.code == 2 && compute.iter().all(|id| said.err.contains(id)),
        "{said:?}"
    );
    let said = desk.run(&["ssh", "-e", "dev", "nobody"]).await;
    assert!(
        said.code == 2 && said.err.contains("no machine is nobody"),
        "{said:?}"
    );
    let said = desk.run(&["ssh", "-e", "dev", &compute[0]]).await;
    assert!(
        said.code == 2 && said.err.contains("no ssh on the PATH"),
        "{said:?}"
    );
    desk.program(
        "ssh",
        &format!(
            "printf '%s\\n' \"$@\" >'{}'\nexit 7",
            desk.path("asked").display()
        ),
    );
    let said = desk
        .run(&[
            "ssh",
            "-e",
            "dev",
            &compute[0],
            "--",
            "systemctl",
            "status",
            "--failed",
        ])
        .await;
    assert_eq!(said.code, 7, "the exit code is ssh's: {said:?}");
    let asked = fs::read_to_string(desk.path("asked")).unwrap();
    let asked: Vec<&str> = asked.lines().collect();
    let key = desk.path("home/.ssh/dev");
    assert_eq!(asked[..2], ["-i", key.to_str().unwrap()], "{asked:?}");
    assert!(
        asked.contains(&&*format!("HostKeyAlias={}", compute[0])),
        "{asked:?}"
    );
    let command = asked.iter().position(|a| *a == "--").unwrap();
    assert!(asked[command - 1].starts_with("core@"), "{asked:?}");
    assert_eq!(asked[command + 1..], ["systemctl", "status", "--failed"]);
    let private = fs::read_to_string(&key).unwrap();
    assert!(private.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));

    // --- console
    let said = desk.run(&["console", "-e", "dev", &secure[1]]).await;
    assert!(
        said.code == 0 && said.out.contains("Linux version"),
        "{said:?}"
    );

    // --- scale
    for (arguments, says) in [
        (["compute", "6"], "6 is not within 1 and 5"),
        (["secure", "4"], "each of its machines is a member of etcd"),
        (["compute", "5"], "was made for 1 to 4 machines"),
        (["others", "1"], "has no group others"),
        (["compute", "1"], "needs a confirmation"),
    ] {
        let said = desk
            .run(&["scale", "-e", "dev", arguments[0], arguments[1]])
            .await;
        assert!(
            said.code == 2 && said.err.contains(says),
            "{arguments:?}: {said:?}"
        );
    }
    assert_eq!(
        desk.account(&["look"])["groups"],
        account["groups"],
        "nothing was changed"
    );
    let said = desk.run(&["scale", "-e", "dev", "compute", "2"]).await;
    assert!(
        said.code == 0 && said.out.contains("nothing to do"),
        "{said:?}"
    );
    let said = desk.run(&["scale", "-e", "dev", "compute", "3"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(
        desk.account(&["look"])["groups"]["dev-compute"]["desired"],
        3
    );
    let said = desk
        .run(&["scale", "-e", "dev", "compute", "2", "--yes"])
        .await;
    assert_eq!(said.code, 0, "{said:?}");
    let account = desk.account(&["look"]);
    assert_eq!(account["groups"]["dev-compute"]["desired"], 2);

    // --- another account: nothing is asked of it
    let file = desk.amend("\"123456789012\"", "\"210987654321\"");
    for arguments in [
        &["scale", "-e", "dev", "compute", "3"][..],
        &[
            "replace",
            "-e",
            "dev",
            "--yes",
            &members(&account, "dev-compute")[0],
        ],
    ] {
        let said = desk.run(arguments).await;
        assert!(
            said.code == 2
                && said
                    .err
                    .contains("of account 123456789012, but aws_account"),
            "{said:?}"
        );
    }
    desk.restore(&file);

    // --- replace a worker
    let victim = members(&account, "dev-compute")[0].clone();
    let said = desk.run(&["replace", "-e", "dev", &victim]).await;
    assert!(
        said.code == 2 && said.err.contains("needs a confirmation"),
        "{said:?}"
    );
    assert_eq!(desk.account(&["look"])["states"][&victim], "running");
    let said = desk.run(&["replace", "-e", "dev", &victim, "--yes"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let after = desk.account(&["look"]);
    assert_eq!(
        (
            &after["states"][&victim],
            &after["groups"]["dev-compute"]["desired"]
        ),
        (&json!("terminated"), &json!(2))
    );
    assert!(!members(&after, "dev-compute").contains(&victim), "{after}");
    assert_eq!(members(&after, "dev-compute").len(), 2);

    // --- replace a member of etcd: only while the others are well
    let member_id = &secure[0];
    let replace = ["replace", "-e", "dev", member_id, "--confirm", "dev"];
    let said = desk.run(&replace).await;
    assert!(
        said.code == 1 && said.err.matches("has not reported").count() == 2,
        "{said:?}"
    );
    report(&context, "secure", &secure[1], Some(release)).await;
    report(&context, "secure", &secure[2], None).await;
    let said = desk.run(&replace).await;
    assert!(
        said.code == 1
            && said.err.contains(&format!("{} (", secure[2]))
            && said.err.contains("not on the published release"),
        "{said:?}"
    );
    // Its etcd has formed: the others reach each other, and what it holds has been put aside of late.
    let others = [&secure[1], &secure[2]];
    for other in others {
        report_with(
            &context,
            "secure",
            other,
            Some(release),
            member(other, &[other]),
        )
        .await;
    }
    let said = desk.run(&replace).await;
    assert!(
        said.code == 1
            && said.err.contains("has no backup that could be restored")
            && said.err.contains("`platformctl etcd backup -e dev`")
            && said.err.matches("its etcd does not reach that of").count() == 2,
        "{said:?}"
    );
    for other in others {
        report_with(
            &context,
            "secure",
            other,
            Some(release),
            member(other, &others),
        )
        .await;
    }
    back_up(&context, 90).await;
    let said = desk.run(&replace).await;
    assert!(
        said.code == 1
            && said.err.contains("is 90 minutes old, and 75 are the limit")
            && !said.err.contains("does not reach"),
        "{said:?}"
    );
    let unsaid = [&replace[..], &["--without-backup", " "]].concat();
    let said = desk.run(&unsaid).await;
    assert!(
        said.code == 2 && said.err.contains("give a reason"),
        "{said:?}"
    );
    assert_eq!(desk.account(&["look"])["states"][member_id], "running");
    back_up(&context, 10).await;
    for (confirmed, says) in [
        (&replace[..4], "needs a confirmation"),
        (
            &["replace", "-e", "dev", member_id, "--yes"],
            "needs a confirmation",
        ),
        (
            &["replace", "-e", "dev", member_id, "--confirm", "prod"],
            "is not the environment's name",
        ),
    ] {
        let said = desk.run(confirmed).await;
        assert!(said.code == 2 && said.err.contains(says), "{said:?}");
    }
    assert_eq!(desk.account(&["look"])["states"][member_id], "running");
    let said = desk.run(&replace).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(desk.account(&["look"])["states"][member_id], "terminated");
    // Its successor has not reported, so the next must wait.
    let said = desk
        .run(&["replace", "-e", "dev", &secure[1], "--confirm", "dev"])
        .await;
    assert!(
        said.code == 1 && said.err.contains("has not reported"),
        "{said:?}"
    );
}
