//! What the cluster trusts is replaced while it is in use: real platform-agents and the real platformctl.

mod authority;
mod clients;
mod leaves_and_tokens;
mod service_accounts;
mod signing;

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use platform_tests::node::Node;
use platform_tests::scene::Scene;
use platform_tests::workspace::{Operator, group};

type Result = anyhow::Result<()>;

async fn ctl(operator: &Operator, arguments: &[&str]) -> anyhow::Result<(i32, String)> {
    let mut command = operator.platformctl();
    command.args(arguments).args(["-e", "local"]);
    let output: Output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    Ok((output.status.code().context("an exit code")?, said))
}

async fn done(operator: &Operator, arguments: &[&str]) -> anyhow::Result<String> {
    let (code, said) = ctl(operator, arguments).await?;
    ensure!(code == 0, "{arguments:?} ended with {code}: {said}");
    Ok(said)
}

/// It is refused, without a change of the keyring; what it says.
async fn refused(operator: &Operator, arguments: &[&str]) -> anyhow::Result<String> {
    let before = operator.keyring().await?.mark;
    let (code, said) = ctl(operator, arguments).await?;
    ensure!(code == 2, "{arguments:?} ended with {code}: {said}");
    ensure!(operator.keyring().await?.mark == before, "{said}");
    Ok(said)
}

/// Starts platformctl and kills it as soon as `reached` is so; it may have ended by then.
async fn killed_when(
    operator: &Operator,
    arguments: &[&str],
    reached: impl Fn() -> bool,
) -> Result {
    let mut command = operator.platformctl();
    command.args(arguments).args(["-e", "local"]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    while !reached() && child.try_wait()?.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let _ = child.kill();
    tokio::task::spawn_blocking(move || child.wait()).await??;
    Ok(())
}

/// Publishes, and waits until each of the nodes reports the published release of its group.
async fn publish_and_adopt(scene: &Scene, nodes: &[&Node]) -> Result {
    done(&scene.operator, &["publish"]).await?;
    for node in nodes {
        adopted(scene, node).await?;
    }
    Ok(())
}

async fn adopted(scene: &Scene, node: &Node) -> Result {
    let published = scene.operator.published(&group(node.group())).await?;
    let wanted = published.current().context("a release")?.release();
    scene
        .until_status(node, &format!("it is on release {wanted}"), |s| {
            s.release == Some(wanted) && s.error.is_none()
        })
        .await?;
    Ok(())
}
