//! An operator steers real nodes.

use platform_tests::scene::{SECURE, Scene};

use super::run;

/// A probe that always succeeds, and no time to lose.
const POLICY: &str = "max_unavailable: 1\ndeadline: 60s\nsettle: 1s\nprobes:\n  - name: root\n    period: 200ms\n    \
                      timeout: 1s\n    success_threshold: 1\n    file: {path: /etc/passwd}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_real_nodes_and_a_resume_lets_them_go_on() {
    let scene = Scene::set_with(async |operator| {
        Ok(std::fs::write(
            operator.path("manifests/secure/rollout.yaml"),
            POLICY,
        )?)
    })
    .await
    .unwrap();
    let operator = &scene.operator;
    let mut nodes = Vec::new();
    for name in ["secure-1", "secure-2"] {
        let mut node = scene.node(SECURE, name).unwrap();
        node.start().unwrap();
        nodes.push(node);
    }
    let wait = [
        "publish",
        "-e",
        "local",
        SECURE,
        "--wait",
        "--timeout",
        "40s",
    ];
    for node in &nodes {
        scene
            .until_status(node, "release 1 is there", |s| {
                s.release.map(|r| r.get()) == Some(1)
            })
            .await
            .unwrap();
    }
    let said = run(
        operator,
        &["pause", "-e", "local", SECURE, "--reason", "lunch"],
    )
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    operator
        .amend(
            "secure/kube-controller-manager.yaml.j2",
            "--terminated-pod-gc-threshold=1000",
            "--terminated-pod-gc-threshold=20000",
        )
        .unwrap();
    let said = run(operator, &wait).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.out.contains("lunch"), "{said:?}");
    for node in &nodes {
        let status = scene
            .until_status(node, "it is paused", |s| {
                s.rollout
                    .waiting
                    .as_ref()
                    .is_some_and(|w| w.kind == "paused")
            })
            .await
            .unwrap();
        assert_eq!(status.release.map(|r| r.get()), Some(1));
        assert_eq!(
            node.metric("platform_agent_rollout_waiting{reason=\"paused\"}")
                .await
                .unwrap(),
            1.0
        );
    }
    let said = run(operator, &["resume", "-e", "local", SECURE]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let said = run(operator, &wait).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("all 2 nodes have release 2"), "{said:?}");
    let said = run(operator, &["explain", "-e", "local", "secure-2"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.out.contains("DECIDED"),
        "it has told its decisions: {said:?}"
    );
    // Back again, while nobody has said that release 2 is bad.
    let said = run(
        operator,
        &["rollback", "-e", "local", SECURE, "--to", "1", "--yes"],
    )
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    let said = run(operator, &wait[..5]).await;
    // The working directory has the files of release 2, so this publish is a further one.
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("all 2 nodes have release 4"), "{said:?}");
    for node in &mut nodes {
        node.kill().await.unwrap();
    }
}
