//! A kubelet is never newer than the API servers.

use std::fs;

use platform_tests::scene::{COMPUTE, SECURE, Scene};

use super::{Result, add};

const API: &str = "secure/kube-apiserver.yaml.j2";

async fn publish(scene: &Scene, more: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = scene.operator.platformctl();
    command.args(["publish", "-e", "local"]).args(more);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kubelet_waits_until_every_secure_node_has_its_release() -> Result {
    let image = "kube-apiserver:v{{ kubernetes_version }}";
    let scene =
        Scene::set_with(async |operator| operator.amend(API, image, "kube-apiserver:v1.36.2"))
            .await?;
    add(&scene, "kubelet", "1.36.2", "kubelet one").await?;
    let node_file =
        "artifacts:\n  - name: kubelet\n    path: /opt/bin/kubelet\n    mode: \"0755\"\n";
    fs::write(
        scene.operator.path("manifests/compute/node.yaml"),
        node_file,
    )?;
    // The first kubelet of a group waits for nobody.
    assert_eq!(scene.publish(COMPUTE).await?, 2);
    let mut secure = scene.node(SECURE, "secure-1")?;
    secure.start()?;
    scene
        .until_status(&secure, "it reports", |s| s.release.is_some())
        .await?;
    secure.terminate().await?;

    add(&scene, "kubelet", "1.36.3", "kubelet two").await?;
    scene.operator.amend(API, "kube-apiserver:v1.36.2", image)?;
    let (code, said) = publish(&scene, &[]).await?;
    assert_eq!(code, Some(1), "{said}");
    for says in [
        "secure: published release 2",
        "group compute was not published",
        "kubelet-1.36.3 in the place of kubelet-1.36.2",
        "secure-1: release 1, kube-apiserver 1.36.2",
    ] {
        assert!(said.contains(says), "{says}: {said}");
    }

    secure.start()?;
    let (code, said) = publish(&scene, &["--wait", "--timeout", "2m", COMPUTE]).await?;
    // Nobody of compute is there to wait for.
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("compute: published release 3"), "{said}");
    let held = scene.status(&secure)?.release.map(|r| r.get());
    assert_eq!(held, Some(2), "only after secure");

    // Secure does not go back behind what compute has by now.
    let mut command = scene.operator.platformctl();
    command.args(["rollback", "-e", "local", SECURE, "--to", "1", "--yes"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("compute: kubelet 1.36.3 of release 3"),
        "{said}"
    );
    assert_eq!(scene.status(&secure)?.release.map(|r| r.get()), Some(2));
    Ok(())
}
