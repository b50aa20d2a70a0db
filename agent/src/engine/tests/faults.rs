use std::sync::atomic::Ordering;

use shared::store::StoreErrorKind;

use super::number;
use super::world::{BUNDLE, World, tick};
use crate::engine::Outcome;

const KINDS: [StoreErrorKind; 8] = [
    StoreErrorKind::NotFound,
    StoreErrorKind::Forbidden,
    StoreErrorKind::Throttled,
    StoreErrorKind::Unavailable,
    StoreErrorKind::Timeout,
    StoreErrorKind::Connection,
    StoreErrorKind::TooLarge,
    StoreErrorKind::Other,
];

#[tokio::test(start_paused = true)]
async fn every_error_on_every_object_keeps_the_last_good_release_and_passes() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let mut last = 1;
    for (object, phase) in [
        ("timestamp.json", "idle"),
        (".root.json", "verify"),
        ("snapshot.json", "verify"),
        ("targets.json", "verify"),
        (BUNDLE, "fetch"),
    ] {
        for kind in KINDS {
            let missing = matches!(kind, StoreErrorKind::NotFound | StoreErrorKind::Forbidden);
            if object == ".root.json" && missing {
                // That is how the store says that there is no newer root.
                continue;
            }
            let case = format!("{object} {kind:?}");
            w.publish(last + 1).await;
            w.store.fail(object, kind);
            for _ in 0..2 {
                assert_eq!(tick(&mut agent).await, Outcome::Failed, "{case}");
                assert_eq!(w.on_disk().unwrap(), format!("release {last}"), "{case}");
                let error = w.status().error.unwrap();
                assert_eq!(error.kind, kind.label(), "{case}: {error:?}");
                assert_eq!(error.phase.to_string(), phase, "{case}");
            }
            let label = format!(
                "errors_total{{phase=\"{phase}\",kind=\"{}\"}}",
                kind.label()
            );
            assert!(agent.metrics.text().contains(&label), "{label}");
            w.store.mend();
            last += 1;
            // The new timestamp was seen while the fault lasted, and is not forgotten.
            assert_eq!(
                tick(&mut agent).await,
                Outcome::Adopted(number(last)),
                "{case}"
            );
            assert_eq!(w.error_kind(), None, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_that_cannot_be_written_stops_nothing() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    w.store.fail("nodes/", StoreErrorKind::Forbidden);
    assert_eq!(agent.once().await, Outcome::Adopted(number(1)));
    w.store.mend();
    tick(&mut agent).await;
    assert_eq!(
        w.status().release,
        Some(number(1)),
        "and is written when it can be"
    );
}

#[tokio::test(start_paused = true)]
async fn a_forged_timestamp_is_refused_and_forgotten_with_the_genuine_one_back() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    let key = "groups/secure/metadata/timestamp.json";
    let genuine = w.store.object(key).unwrap();
    let text = String::from_utf8(genuine.0.to_vec()).unwrap();
    let forged = text.replacen("\"version\": ", "\"version\": 9", 1);
    assert_ne!(forged, text);
    w.store.set(key, forged);
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "signature");
    w.store.put_back(key, genuine);
    assert_eq!(tick(&mut agent).await, Outcome::Unchanged);
    assert_eq!(w.error_kind(), None);
}

#[tokio::test(start_paused = true)]
async fn a_bundle_with_a_flipped_byte_is_read_again() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    let key = w.store.keys_with(BUNDLE).remove(0);
    let genuine = w.store.object(&key).unwrap();
    let mut flipped = genuine.0.to_vec();
    flipped[100] ^= 1;
    w.store.set(&key, flipped.clone());
    assert_eq!(agent.once().await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "mismatch");
    flipped.pop();
    w.store.set(&key, flipped);
    assert_eq!(tick(&mut agent).await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "mismatch");
    assert_eq!(
        w.wrap.unwrapped.load(Ordering::Relaxed),
        0,
        "nobody was asked to open it"
    );
    w.store.put_back(&key, genuine);
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(1)));
}

#[tokio::test(start_paused = true)]
async fn while_kms_is_away_the_bundle_is_kept_and_not_read_again() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    w.wrap.fails.store(true, Ordering::Relaxed);
    for n in 1..=3 {
        assert_eq!(tick(&mut agent).await, Outcome::Failed);
        assert_eq!(w.error_kind().unwrap(), "kms_unavailable");
        assert_eq!(w.wrap.unwrapped.load(Ordering::Relaxed), n);
    }
    w.wrap.fails.store(false, Ordering::Relaxed);
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(1)));
    let reads = w
        .store
        .requests()
        .iter()
        .filter(|r| r.contains(BUNDLE))
        .count();
    assert_eq!(reads, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_may_pass_is_tried_again_early() {
    let mut w = World::new().await;
    let mut agent = w.agent();
    w.publish(1).await;
    agent.once().await;
    assert!(agent.pause().as_secs() >= 9);
    w.store.fail("timestamp.json", StoreErrorKind::Unavailable);
    tick(&mut agent).await;
    assert!(agent.pause().as_secs_f32() < 1.2, "{:?}", agent.pause());
    tick(&mut agent).await;
    assert!(agent.pause().as_secs_f32() > 1.7, "{:?}", agent.pause());
    w.store.fail("timestamp.json", StoreErrorKind::Forbidden);
    tick(&mut agent).await;
    assert!(
        agent.pause().as_secs() >= 9,
        "that is not a matter of seconds"
    );
    w.store.mend();
    tick(&mut agent).await;
    assert!(agent.pause().as_secs() >= 9);
}
