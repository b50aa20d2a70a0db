use std::time::Duration;

use shared::names::EntryPath;

use super::number;
use super::world::{BUNDLE, World, pod, tick};
use crate::engine::Outcome;

const POLL_ONLY: [&str; 1] = ["get? groups/secure/metadata/timestamp.json"];

#[tokio::test(start_paused = true)]
async fn refused_content_is_not_read_again_until_something_changes() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let bad = w.files(b"kind: Nonsense\n".to_vec());
    w.publish_files(2, &bad).await;
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "content");
    let since = w.status().error.unwrap().since;
    w.store.requests();
    for _ in 0..3 {
        assert_eq!(tick(&mut agent).await, Outcome::Failed, "it is still so");
        assert_eq!(w.store.requests(), POLL_ONLY);
    }
    assert_eq!(w.error_kind().unwrap(), "content");
    assert_eq!(w.status().error.unwrap().since, since);
    assert_eq!(w.on_disk().unwrap(), "release 1");
    assert_eq!(
        agent.metrics.healthy(),
        Ok(()),
        "the last good release is in service"
    );

    tokio::time::advance(Duration::from_secs(3600)).await;
    tick(&mut agent).await;
    let hourly = w.store.requests();
    assert!(hourly.iter().any(|r| r.contains(BUNDLE)), "{hourly:?}");
    tick(&mut agent).await;
    assert_eq!(w.store.requests(), POLL_ONLY);

    w.publish(3).await;
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(3)));
    assert_eq!(w.error_kind(), None);
}

#[tokio::test(start_paused = true)]
async fn one_number_with_two_bundles_is_refused() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let other = w.files(pod("another release 1"));
    w.publish_files(1, &other).await;
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "equivocation");
    assert_eq!(w.on_disk().unwrap(), "release 1");
    w.store.requests();
    tick(&mut agent).await;
    assert_eq!(w.store.requests(), POLL_ONLY);
}

#[tokio::test(start_paused = true)]
async fn an_older_number_is_refused_even_in_newer_metadata() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(5).await;
    agent.once().await;
    w.publish(4).await;
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "rollback");
    assert_eq!(w.on_disk().unwrap(), "release 5");
}

#[tokio::test(start_paused = true)]
async fn another_groups_bundle_under_our_signature_is_refused() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    let files = w.files(pod("x"));
    let target = w.upload(1, "compute", &files).await;
    w.sign(&[target]).await;
    assert_eq!(agent.once().await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "contradiction");
    assert_eq!(w.on_disk(), None);
}

#[tokio::test(start_paused = true)]
async fn a_file_for_the_agent_that_it_does_not_know_is_refused() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    let mut files = w.files(pod("x"));
    files.insert(EntryPath::new("agent/unknown").unwrap(), b"x".to_vec());
    w.publish_files(1, &files).await;
    assert_eq!(agent.once().await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "content");
    assert_eq!(w.on_disk(), None);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_trust_store_is_named_and_nothing_is_adopted() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let path = w.paths().trust().join("timestamp.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    w.publish(2).await;
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "local_state");
    assert_eq!(w.on_disk().unwrap(), "release 1");
    std::fs::write(&path, whole).unwrap();
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(2)));
}
