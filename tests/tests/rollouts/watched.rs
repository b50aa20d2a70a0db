//! What kubelet sees while an agent repairs, and while it goes back: one release's files or the other's, nothing else.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use platform_tests::kubelet::{Allowed, Kubelet, KubeletConfig, Release, judge};
use platform_tests::node::{Node, eventually};

use crate::Result;
use crate::stage::{Bad, Stage, TEST_PATIENCE, number};

/// Between two lists of the model; it lists after each event anyway.
const TICK: Duration = Duration::from_millis(10);

fn watch(node: &Node) -> anyhow::Result<Kubelet> {
    Kubelet::start(KubeletConfig {
        manifests: node.manifests(),
        root: node.root(),
        tick: TICK,
    })
}

fn now(node: &Node) -> anyhow::Result<Release> {
    Release::read(&node.manifests(), &node.root())
}

/// What is on the node, but with `to` in the place of `from` in web's manifest.
fn changed(node: &Node, from: &str, to: &str) -> anyhow::Result<(String, Release)> {
    let copy = tempfile::tempdir()?;
    let mut web = String::new();
    for (name, bytes) in node.manifest_files()? {
        let text = String::from_utf8(bytes)?;
        let text = match name.as_str() {
            "web.yaml" => {
                web = text.replacen(from, to, 1);
                ensure!(web != text, "{from} is not in {text}");
                web.clone()
            }
            _ => text,
        };
        fs::write(copy.path().join(name), text)?;
    }
    Ok((web, Release::read(copy.path(), &node.root())?))
}

/// Nothing but what these releases have, and what the second of them alone has was seen.
fn saw_both(kubelet: Kubelet, first: &Release, second: &Release, node: &Node) -> Result {
    let history = kubelet.stop();
    let violations = judge(&history, &Allowed::releases([first, second]));
    let told: Vec<String> = violations.iter().map(ToString::to_string).collect();
    ensure!(
        told.is_empty(),
        "kubelet saw what it must not:\n{}\nlog:\n{}",
        told.join("\n"),
        node.log().unwrap_or_default()
    );
    ensure!(
        !judge(&history, &Allowed::releases([first])).is_empty(),
        "kubelet never saw the other manifest, so this shows nothing"
    );
    Ok(())
}

fn web(node: &Node) -> PathBuf {
    node.manifests().join("web.yaml")
}

/// As an editor writes: beside it, then over it.
fn edit(node: &Node, text: &str) -> Result {
    let beside = node.manifests().join(".edited");
    fs::write(&beside, text)?;
    Ok(fs::rename(&beside, web(node))?)
}

async fn comes_back(node: &Node) -> Result {
    eventually("the manifest is back", TEST_PATIENCE, async || {
        ensure!(fs::read_to_string(web(node))?.contains("web:v1"));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_sees_an_edited_manifest_or_the_genuine_one_while_it_is_repaired() -> Result {
    let mut stage = Stage::set(1, Bad::Never).await?;
    let node = stage.node("node-0")?;
    let genuine = now(node)?;
    let (text, edited) = changed(node, "web:v1", "web:edited")?;
    let kubelet = watch(node)?;
    edit(node, &text)?;
    comes_back(node).await?;
    // Once more, with the agent killed in the middle of the repair.
    let node = stage.node_mut("node-0")?;
    node.terminate().await?;
    edit(node, &text)?;
    node.start_with(&[(agent::failpoints::VARIABLE, "apply::manifest.before")])?;
    node.killed_itself(TEST_PATIENCE).await?;
    ensure!(fs::read_to_string(web(node))? == text);
    node.start()?;
    comes_back(node).await?;
    saw_both(kubelet, &genuine, &edited, node)?;
    ensure!(now(node)? == genuine);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_sees_one_release_or_the_other_while_a_node_goes_back() -> Result {
    let mut stage = Stage::set(1, Bad::With("v2")).await?;
    let node = stage.node_mut("node-0")?;
    let before = now(node)?;
    let (_, bad) = changed(node, "web:v1", "web:v2")?;
    let kubelet = watch(node)?;
    // Killed between the bad manifest and the one before, too.
    node.terminate().await?;
    node.start_with(&[(agent::failpoints::VARIABLE, "apply::manifest.before:2")])?;
    let release = stage.publish("v2").await?;
    let node = stage.node_mut("node-0")?;
    node.killed_itself(TEST_PATIENCE).await?;
    node.start()?;
    stage
        .until("it is halted", |d| {
            d.is_halted(number(release)) && d.holders.is_empty()
        })
        .await?;
    let node = stage.node("node-0")?;
    saw_both(kubelet, &before, &bad, node)?;
    ensure!(now(node)? == before);
    Ok(())
}
