use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shared::store::StoreErrorKind;
use tokio::sync::watch;

use super::number;
use super::world::{World, tick};
use crate::drift::DriftWatch;
use crate::engine::Outcome;

#[tokio::test(start_paused = true)]
async fn an_edited_and_a_deleted_file_are_put_back_at_the_next_poll_without_the_store() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    w.store.fail("groups/", StoreErrorKind::Connection);
    std::fs::write(w.manifest(), "edited").unwrap();
    std::fs::remove_file(w.paths().host().join("kubelet.yaml")).unwrap();
    tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 1");
    assert!(w.paths().host().join("kubelet.yaml").exists());
    assert_eq!(w.status().drift_repaired, 2);
    assert!(
        agent
            .metrics
            .text()
            .contains("platform_agent_drift_repaired_total 2")
    );
}

#[tokio::test(start_paused = true)]
async fn starts_offline_verifies_repairs_and_is_ready() {
    let mut w = World::new().await;
    w.publish(1).await;
    w.agent().once().await;
    w.store.requests();
    w.store.fail("", StoreErrorKind::Connection);
    w.wrap.fails.store(true, Ordering::Relaxed);
    std::fs::remove_file(w.manifest()).unwrap();
    let mut agent = w.agent();
    agent.care_for_disk().await;
    assert_eq!(w.store.requests().len(), 0, "before any network");
    assert_eq!(w.on_disk().unwrap(), "release 1");
    assert!(agent.service_manager.is_ready());
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    assert_eq!(agent.error().unwrap().kind, "connection");
    assert_eq!(w.on_disk().unwrap(), "release 1");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_file_is_reported_and_left() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let path = w.paths().manifests().join("other.yaml.bak");
    std::fs::write(&path, "x").unwrap();
    assert_eq!(tick(&mut agent).await, Outcome::Unchanged);
    assert_eq!(w.status().foreign.len(), 1);
    assert!(w.status().foreign[0].contains("other.yaml.bak"));
    assert!(path.exists());
    assert!(
        agent
            .metrics
            .text()
            .contains("platform_agent_foreign_files 1")
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_copy_is_read_from_the_store_again() {
    let mut w = World::new().await;
    w.publish(1).await;
    w.agent().once().await;
    let copy = w.paths().copy(number(1));
    std::fs::write(&copy, "damaged").unwrap();
    let mut agent = w.agent();
    assert_eq!(agent.once().await, Outcome::Adopted(number(1)));
    assert_ne!(std::fs::read(&copy).unwrap(), b"damaged");
    std::fs::write(w.manifest(), "edited").unwrap();
    tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 1");
}

/// On the agent that runs: it notices at its next look, and does not wait for a start.
#[tokio::test(start_paused = true)]
async fn a_copy_that_is_lost_while_it_runs_is_read_again() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let copy = w.paths().copy(number(1));
    tick(&mut agent).await;
    std::fs::remove_file(&copy).unwrap();
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(1)));
    assert!(copy.exists());
    assert_eq!(tick(&mut agent).await, Outcome::Unchanged);
}

#[tokio::test(start_paused = true)]
async fn what_a_release_leaves_goes_when_its_pods_have_ended_and_not_before() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    w.publish(2).await;
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(2)));
    let old = w.paths().copy(number(1));
    // The list period of 20 seconds and a grace period of 30.
    for _ in 0..4 {
        tick(&mut agent).await;
        assert!(old.exists());
    }
    // What cannot be removed is reported, and tried again.
    std::fs::remove_file(&old).unwrap();
    std::fs::create_dir(&old).unwrap();
    tick(&mut agent).await;
    let error = w.status().error.unwrap();
    assert!(error.message.contains("1.tar.zst"), "{error:?}");
    assert_eq!(w.status().release, Some(number(2)));
    assert!(agent.metrics.healthy().is_ok());
    let since = error.since;
    tick(&mut agent).await;
    assert_eq!(w.status().error.unwrap().since, since);
    std::fs::remove_dir(&old).unwrap();
    std::fs::write(&old, "an old copy").unwrap();
    tick(&mut agent).await;
    assert!(!old.exists());
    assert_eq!(w.status().error, None);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_cannot_be_remembered_is_tried_again_and_stays_reported() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let memory = w.paths().state().join("latest-time.json");
    std::fs::remove_file(&memory).unwrap();
    std::fs::create_dir(&memory).unwrap();
    agent.remember_time();
    agent.look_after_disk().await;
    assert_eq!(
        agent.error().unwrap().phase,
        shared::documents::Phase::Commit
    );
    std::fs::remove_dir(&memory).unwrap();
    agent.look_after_disk().await;
    assert_eq!(agent.error(), None);
    assert!(memory.is_file());
}

#[tokio::test(start_paused = true)]
async fn a_manifest_directory_that_cannot_be_listed_is_a_trouble() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let (here, away) = (w.paths().manifests(), w.dir.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    std::fs::write(&here, "no directory").unwrap();
    agent.look_at_foreign_files();
    assert_eq!(agent.error().unwrap().kind, "io");
    let text = agent.metrics.text();
    assert!(text.contains(r#"phase="idle",kind="io""#), "{text}");
    std::fs::remove_file(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    agent.look_at_foreign_files();
    assert_eq!(agent.error(), None);
}

#[tokio::test(start_paused = true)]
async fn a_group_key_that_cannot_be_read_is_a_trouble() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let path = w.paths().group_key();
    let key = std::fs::read(&path).unwrap();
    std::fs::write(&path, "no key").unwrap();
    tokio::time::advance(crate::status::IDLE_INTERVAL).await;
    agent.report().await;
    assert_eq!(w.error_kind().as_deref(), Some("group_key"));
    std::fs::write(&path, key).unwrap();
    agent.report().await;
    assert_eq!(
        w.error_kind(),
        None,
        "at the next report, not minutes later"
    );
}

/// On real time: inotify does not know tokio's clock.
#[tokio::test]
async fn an_edited_file_is_back_within_a_second_while_the_store_hangs() {
    let mut w = World::new().await;
    w.publish(1).await;
    let paths = w.paths();
    w.agent().once().await;
    w.store.hangs.store(true, Ordering::Relaxed);
    let watched = vec![
        paths.manifests(),
        paths.secrets(),
        paths.host(),
        paths.addons(),
    ];
    let (stop, stopped) = watch::channel(false);
    let agent = w.agent_with(DriftWatch::new(watched));
    let metrics = agent.metrics.clone();
    let daemon = tokio::spawn(agent.run(stopped));
    // The agent asks the store once it watches.
    while !w.store.requests().iter().any(|r| r.contains("timestamp")) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for repaired in 1..=2 {
        std::fs::write(w.manifest(), "edited").unwrap();
        let began = Instant::now();
        while w.on_disk().as_deref() != Some("release 1") {
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "not back within a second"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Its own write wakes it again, and is no drift.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let counted = format!("platform_agent_drift_repaired_total {repaired}\n");
        assert!(metrics.text().contains(&counted), "{}", metrics.text());
    }
    stop.send(true).unwrap();
    daemon.await.unwrap();
}
