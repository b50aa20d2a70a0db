//! One node's part in a rollout, in virtual time: what it does when time, files or what the group agrees on are not as they
//! should be.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use shared::bundle::{MaxUnavailable, Probe, ProbeCheck, RolloutPolicy, TimeSpan, Unpack};
use shared::check::manifest::PodSummary;
use shared::digest::Sha256Digest;
use shared::documents::{
    Halt, NodeStatus, Nonce, Pause, Retry, RolloutDocument, Transition, open_node_object,
    seal_node_object,
};
use shared::names::EntryPath;
use shared::store::{ServerTime, StoreErrorKind, keys};
use shared::trust::bundle_name;
use shared::trust::sign::ListedTarget;

use super::number;
use super::world::{Files, World, pod, tick};
use crate::clock::Clock as _;
use crate::disk::{PodEnd, PodEnded};
use crate::engine::{Agent, Outcome};

const DOCUMENT: &str = "rollouts/secure.json";

/// A release is healthy while this file is on the disk.
const MARKER: &str = "host/marker";

impl World {
    /// A group whose releases have a policy, and a store that knows the time.
    async fn rolling() -> Self {
        let mut w = Self::new().await;
        let marker = w.dir.path().join("root/etc/kubernetes").join(MARKER);
        w.rollout = Some(policy(marker));
        w.tell_time();
        w
    }

    fn tell_time(&self) {
        let now = self.clock.now();
        *self.store.server_time.lock().unwrap() = Some(ServerTime {
            server: now,
            local: now,
        });
    }

    /// A release with the marker, or without it.
    fn release(&self, number: u64, healthy: bool) -> Files {
        let mut files = self.files(pod(&format!("release {number}")));
        if healthy {
            files.insert(MARKER.parse().unwrap(), b"here\n".to_vec());
        }
        files
    }

    async fn publish_release(&mut self, number: u64, healthy: bool) {
        let files = self.release(number, healthy);
        self.publish_files(number, &files).await;
    }

    fn document(&self) -> RolloutDocument {
        let (bytes, _) = self.store.object(DOCUMENT).unwrap();
        open_node_object(&bytes, &format!("dev/{DOCUMENT}"), &self.group_key).unwrap()
    }

    fn write_document(&self, document: &RolloutDocument) {
        let bound = keys::bound_name(&"dev".parse().unwrap(), DOCUMENT);
        let sealed = seal_node_object(document, &bound, Some(&self.group_key)).unwrap();
        self.store.set(DOCUMENT, sealed);
    }

    fn waiting(&self) -> Option<String> {
        self.status().rollout.waiting.map(|w| w.kind)
    }

    async fn tick(&self, agent: &mut Agent) -> Outcome {
        self.tell_time();
        tick(agent).await
    }
}

fn policy(file: PathBuf) -> RolloutPolicy {
    RolloutPolicy {
        max_unavailable: MaxUnavailable::Nodes(1),
        deadline: TimeSpan::from_secs(100),
        settle: TimeSpan::from_secs(1),
        probes: vec![Probe {
            name: "marker".to_owned(),
            check: ProbeCheck::File {
                path: file.to_str().unwrap().to_owned(),
            },
            period: TimeSpan::from_secs(1),
            timeout: TimeSpan::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
        }],
        waiver: None,
    }
}

