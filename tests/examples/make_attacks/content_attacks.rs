//! Attacks in the files themselves: well-formed bundles of what kubelet or a pod must never see.

use shared::check::secret_dir::secret_dir_path;
use shared::digest::Sha256Digest;

use crate::content::{Files, Leaf, OTHER_POD, POD, mount, pod};
use crate::fixture::{Fixture, NEXT, Stage};

pub async fn attacks(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let manifest = |text: &str| {
        stage
            .files
            .with("manifests/kube-scheduler.yaml", text.as_bytes())
    };
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: a\n";
    let twin = stage
        .files
        .with("manifests/twin.yaml", pod(POD, "").as_bytes());
    let reference = "  volumes:\n    - name: token\n      secret:\n        secretName: admin\n";
    let strange = secret_dir_path("kube-apiserver", &Sha256Digest::of(b"x").to_string());
    let two = format!("{}---\n{}", pod("a", ""), pod("b", ""));

    let other_key = Leaf {
        key: Leaf::valid()?.key,
        ..Leaf::valid()?
    };
    let mismatched = Files::with_leaf(&stage.publisher, &other_key)?;
    let expired = Files::with_leaf(&stage.publisher, &Leaf::until(2001)?)?;
    let not_a_key = stage.files.with("agent/group.key", b"not a key\n");
    let mut no_manifest = Files::default();
    for (path, bytes) in stage
        .files
        .iter()
        .filter(|(p, _)| !p.starts_with("manifests/"))
    {
        no_manifest.put(path, bytes);
    }

    let cases: [(&'static str, &'static str, Files, &'static str); 12] = [
        (
            "no-pod",
            "A manifest is a Deployment.",
            manifest(deployment),
            "kubelet takes a v1 Pod from a file, not \"apps/v1\" \"Deployment\"",
        ),
        (
            "not-yaml",
            "A manifest is cut off in the middle of its YAML.",
            manifest("apiVersion: v1\nkind: [Pod"),
            "manifests/kube-scheduler.yaml",
        ),
        (
            "two-documents",
            "A manifest holds two Pods, of which kubelet would take the first.",
            manifest(&two),
            "the file holds more than one document",
        ),
        (
            "two-pods-of-one-name",
            "Two manifests hold Pods of one name.",
            twin,
            "pod kube-system/etcd is in several files: etcd.yaml, twin.yaml",
        ),
        (
            "api-reference",
            "A manifest mounts a Secret of the API server.",
            manifest(&pod(OTHER_POD, reference)),
            "static pods may not refer to a Secret",
        ),
        (
            "secrets-of-nobody",
            "A manifest mounts a secret directory that is not in the release.",
            manifest(&pod(OTHER_POD, &mount(&strange))),
            "is not a secret directory of this release",
        ),
        (
            "secrets-of-all",
            "A manifest mounts the secrets of all pods.",
            manifest(&pod(OTHER_POD, &mount("/etc/kubernetes/secrets"))),
            "\"/etc/kubernetes/secrets\" is not a secret directory of this release",
        ),
        (
            "certificate-of-another-key",
            "A certificate does not belong to the key beside it.",
            mismatched,
            "the certificate does not belong to the key in server.key",
        ),
        (
            "expired-certificate",
            "A certificate has expired.",
            expired,
            "the certificate expired at 2001-01-01T00:00:00Z",
        ),
        (
            "no-group-key",
            "What should be the group's key is none.",
            not_a_key,
            "it is not a group key",
        ),
        (
            "unknown-agent-file",
            "A release brings a file for the agent that the agent does not know.",
            stage.files.with("agent/agent.toml", b"x"),
            "this agent does not know that file",
        ),
        (
            "no-manifest",
            "A release without a manifest would end every pod of the node.",
            no_manifest,
            "it has no manifest, and would end every pod of this node",
        ),
    ];
    let mut all = Vec::new();
    for (name, does, files, text) in cases {
        let sealed = stage.publisher.release(NEXT, &files).await?;
        let bucket = stage.publish_next(&sealed).await?;
        all.push(stage.refused_later(name, does, bucket, ("check", "content", text)));
    }
    Ok(all)
}
