//! Attacks in the files themselves: well-formed bundles of what kubelet or a pod must never see.

use serde_json::json;
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
    let deployment =
        r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}"#;
    let twin = stage
        .files
        .with("manifests/twin.yaml", pod(POD, &json!([])).as_bytes());
    let reference = json!([{"name": "token", "secret": {"secretName": "admin"}}]);
    let strange = secret_dir_path("kube-apiserver", &Sha256Digest::of(b"x").to_string());
    let none = json!([]);
    let two = format!("{}\n{}", pod("a", &none), pod("b", &none));
    let twice = pod(OTHER_POD, &none).replacen('{', r#"{"kind": "Job","#, 1);
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-scheduler}\nspec: {containers: [{name: a, image: a, args: [on]}]}\n";

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

    let cases: [(&'static str, &'static str, Files, &'static str); 14] = [
        (
            "no-pod",
            "A manifest is a Deployment.",
            manifest(deployment),
            "kubelet takes a v1 Pod from a file, not \"apps/v1\" \"Deployment\"",
        ),
        (
            "cut-off-manifest",
            "A manifest is cut off in the middle.",
            manifest(r#"{"apiVersion": "v1", "kind": ["Pod""#),
            "no canonical manifest: EOF while parsing a list",
        ),
        (
            "ambiguous-yaml",
            "A manifest is YAML that two readers may read differently.",
            manifest(yaml),
            "no canonical manifest: expected value",
        ),
        (
            "duplicate-key",
            "A manifest names its kind twice, and readers differ in which they take.",
            manifest(&twice),
            "the key \"kind\" comes twice",
        ),
        (
            "two-documents",
            "A manifest holds two Pods, of which kubelet would take the first.",
            manifest(&two),
            "no canonical manifest: trailing characters",
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
            manifest(&pod(OTHER_POD, &reference)),
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
