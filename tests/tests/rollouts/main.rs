//! Rollouts with real processes: agents, an embedded store, and a server whose health follows what is on the nodes' disks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::large_enum_variant,
    clippy::disallowed_methods,
    reason = "a helper of tests may fail the test"
)]

mod flows;
mod main_job;
mod stage;
mod watched;

use std::time::Duration;

use anyhow::Context as _;

use platform_tests::faulty_proxy::{Fault, FaultyProxy};
use shared::documents::Transition;
use stage::{Bad, Stage};

type Result = anyhow::Result<()>;

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_reaches_every_node_one_at_a_time_and_is_known_to_be_good() -> Result {
    let stage = Stage::set(3, Bad::Never).await?;
    let release = stage.publish("v2").await?;
    let most = stage.watch_until_all(release).await?;
    assert_eq!(most, 1, "never more than one node in transition");
    let document = stage
        .until("it is complete", |d| {
            d.good.map(|g| g.get()) == Some(release)
        })
        .await?;
    assert_eq!((document.committed, document.size), (3, 3));
    assert!(document.holders.is_empty() && document.halted.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_bad_on_the_canary_is_reverted_there_and_reaches_nobody_else() -> Result {
    let mut stage = Stage::set(3, Bad::With("v2")).await?;
    let before = stage.manifests()?;
    let release = stage.publish("v2").await?;
    let halted = stage
        .until("it is halted", |d| {
            d.is_halted(stage::number(release)) && d.holders.is_empty()
        })
        .await?;
    assert_eq!(halted.failed.len(), 1);
    assert!(
        halted.failed[0].lines.iter().any(|l| l.contains("503")),
        "{halted:?}"
    );
    assert_eq!(stage.manifests()?, before, "back, byte for byte");
    let canary = halted.failed[0].node.to_string();
    let node = stage.node(&canary)?;
    let status = stage
        .scene
        .until_status(node, "it went back", |s| {
            s.rollout.reverted.as_ref().is_some_and(|r| r.healthy) && s.rollout.slot.is_none()
        })
        .await?;
    assert_eq!(status.release.map(|r| r.get()), Some(1));
    assert!(!status.rollout.decisions.is_empty());
    assert_eq!(stage.ever("v2"), vec![canary], "no other node ever had it");

    // A machine that starts now takes the release that is known to be good.
    stage.add_node("node-9").await?;
    let new = stage.node("node-9")?;
    let waits = stage
        .scene
        .until_status(new, "it waits", |s| {
            s.rollout
                .waiting
                .as_ref()
                .is_some_and(|w| w.kind == "halted")
        })
        .await?;
    assert_eq!(waits.release.map(|r| r.get()), Some(1));
    assert!(!stage.ever("v2").contains(&"node-9".to_owned()));

    // The release that mends it goes in.
    let release = stage.publish("v3").await?;
    stage.watch_until_all(release).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_bad_on_the_second_node_stays_on_the_first() -> Result {
    let stage = Stage::set(3, Bad::OnTwo("v2")).await?;
    let release = stage.publish("v2").await?;
    let halted = stage
        .until("it is halted", |d| {
            d.is_halted(stage::number(release)) && d.holders.is_empty()
        })
        .await?;
    assert_eq!(halted.committed, 1);
    let on_two = stage
        .manifests()?
        .values()
        .filter(|m| m.contains("v2"))
        .count();
    assert_eq!(
        on_two, 1,
        "the first keeps it, the second went back, the third never had it"
    );
    assert_eq!(stage.ever("v2").len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_mends_nodes_whose_probes_fail_already_goes_in() -> Result {
    let stage = Stage::set(2, Bad::With("v1")).await?;
    let release = stage.publish("v2").await?;
    stage.watch_until_all(release).await?;
    let warned = stage.scene.status(stage.node("node-0")?)?.rollout.probes;
    assert!(warned.iter().all(|p| p.name == "web"), "{warned:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_with_a_slot_goes_on_and_one_that_is_gone_is_cleared() -> Result {
    // Never healthy, never failing for long enough: it probes until somebody ends it.
    let mut stage = Stage::set_with(2, Bad::With("v2"), "12s", 100_000).await?;
    let release = stage.publish("v2").await?;
    let held = stage
        .until("somebody has the slot", |d| !d.holders.is_empty())
        .await?;
    let canary = held.holders[0].node.to_string();
    let node = stage.node(&canary)?;
    stage
        .scene
        .until_status(node, "it probes", |s| {
            s.rollout
                .slot
                .as_ref()
                .is_some_and(|s| s.transition == Transition::Probing)
        })
        .await?;
    stage.node_mut(&canary)?.kill().await?;
    stage.heal();
    // Nobody else begins, and the slot is cleared after twice the deadline.
    let cleared = stage
        .until("its slot is cleared", |d| !d.unavailable.is_empty())
        .await?;
    assert_eq!(cleared.unavailable[0].node.as_str(), canary);
    assert!(
        cleared.holders.is_empty(),
        "an absent node takes its place: {cleared:?}"
    );
    let waited = cleared.written_at.duration_since(held.holders[0].since);
    assert!(waited.as_secs() >= 24, "{waited}");
    assert_eq!(stage.ever("v2"), vec![canary.clone()]);
    // It comes back long after its time: it goes back, says so, and the rollout is halted.
    stage.node_mut(&canary)?.start()?;
    let halted = stage
        .until("it reported", |d| d.unavailable.is_empty())
        .await?;
    assert!(halted.is_halted(stage::number(release)), "{halted:?}");
    assert!(stage.manifests()?[&canary].contains("v1"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_with_a_slot_in_time_finishes_its_release() -> Result {
    let mut stage = Stage::set_with(2, Bad::With("v2"), "60s", 100_000).await?;
    let release = stage.publish("v2").await?;
    let held = stage
        .until("somebody has the slot", |d| !d.holders.is_empty())
        .await?;
    let canary = held.holders[0].node.to_string();
    let node = stage.node(&canary)?;
    stage
        .scene
        .until_status(node, "it probes", |s| {
            s.rollout
                .slot
                .as_ref()
                .is_some_and(|s| s.transition == Transition::Probing)
        })
        .await?;
    stage.node_mut(&canary)?.kill().await?;
    stage.heal();
    stage.node_mut(&canary)?.start()?;
    stage.watch_until_all(release).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_in_the_middle_and_two_publishes_at_once_end_well() -> Result {
    let mut stage = Stage::set(0, Bad::Never).await?;
    let proxy = FaultyProxy::start(stage.scene.bucket.store().addr()).await?;
    for n in 0..3 {
        stage
            .add_node_at(&format!("node-{n}"), &proxy.endpoint())
            .await?;
    }
    stage.publish("v2").await?;
    stage
        .until("somebody has the slot", |d| !d.holders.is_empty())
        .await?;
    proxy.set("", Fault::Reset);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let release = stage.publish("v3").await?;
    proxy.clear();
    let most = stage.watch_until_all(release).await?;
    assert!(most <= 1, "never more than one node in transition");
    stage
        .until("it is complete", |d| {
            d.good.map(|g| g.get()) == Some(release)
        })
        .await?;
    Ok(())
}

/// Killed at a step, and started again: the release is there in the end, or, where it is bad, the one before.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_of_a_rollout() -> Result {
    const STEPS: [(&str, bool); 10] = [
        // Asking for the slot, giving it back.
        ("rollout::write", false),
        ("rollout::write:2", false),
        ("rollout::probe", false),
        ("rollout::give-back", false),
        ("apply::manifest.before", false),
        ("engine::commit", false),
        // Noting the failure; going back; the files of going back.
        ("rollout::write:2", true),
        ("rollout::revert", true),
        ("apply::manifest.before:2", true),
        ("apply::commit.before:2", true),
    ];
    for points in agent::engine::ROLLOUT_FAIL_POINTS {
        assert!(STEPS.iter().any(|(step, _)| step.starts_with(points)));
    }
    let both = [false, true].map(|bad| async move {
        for (step, _) in STEPS.iter().filter(|(_, is_bad)| *is_bad == bad) {
            let wanted = if bad { Bad::With("v2") } else { Bad::Never };
            killed_at(step, wanted)
                .await
                .with_context(|| format!("killed at {step}, bad: {bad}"))?;
        }
        anyhow::Ok(())
    });
    for done in futures::future::join_all(both).await {
        done?;
    }
    Ok(())
}

async fn killed_at(step: &str, bad: Bad) -> Result {
    let mut stage = Stage::set(1, bad).await?;
    let before = stage.manifests()?;
    let node = stage.node_mut("node-0")?;
    node.terminate().await?;
    node.start_with(&[(agent::failpoints::VARIABLE, step)])?;
    let release = stage.publish("v2").await?;
    let node = stage.node_mut("node-0")?;
    node.killed_itself(stage::TEST_PATIENCE).await?;
    node.start()?;
    if matches!(bad, Bad::Never) {
        stage.watch_until_all(release).await?;
    } else {
        let halted = |d: &shared::documents::RolloutDocument| {
            d.is_halted(stage::number(release)) && d.holders.is_empty()
        };
        stage.until("it is halted", halted).await?;
        anyhow::ensure!(stage.manifests()? == before, "not byte for byte");
    }
    let verified = stage.node("node-0")?.run_verb("verify", &[]).await?;
    anyhow::ensure!(verified.status.success(), "{verified:?}");
    Ok(())
}