fn gauge(agent: &Agent, reason: &str) -> Option<String> {
    let series = format!("platform_agent_rollout_waiting{{reason=\"{reason}\"}} ");
    let text = agent.metrics.text();
    let mut lines = text.lines();
    lines.find_map(|line| Some(line.strip_prefix(&series)?.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_suspended_past_its_time_goes_back_though_it_is_healthy() {
    let mut w = World::rolling().await;
    let mut agent = w.agent();
    w.publish_release(1, true).await;
    agent.once().await;
    w.publish_release(2, true).await;
    let clock = Arc::clone(&w.clock);
    w.clock
        .in_next_sleep(move || clock.suspend(Duration::from_secs(200)));
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 1");
    let document = w.document();
    assert!(document.is_halted(number(2)), "{document:?}");
    assert!(document.failed[0].why.contains("its time"), "{document:?}");
    assert!(document.holders.is_empty());
}

/// A pod that takes longer to end than there is time, once.
struct SlowEnd(Arc<super::world::TestClock>, AtomicBool);

impl PodEnd for SlowEnd {
    fn wait(&self, _: &PodSummary) -> PodEnded {
        if !self.1.swap(true, Ordering::Relaxed) {
            self.0.suspend(Duration::from_secs(60));
        }
        PodEnded::Gone
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_forward_after_half_of_the_deadline_while_a_pod_takes_its_time() {
    let mut w = World::rolling().await;
    let mut agent = w.agent();
    {
        let mut disk = agent.disk.lock().unwrap();
        disk.pod_end = Box::new(SlowEnd(w.clock.clone(), AtomicBool::new(false)));
    }
    // Beside one that stays: the last manifest of a directory is never taken away before the next is there.
    let beside = || {
        let other = String::from_utf8(pod("beside")).unwrap();
        other.replace("web", "other").into_bytes()
    };
    let other: EntryPath = "manifests/other.yaml".parse().unwrap();
    let mut files = w.release(1, true);
    files.insert(other.clone(), beside());
    w.publish_files(1, &files).await;
    agent.once().await;
    // The same pod in another file: the old one has to end before the new one is written.
    let mut files = w.release(2, true);
    files.insert(other, beside());
    let manifest = files
        .remove(&"manifests/web.yaml".parse().unwrap())
        .unwrap();
    files.insert("manifests/renamed.yaml".parse().unwrap(), manifest);
    w.publish_files(2, &files).await;
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 1");
    assert!(!w.paths().manifests().join("renamed.yaml").exists());
    assert!(w.document().is_halted(number(2)), "{:?}", w.document());
    assert_eq!(w.status().rollout.slot, None);
}

#[tokio::test(start_paused = true)]
async fn a_node_goes_back_with_the_store_away_to_the_artifacts_that_it_had() {
    let mut w = World::rolling().await;
    let mut agent = w.agent();
    let bytes = b"the old helper";
    let artifact = shared::bundle::Artifact {
        name: "helper".to_owned(),
        target: "helper-1".to_owned(),
        sha256: Sha256Digest::of(bytes),
        bytes: bytes.len() as u64,
        path: "/opt/bin/helper".to_owned(),
        mode: shared::bundle::Mode::new(0o755),
        unpack: Unpack::None,
        restart: None,
    };
    let key = keys::target(&"secure".parse().unwrap(), &artifact.sha256, "helper-1");
    w.store.set(&key, &bytes[..]);
    w.listed = vec![ListedTarget {
        name: "helper-1".to_owned(),
        length: artifact.bytes,
        sha256: artifact.sha256,
        custom: std::collections::HashMap::new(),
    }];
    w.artifacts = vec![artifact];
    w.publish_release(1, true).await;
    agent.once().await;
    let helper = w.dir.path().join("root/opt/bin/helper");
    assert!(helper.exists());
    w.artifacts = Vec::new();
    w.publish_release(2, false).await;
    w.store.fail("helper-1", StoreErrorKind::Unavailable);
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 1");
    assert!(
        helper.exists(),
        "it was removed before the release was there to stay"
    );
    // One that does stay removes it once the slot is given back.
    w.store.mend();
    w.publish_release(3, true).await;
    w.tick(&mut agent).await;
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 3");
    assert!(!helper.exists());
}

#[tokio::test(start_paused = true)]
async fn each_decision_names_its_object_and_the_digest_of_the_release_it_is_about() {
    let mut w = World::rolling().await;
    let mut agent = w.agent();
    w.publish_release(1, true).await;
    agent.once().await;
    w.publish_release(2, false).await;
    w.tick(&mut agent).await;
    let digest_of = |n: u64| {
        let name = bundle_name(number(n));
        let key = w.store.keys_with(&name).pop().unwrap();
        let (digest, _) = key.rsplit('/').next().unwrap().split_once('.').unwrap();
        digest.parse::<Sha256Digest>().unwrap()
    };
    let decisions = w.status().rollout.decisions;
    let of = |what: &str| decisions.iter().find(|d| d.what == what).unwrap().clone();
    let slot = of("takes the slot");
    assert_eq!(slot.digest, Some(digest_of(2)));
    assert_eq!(slot.object.as_deref(), Some(DOCUMENT));
    let back = of("goes back");
    assert_eq!(
        (back.release, back.digest),
        (Some(number(1)), Some(digest_of(1)))
    );
    assert!(back.object.unwrap().contains("/targets/"));
}

#[tokio::test(start_paused = true)]
async fn a_node_remembers_what_failed_here_when_the_document_forgets() {
    let mut w = World::rolling().await;
    let mut agent = w.agent();
    w.publish_release(1, true).await;
    agent.once().await;
    w.publish_release(2, false).await;
    w.tick(&mut agent).await;
    let revision = w.document().revision;
    assert!(w.document().is_halted(number(2)));
    drop(agent);

    // Somebody removes the document: the node stays, and says so, also after a restart.
    let gone = w.store.object(DOCUMENT).unwrap();
    w.store.remove(DOCUMENT);
    let mut agent = w.agent();
    w.tell_time();
    agent.once().await;
    w.tick(&mut agent).await;
    assert_eq!(w.waiting().as_deref(), Some("unreadable"));
    assert_eq!(w.error_kind().as_deref(), Some("rollout_document"));
    assert_eq!(gauge(&agent, "unreadable").as_deref(), Some("1"));
    assert_eq!(w.on_disk().unwrap(), "release 1");
    drop(gone);

    // A new one without the halt: it is told again.
    let blank = RolloutDocument {
        revision: revision + 1,
        ..RolloutDocument::empty()
    };
    w.write_document(&blank);
    w.tick(&mut agent).await;
    assert_eq!(w.waiting().as_deref(), Some("failed_here"));
    assert_eq!(gauge(&agent, "unreadable").as_deref(), Some("0"));
    assert!(
        w.document()
            .failure(&"role:i-1".parse().unwrap(), number(2))
            .is_some()
    );
    assert_eq!(w.on_disk().unwrap(), "release 1");

    // A retry is what ends it.
    let again = RolloutDocument {
        revision: w.document().revision + 1,
        retry: Some(Retry {
            release: number(2),
            by: "ada".to_owned(),
            at: w.clock.now(),
        }),
        ..blank
    };
    w.write_document(&again);
    w.tick(&mut agent).await;
    assert_eq!(
        w.document().failed.len(),
        1,
        "it was tried again, and failed again"
    );
    let taken = |s: &NodeStatus| {
        let all = s.rollout.decisions.iter();
        all.filter(|d| d.what == "takes the slot").count()
    };
    assert_eq!(taken(&w.status()), 1, "by this process");
}

#[tokio::test(start_paused = true)]
async fn a_document_that_is_forged_or_older_than_one_seen_before_a_restart_moves_nobody() {
    let mut w = World::rolling().await;
    let mut agent = w.agent();
    w.publish_release(1, true).await;
    agent.once().await;
    w.publish_release(2, true).await;
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 2");
    let newest = w.document();
    drop(agent);
    let old = RolloutDocument {
        revision: newest.revision - 1,
        ..newest.clone()
    };
    w.publish_release(3, true).await;
    w.write_document(&old);
    let mut agent = w.agent();
    w.tell_time();
    agent.once().await;
    assert_eq!(w.waiting().as_deref(), Some("unreadable"));
    assert!(w.status().error.unwrap().message.contains("older"));
    // As it was, but for one byte of what it says.
    w.write_document(&newest);
    let (bytes, _) = w.store.object(DOCUMENT).unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    w.store.set(
        DOCUMENT,
        text.replace("\\\"committed\\\":1", "\\\"committed\\\":0"),
    );
    w.tick(&mut agent).await;
    assert_eq!(w.waiting().as_deref(), Some("unreadable"));
    assert_eq!(gauge(&agent, "unreadable").as_deref(), Some("1"));
    assert_eq!(w.on_disk().unwrap(), "release 2");
    w.write_document(&newest);
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 3");
    assert_eq!(gauge(&agent, "unreadable").as_deref(), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_back_and_is_not_well_again_keeps_its_slot_and_shouts() {
    let mut w = World::rolling().await;
    let health = w.dir.path().join("health");
    std::fs::write(&health, "").unwrap();
    w.rollout = Some(policy(health.clone()));
    let mut agent = w.agent();
    w.publish_release(1, true).await;
    agent.once().await;
    w.publish_release(2, true).await;
    let ill = health.clone();
    w.clock
        .in_next_sleep(move || std::fs::remove_file(ill).unwrap());
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 1");
    let status = w.status();
    let slot = status.rollout.slot.unwrap();
    assert_eq!(slot.transition, Transition::RevertFailed);
    assert!(status.error.unwrap().message.contains("the slot is kept"));
    assert!(!status.rollout.reverted.unwrap().healthy);
    assert_eq!(w.document().holders.len(), 1);
    assert!(w.document().is_halted(number(2)));
    assert!(
        agent
            .metrics
            .text()
            .contains("platform_agent_revert_failed 1")
    );
    std::fs::write(&health, "").unwrap();
    w.tick(&mut agent).await;
    assert!(w.document().holders.is_empty());
    assert_eq!(w.status().rollout.slot, None);
    assert_eq!(w.error_kind(), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_tell_the_time_gives_no_slot() {
    let mut w = World::rolling().await;
    let mut agent = w.agent();
    w.publish_release(1, true).await;
    agent.once().await;
    w.write_document(&RolloutDocument {
        revision: 1,
        ..RolloutDocument::empty()
    });
    w.publish_release(2, true).await;
    *w.store.server_time.lock().unwrap() = None;
    tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 1");
    assert!(
        w.status()
            .error
            .unwrap()
            .message
            .contains("what time it is")
    );
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 2");
}

#[tokio::test(start_paused = true)]
async fn a_new_node_whose_current_release_cannot_be_opened_begins_with_the_good_one() {
    for broken in ["bytes", "gone"] {
        let mut w = World::rolling().await;
        let good = w.release(1, true);
        let good = w.upload(1, "secure", &good).await;
        let current = w.release(2, true);
        let current = w.upload(2, "secure", &current).await;
        let key = keys::target(&"secure".parse().unwrap(), &current.sha256, &current.name);
        match broken {
            "bytes" => w
                .store
                .set(&key, vec![0_u8; usize::try_from(current.length).unwrap()]),
            _ => w.store.remove(&key),
        }
        w.sign(&[current, good]).await;
        let mut agent = w.agent();
        agent.once().await;
        assert_eq!(w.on_disk().as_deref(), Some("release 1"), "{broken}");
        let decided = w.status().rollout.decisions;
        assert!(
            decided[0].result.contains("cannot be opened"),
            "{decided:?}"
        );
        // It goes on asking for the current one, and says why it does not have it.
        w.tick(&mut agent).await;
        assert!(w.error_kind().is_some(), "{broken}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_a_release_without_a_policy_too() {
    let mut w = World::rolling().await;
    w.rollout = None;
    let mut agent = w.agent();
    w.publish_release(1, true).await;
    agent.once().await;
    let paused = RolloutDocument {
        revision: 1,
        paused: Some(Pause {
            by: "ada".to_owned(),
            reason: "a freeze".to_owned(),
            since: w.clock.now(),
            until: None,
        }),
        ..RolloutDocument::empty()
    };
    w.write_document(&paused);
    w.publish_release(2, true).await;
    w.tick(&mut agent).await;
    assert_eq!(w.waiting().as_deref(), Some("paused"));
    assert_eq!(w.on_disk().unwrap(), "release 1");
    let resumed = RolloutDocument {
        revision: 2,
        paused: None,
        ..paused
    };
    w.write_document(&resumed);
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 2");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_not_believed_is_named_and_keeps_a_rollout_from_being_complete() {
    let mut w = World::rolling().await;
    let mut agent = w.agent();
    w.publish_release(1, true).await;
    agent.once().await;
    w.store.set("nodes/secure/role:i-2.json", "{}");
    w.publish_release(2, true).await;
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 2");
    assert_eq!(w.document().good, None);
    let decided = w.status().rollout.decisions;
    let named = |d: &&shared::documents::Decision| {
        d.object.as_deref() == Some("nodes/secure/role:i-2.json")
    };
    assert!(decided.iter().any(|d| named(&d)), "{decided:?}");
    w.store.remove("nodes/secure/role:i-2.json");
    w.publish_release(3, true).await;
    w.tick(&mut agent).await;
    assert_eq!(w.document().good, Some(number(3)));
}

#[tokio::test(start_paused = true)]
async fn nobody_begins_a_rollout_while_another_node_is_dead() {
    let mut w = World::rolling().await;
    let mut agent = w.agent();
    w.publish_release(1, true).await;
    agent.once().await;
    let own: NodeStatus = w.status();
    let dead = NodeStatus {
        node: "role:i-2".parse().unwrap(),
        written_at: own.written_at - SignedDuration::from_mins(30),
        ..own
    };
    let key = "nodes/secure/role:i-2.json";
    let bound = keys::bound_name(&"dev".parse().unwrap(), key);
    let seal = |s: &NodeStatus| seal_node_object(s, &bound, Some(&w.group_key)).unwrap();
    w.store.set(key, seal(&dead));
    let alive = NodeStatus {
        written_at: w.clock.now(),
        ..dead
    };
    let alive = seal(&alive);
    w.publish_release(2, true).await;
    w.tick(&mut agent).await;
    assert_eq!(w.waiting().as_deref(), Some("capacity"));
    assert_eq!(w.on_disk().unwrap(), "release 1");
    // It is back: it takes its trace out of the document when it asks, as here somebody does for it.
    w.store.set(key, alive);
    let back = RolloutDocument {
        revision: w.document().revision + 1,
        unavailable: Vec::new(),
        ..w.document()
    };
    w.write_document(&back);
    w.tick(&mut agent).await;
    assert_eq!(w.on_disk().unwrap(), "release 2");
    let halt: Option<Halt> = w.document().halted;
    assert_eq!(halt, None);
    assert_ne!(w.document().nonce, Nonce::of(0));
}
