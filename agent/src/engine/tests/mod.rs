mod clock_and_hold;
mod disk;
mod faults;
mod host;
mod refusals;
mod rollouts;
mod waiting;
mod world;

use shared::documents::{GroupKey, NodeStatus, Phase, open_node_object};
use tokio::sync::watch;

use super::Outcome;
use shared::names::ReleaseNumber;
use world::{POLL, World, kinds, tick};

fn number(n: u64) -> ReleaseNumber {
    ReleaseNumber::new(n).unwrap()
}

#[tokio::test(start_paused = true)]
async fn adopts_what_is_published_and_reports_it() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    assert_eq!(agent.once().await, Outcome::Adopted(number(1)));
    assert_eq!(w.on_disk().unwrap(), "release 1");
    let status = w.status();
    assert_eq!(status.release, Some(number(1)));
    assert_eq!(status.published, Some(number(1)));
    assert_eq!((status.phase, status.error), (Phase::Idle, None));
    assert!(status.metadata_expires.is_some());
    assert!(agent.service_manager.is_ready());
    assert_eq!(agent.metrics.healthy(), Ok(()));

    w.publish(2).await;
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(2)));
    assert_eq!(w.on_disk().unwrap(), "release 2");
    let text = agent.metrics.text();
    assert!(text.contains("platform_agent_release_number 2"), "{text}");
    assert!(
        text.contains("platform_agent_adoption_seconds_count 2"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_poll_at_rest_is_exactly_one_conditional_request() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    w.store.requests();
    let state = std::fs::metadata(w.paths().state())
        .unwrap()
        .modified()
        .unwrap();
    for _ in 0..20 {
        assert_eq!(tick(&mut agent).await, Outcome::Unchanged);
        assert_eq!(
            w.store.requests(),
            ["get? groups/secure/metadata/timestamp.json"]
        );
    }
    let after = std::fs::metadata(w.paths().state())
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(state, after, "nothing was written");
    // Five minutes gone since the last status.
    for _ in 0..10 {
        tick(&mut agent).await;
    }
    let rest = w.store.requests();
    let puts = rest.iter().filter(|r| r.starts_with("put ")).count();
    assert_eq!((rest.len(), puts), (11, 1), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn the_hourly_refresh_reads_metadata_and_nothing_else() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let unwrapped = w.wrap.unwrapped.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(unwrapped, 1);
    w.store.requests();
    tokio::time::advance(std::time::Duration::from_secs(3600)).await;
    assert_eq!(tick(&mut agent).await, Outcome::Unchanged);
    let requests = w.store.requests();
    assert!(
        requests.iter().any(|r| r.ends_with("2.root.json")),
        "{requests:?}"
    );
    assert!(
        !requests.iter().any(|r| r.contains(world::BUNDLE)),
        "{requests:?}"
    );
    tick(&mut agent).await;
    assert_eq!(w.store.requests().len(), 1, "and then it is at rest again");
    assert_eq!(
        w.wrap.unwrapped.load(std::sync::atomic::Ordering::Relaxed),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn the_status_is_authentic_once_there_is_a_key() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let text = std::fs::read_to_string(w.paths().group_key()).unwrap();
    let key: GroupKey = text.parse().unwrap();
    let (bytes, _) = w.store.object("nodes/secure/role:i-1.json").unwrap();
    let name = "dev/nodes/secure/role:i-1.json";
    let status: NodeStatus = open_node_object(&bytes, name, &key).unwrap();
    assert_eq!(status.release, Some(number(1)));
}

#[tokio::test(start_paused = true)]
async fn an_empty_repository_is_no_error() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.sign(&[]).await;
    assert_eq!(agent.once().await, Outcome::Unchanged);
    assert_eq!(w.status().phase, Phase::Starting);
    assert!(
        !agent.service_manager.is_ready(),
        "no files of a verified release yet"
    );
    w.publish(1).await;
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(1)));
    // What was published does not vanish without a signed release that says so.
    w.sign(&[]).await;
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "withdrawn");
    assert_eq!(w.on_disk().unwrap(), "release 1");
}

#[tokio::test(start_paused = true)]
async fn the_daemon_polls_until_told_to_stop() {
    let mut w = World::new().await;
    w.publish(1).await;
    let agent = w.agent();
    let (stop, stopped) = watch::channel(false);
    let daemon = tokio::spawn(agent.run(stopped));
    tokio::time::sleep(POLL * 10).await;
    assert_eq!(w.on_disk().unwrap(), "release 1");
    let requests = w.store.requests();
    let polls = requests.iter().filter(|r| r.starts_with("get? ")).count();
    assert!(
        (8..=11).contains(&polls),
        "{polls} conditional polls in ten periods"
    );
    assert_eq!(kinds(&requests), ["get", "get?", "put"].into());
    stop.send(true).unwrap();
    daemon.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hanging_store_does_not_keep_the_daemon_from_stopping() {
    let w = World::new().await;
    w.store
        .hangs
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let (stop, stopped) = watch::channel(false);
    let daemon = tokio::spawn(w.agent().run(stopped));
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let began = tokio::time::Instant::now();
    stop.send(true).unwrap();
    daemon.await.unwrap();
    assert!(began.elapsed().is_zero());
}
