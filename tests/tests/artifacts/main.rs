//! Artifacts, unit restarts and the agent's update of itself, from `platformctl artifacts add` to the node's disk, with
//! the real binaries.

mod delivery;
mod order;
mod update;

use std::fs;

use anyhow::ensure;
use platform_tests::scene::Scene;

type Result = anyhow::Result<()>;

async fn artifacts(scene: &Scene, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = scene.operator.platformctl();
    command
        .arg("artifacts")
        .args(arguments)
        .args(["-e", "local"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((output.status.code(), said))
}

/// Adds a file of these bytes as an artifact.
async fn add(scene: &Scene, name: &str, version: &str, bytes: impl AsRef<[u8]>) -> Result {
    let path = scene.operator.path(&format!("{name}-{version}"));
    fs::write(&path, bytes)?;
    let path = path.display().to_string();
    let (code, said) = artifacts(scene, &["add", name, &path, "--version", version]).await?;
    ensure!(code == Some(0), "{said}");
    Ok(())
}
