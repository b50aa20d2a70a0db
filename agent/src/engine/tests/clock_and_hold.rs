use jiff::SignedDuration;
use shared::documents::{Hold, Phase};
use shared::store::ServerTime;

use super::number;
use super::world::{World, tick};
use crate::clock::Clock as _;
use crate::engine::Outcome;
use crate::hold::HoldFile;

const DAY: SignedDuration = SignedDuration::from_hours(24);

impl World {
    fn store_agrees(&self, ahead: SignedDuration) {
        let local = self.clock.now();
        let server = local + ahead;
        *self.store.server_time.lock().unwrap() = Some(ServerTime { server, local });
    }

    fn hold_file(&self) -> HoldFile {
        HoldFile::in_directory(self.paths().state())
    }
}

#[tokio::test(start_paused = true)]
async fn expiry_is_an_alarm_and_touches_nothing() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    w.clock.step(DAY * 400);
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "expired");
    assert_eq!(w.on_disk().unwrap(), "release 1");
    assert_eq!(agent.metrics.healthy(), Ok(()));
    w.clock.step(-DAY * 400);
    tick(&mut agent).await;
    assert_eq!(w.error_kind(), None);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_stepped_back_lets_nothing_new_in_until_the_store_confirms_it() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    w.clock.step(-DAY);
    assert_eq!(
        tick(&mut agent).await,
        Outcome::Unchanged,
        "at rest nothing is asked of it"
    );
    w.publish(2).await;
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "clock");
    w.store_agrees(DAY);
    assert_eq!(
        tick(&mut agent).await,
        Outcome::Failed,
        "the store says another day"
    );
    assert_eq!(w.on_disk().unwrap(), "release 1");
    w.store_agrees(SignedDuration::ZERO);
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(2)));
    assert_eq!(w.error_kind(), None);
    let remembered = agent.time_memory.recall().unwrap().unwrap();
    assert!(
        remembered <= w.clock.now(),
        "the memory is of the clock as it is now"
    );
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_stepped_forth_and_back_loses_nothing() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    w.clock.step(DAY * 30);
    agent.once().await;
    w.clock.step(-DAY * 30);
    w.publish(2).await;
    w.store_agrees(SignedDuration::ZERO);
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(2)));
    // The versions are enforced as before.
    w.publish(1).await;
    tick(&mut agent).await;
    assert_eq!(w.error_kind().unwrap(), "rollback");
}

#[tokio::test(start_paused = true)]
async fn the_skew_is_reported() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    w.store_agrees(SignedDuration::from_secs(-90));
    agent.once().await;
    assert_eq!(w.status().clock_skew_seconds, Some(90));
}

#[tokio::test(start_paused = true)]
async fn a_hold_suspends_repair_and_adoption_and_ends_by_itself() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let now = w.clock.now();
    let hold = Hold {
        reason: "looking at the scheduler".into(),
        since: now,
        until: Some(now + SignedDuration::from_secs(35)),
    };
    w.hold_file().place(&hold).unwrap();
    std::fs::write(w.manifest(), "edited").unwrap();
    w.publish(2).await;
    for _ in 0..3 {
        assert_eq!(tick(&mut agent).await, Outcome::Held);
        assert_eq!(std::fs::read_to_string(w.manifest()).unwrap(), "edited");
    }
    let status = w.status();
    assert_eq!(status.phase, Phase::Held);
    assert_eq!(status.hold.unwrap().reason, hold.reason);
    assert_eq!(
        status.published,
        Some(number(2)),
        "the node still knows what is published"
    );
    assert!(agent.metrics.text().contains("platform_agent_hold 1"));
    assert!(agent.metrics.healthy().unwrap_err().contains("differ"));
    w.store.requests();
    assert_eq!(
        tick(&mut agent).await,
        Outcome::Adopted(number(2)),
        "the hold is over"
    );
    assert_eq!(w.on_disk().unwrap(), "release 2");
    assert_eq!(w.status().hold, None);
}

#[tokio::test(start_paused = true)]
async fn a_hold_survives_a_restart() {
    let mut w = World::new().await;
    w.publish(1).await;
    w.agent().once().await;
    let hold = Hold {
        reason: "mine".into(),
        since: w.clock.now(),
        until: None,
    };
    w.hold_file().place(&hold).unwrap();
    std::fs::write(w.manifest(), "edited").unwrap();
    let mut agent = w.agent();
    assert_eq!(agent.once().await, Outcome::Held);
    assert_eq!(std::fs::read_to_string(w.manifest()).unwrap(), "edited");
    assert!(
        agent.service_manager.is_ready(),
        "kubelet must not wait for the hold's end"
    );
    w.hold_file().lift().unwrap();
    tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 1");
}
