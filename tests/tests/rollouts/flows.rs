//! What operators do while a rollout is under way.

use std::process::{Output, Stdio};

use platform_tests::faulty_proxy::{Fault, FaultyProxy};
use platform_tests::node::eventually;
use platform_tests::scene::COMPUTE;
use shared::documents::{NodeStatus, Transition};

use crate::Result;
use crate::stage::{Bad, Stage, TEST_PATIENCE, number};

const FAILED: &str = "platform_agent_polls_total{result=\"failed\"}";
const POLLED: &str = "platform_agent_polls_total{result=\"waiting\"}";

/// Runs platformctl; the store runs in this process, so the child is not waited for on its threads.
async fn run(stage: &Stage, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = stage.scene.operator.platformctl();
    command.args(arguments).args(["-e", "local"]);
    command.stdin(Stdio::null()).env("USER", "ada");
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// The same where it has to succeed; what it said.
async fn operate(stage: &Stage, arguments: &[&str]) -> anyhow::Result<String> {
    let output = run(stage, arguments).await?;
    anyhow::ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn waits_for(kind: &str) -> impl Fn(&NodeStatus) -> bool {
    move |status| {
        let waiting = status.rollout.waiting.as_ref();
        waiting.is_some_and(|w| w.kind == kind)
    }
}

/// The manifests that hold `text`.
fn nodes_with(stage: &Stage, text: &str) -> anyhow::Result<usize> {
    let manifests = stage.manifests()?;
    Ok(manifests.values().filter(|m| m.contains(text)).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_publishes_during_a_rollout_end_on_the_last_one_node_at_a_time() -> Result {
    let stage = Stage::set(3, Bad::Never).await?;
    stage.publish("v2").await?;
    stage
        .until("somebody has the slot", |d| !d.holders.is_empty())
        .await?;
    stage.publish("v3").await?;
    let release = stage.publish("v4").await?;
    let most = stage.watch_until_all(release).await?;
    assert!(most <= 1, "never more than one node in transition");
    assert_eq!(nodes_with(&stage, "v4")?, 3);
    let ended = stage
        .until("it is complete", |d| {
            d.good.map(|g| g.get()) == Some(release)
        })
        .await?;
    assert!(ended.failed.is_empty() && ended.halted.is_none());
    assert_eq!(ended.release, Some(number(release)));
    Ok(())
}

/// A single pass says that it waits, and does not pass for one that is done.
async fn once_says_that_it_waits(stage: &mut Stage, name: &str, release: u64) -> Result {
    let node = stage.node_mut(name)?;
    node.terminate().await?;
    let once = node.run_verb("once", &[]).await?;
    assert_eq!(once.status.code(), Some(3), "{once:?}");
    let said = String::from_utf8_lossy(&once.stdout);
    let waits = format!("release 1 stays; release {release} is published and waits: ");
    assert!(said.contains(&waits) && said.contains("a freeze"), "{said}");
    node.start()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_everybody_through_a_gone_store_and_a_resume_is_heard_at_the_next_poll()
-> Result {
    let mut stage = Stage::set(0, Bad::Never).await?;
    let proxy = FaultyProxy::start(stage.scene.bucket.store().addr()).await?;
    for n in 0..3 {
        stage
            .add_node_at(&format!("node-{n}"), &proxy.endpoint())
            .await?;
    }
    operate(&stage, &["pause", "--reason", "a freeze", COMPUTE]).await?;
    let release = stage.publish("v2").await?;
    for name in ["node-0", "node-1", "node-2"] {
        let node = stage.node(name)?;
        stage
            .scene
            .until_status(node, "it waits", waits_for("paused"))
            .await?;
    }
    once_says_that_it_waits(&mut stage, "node-2", release).await?;
    // A machine that starts now has nothing to wait for: it begins with what is known to be good.
    stage.add_node("node-9").await?;
    stage
        .scene
        .until_status(stage.node("node-9")?, "it waits", waits_for("paused"))
        .await?;
    assert_eq!(nodes_with(&stage, "v2")?, 0);
    // Polls that fail make nobody forget what it waits for.
    proxy.set("", Fault::Reset);
    for name in ["node-0", "node-1", "node-2"] {
        let node = stage.node(name)?;
        let before = node.metric(FAILED).await?;
        eventually("its polls fail", TEST_PATIENCE, async || {
            let now = node.metric(FAILED).await?;
            anyhow::ensure!(now > before + 1.0, "{now}");
            Ok(())
        })
        .await?;
    }
    proxy.clear();
    assert_eq!(stage.ever("v2"), Vec::<String>::new());
    operate(&stage, &["resume", COMPUTE]).await?;
    let most = stage.watch_until_all(release).await?;
    assert!(most <= 1, "never more than one node in transition");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_during_a_rollout_and_the_rollback_of_the_rollback() -> Result {
    let stage = Stage::set(3, Bad::Never).await?;
    let before = stage.manifests()?;
    stage.publish("v2").await?;
    stage
        .until("the canary has it", |d| d.committed >= 1)
        .await?;
    operate(&stage, &["rollback", "--yes", COMPUTE]).await?;
    let most = stage.watch_until_all(3).await?;
    assert!(most <= 1, "never more than one node in transition");
    assert_eq!(stage.manifests()?, before, "release 1 again, byte for byte");
    operate(&stage, &["rollback", "--to", "2", "--yes", COMPUTE]).await?;
    stage.watch_until_all(4).await?;
    assert_eq!(nodes_with(&stage, "v2")?, 3);
    let history = operate(&stage, &["history", COMPUTE]).await?;
    for line in ["brings release 1 back", "brings release 2 back"] {
        assert!(history.contains(line), "{line}: {history}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gone_for_good_with_its_slot_stops_the_others_until_it_is_forgotten() -> Result {
    // Never healthy with v2, never failing for long enough: the canary probes until its machine is gone.
    let mut stage = Stage::set_with(3, Bad::With("v2"), "12s", 100_000).await?;
    let release = stage.publish("v2").await?;
    let held = stage
        .until("somebody has the slot", |d| !d.holders.is_empty())
        .await?;
    let canary = held.holders[0].node.to_string();
    stage
        .scene
        .until_status(stage.node(&canary)?, "it probes", |s| {
            let slot = s.rollout.slot.as_ref();
            slot.is_some_and(|s| s.transition == Transition::Probing)
        })
        .await?;
    stage.node_mut(&canary)?.kill().await?;
    stage.lose_node(&canary);
    stage.heal();
    let cleared = stage
        .until("its slot is cleared", |d| !d.unavailable.is_empty())
        .await?;
    assert_eq!(cleared.unavailable[0].node.as_str(), canary);
    // Its place stays taken: the others say so, and do not begin.
    for name in ["node-0", "node-1", "node-2"]
        .iter()
        .filter(|n| **n != canary)
    {
        let node = stage.node(name)?;
        let before = node.metric(POLLED).await?;
        eventually("it polls on", TEST_PATIENCE, async || {
            let now = node.metric(POLLED).await?;
            anyhow::ensure!(now > before + 2.0, "{now}");
            Ok(())
        })
        .await?;
        let status = stage.scene.status(node)?;
        assert_eq!(status.release, Some(number(1)), "{status:?}");
        let waiting = status.rollout.waiting.as_ref();
        assert!(waiting.is_some_and(|w| w.kind == "capacity"), "{status:?}");
    }
    assert_eq!(nodes_with(&stage, "v2")?, 0);
    // A report as young as this one may be of a machine that is there.
    let refused = run(&stage, &["forget", &canary]).await?;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(stage.document()?.unavailable.len(), 1);
    operate(&stage, &["forget", &canary, "--force"]).await?;
    let most = stage.watch_until_all(release).await?;
    assert!(most <= 1, "never more than one node in transition");
    let ended = stage
        .until("it is complete", |d| d.good == Some(number(release)))
        .await?;
    assert!(
        ended.unavailable.is_empty() && ended.halted.is_none(),
        "{ended:?}"
    );
    let status = operate(&stage, &["status", COMPUTE]).await;
    let status = status.unwrap_or_else(|e| e.to_string());
    assert!(!status.contains(&canary), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_with_the_gate_off_goes_to_every_node_one_at_a_time_and_warns() -> Result {
    let stage = Stage::set(3, Bad::With("v2")).await?;
    stage.write("v2")?;
    let reason = "the probe's own server moves";
    let refused = run(&stage, &["publish", COMPUTE, "--gate=off"]).await?;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let publish = ["publish", COMPUTE, "--gate=off", "--reason", reason];
    operate(&stage, &publish).await?;
    let most = stage.watch_until_all(2).await?;
    assert_eq!(most, 1, "never more than one node in transition");
    let ended = stage
        .until("it is complete", |d| d.good == Some(number(2)))
        .await?;
    assert!(
        ended.failed.is_empty() && ended.halted.is_none(),
        "{ended:?}"
    );
    assert_eq!(nodes_with(&stage, "v2")?, 3);
    for name in ["node-0", "node-1", "node-2"] {
        let status = stage.scene.status(stage.node(name)?)?;
        let probe = status.rollout.probes.iter().find(|p| p.name == "web");
        assert!(probe.is_some(), "{status:?}");
    }
    // Whoever looks later sees who did that, and why.
    let history = operate(&stage, &["history", COMPUTE]).await?;
    let told = format!("waived the probes, which only warn now: {reason} (by ada");
    assert!(history.contains(&told), "{history}");
    // A waiver is for its release, and the same files published again take it from nobody.
    let said = operate(&stage, &["publish", COMPUTE]).await?;
    assert!(said.contains("nothing differs from release 2"), "{said}");
    // The next release has its gate again; its probes mend, so it goes in.
    let release = stage.publish("v3").await?;
    stage.watch_until_all(release).await?;
    let history = operate(&stage, &["history", COMPUTE]).await?;
    assert!(history.contains("the probes decide again"), "{history}");
    Ok(())
}
