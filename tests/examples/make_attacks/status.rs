//! Attacks on what `platformctl status` is told.

use jiff::Timestamp;
use platform_tests::attacks::{ENVIRONMENT, Expect, NODE};
use shared::documents::{
    GroupKey, KeyringContent, NodeStatus, Phase, STATUS_FORMAT, seal_keyring, seal_node_object,
};
use shared::store::keys;

use crate::content::release_number;
use crate::fixture::{BEFORE, Fixture, Stage};
use crate::publisher::{Bucket, Publisher, far};

pub async fn attacks(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let secure = &stage.publisher;
    let key = &secure.group_key;
    let at = |node: &str| format!("nodes/secure/{node}.json");
    let genuine = object(secure, NODE, &at(NODE), Some(key))?;

    let cases: [(&'static str, &'static str, &str, Vec<u8>, &str); 5] = [
        (
            "status-forged",
            "A status object is authenticated with a key that is not the group's.",
            "secure-7",
            object(
                secure,
                "secure-7",
                &at("secure-7"),
                Some(&GroupKey::generate()),
            )?,
            "nodes/secure/secure-7.json was not written by a node of its group, or was moved or changed",
        ),
        (
            "status-moved",
            "A node's genuine status object is copied to another node's name.",
            "secure-2",
            genuine.clone(),
            "nodes/secure/secure-2.json was not written by a node of its group, or was moved or changed",
        ),
        (
            "status-of-another-group",
            "A genuine status object of a compute node is put below the secure group.",
            "compute-1",
            object(
                &stage.compute,
                "compute-1",
                "nodes/compute/compute-1.json",
                Some(&stage.compute.group_key),
            )?,
            "nodes/secure/compute-1.json was not written by a node of its group, or was moved or changed",
        ),
        (
            "status-without-key",
            "A status object carries no authentication at all.",
            "secure-3",
            object(secure, "secure-3", &at("secure-3"), None)?,
            "nodes/secure/secure-3.json is not authenticated",
        ),
        (
            "status-for-another-node",
            "A node of the group writes, with the group's key, a status that speaks for another node.",
            "secure-4",
            object(secure, NODE, &at("secure-4"), Some(key))?,
            "speaks for secure/secure-1",
        ),
    ];
    let mut content = KeyringContent::new(ENVIRONMENT.parse()?);
    for publisher in [secure, &stage.compute] {
        let keys = publisher.group_keys()?;
        content.groups.insert(publisher.group.clone(), keys);
    }
    let mut all = Vec::new();
    for (name, does, node, bytes, text) in cases {
        let mut bucket = Bucket::default();
        let keyring = seal_keyring(&content, 1, secure.wrap.as_ref(), &[]).await?;
        bucket.put(keys::KEYRING, keyring);
        bucket.put(at(NODE), genuine.clone());
        bucket.put(at(node), bytes);
        let expect = Expect::Disbelieved {
            node: node.to_owned(),
            text: text.to_owned(),
        };
        all.push(stage.fixture(name, does, bucket, expect));
    }
    Ok(all)
}

/// A status object of `node` that is bound to `bound_to`.
fn object(
    publisher: &Publisher,
    node: &str,
    bound_to: &str,
    key: Option<&GroupKey>,
) -> anyhow::Result<Vec<u8>> {
    let status = NodeStatus {
        format: STATUS_FORMAT,
        environment: publisher.environment.clone(),
        group: publisher.group.clone(),
        node: node.parse()?,
        agent_version: "0.1.0".to_owned(),
        agent_sha256: None,
        update_rejected: None,
        release: Some(release_number(BEFORE)?),
        published: Some(release_number(BEFORE)?),
        phase: Phase::Idle,
        error: None,
        hold: None,
        drift_repaired: 0,
        foreign: Vec::new(),
        clock_skew_seconds: Some(0),
        etcd: None,
        metadata_expires: Some(far()?),
        rollout: shared::documents::RolloutReport::default(),
        backup: None,
        rewrite: None,
        written_at: Timestamp::UNIX_EPOCH,
    };
    let name = keys::bound_name(&publisher.environment, bound_to);
    Ok(seal_node_object(&status, &name, key)?)
}
