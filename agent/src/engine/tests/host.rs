//! What a release asks of the host: installed as signed, or refused with nothing written.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use shared::artifact::write_archive;
use shared::bundle::{Artifact, Mode, Restart, Unpack};
use shared::digest::Sha256Digest;
use shared::names::UnitName;
use shared::store::{StoreErrorKind, keys};
use shared::trust::sign::ListedTarget;

use super::number;
use super::world::{World, pod, tick};
use crate::engine::{Agent, Outcome};
use crate::units::{UnitError, UnitManager};

#[derive(Debug, Default)]
struct Calls {
    made: Mutex<Vec<String>>,
    refuses: std::sync::atomic::AtomicBool,
}

impl Calls {
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.made.lock().unwrap())
    }
}

impl UnitManager for Calls {
    fn restart<'a>(&'a self, unit: &'a UnitName) -> BoxFuture<'a, Result<(), UnitError>> {
        let refuses = self.refuses.load(std::sync::atomic::Ordering::Relaxed);
        let done = if refuses {
            Err(UnitError::Deadline(unit.clone()))
        } else {
            self.made.lock().unwrap().push(unit.to_string());
            Ok(())
        };
        Box::pin(std::future::ready(done))
    }
}

fn agent(w: &World) -> (Agent, Arc<Calls>) {
    let calls = Arc::new(Calls::default());
    let mut agent = w.agent();
    agent.units = calls.clone();
    agent.restart_units = vec![
        "kubelet.service".parse().unwrap(),
        "containerd.service".parse().unwrap(),
    ];
    (agent, calls)
}

fn artifact(path: &str, bytes: &[u8], unpack: Unpack) -> Artifact {
    Artifact {
        name: "kubelet".to_owned(),
        target: "kubelet-v1".to_owned(),
        sha256: Sha256Digest::of(bytes),
        bytes: bytes.len() as u64,
        path: path.to_owned(),
        mode: Mode::new(0o755),
        unpack,
        restart: Some("kubelet.service".parse().unwrap()),
    }
}

fn listed(artifact: &Artifact) -> ListedTarget {
    ListedTarget {
        name: artifact.target.clone(),
        length: artifact.bytes,
        sha256: artifact.sha256,
        custom: HashMap::new(),
    }
}

fn key(artifact: &Artifact) -> String {
    keys::target(
        &"secure".parse().unwrap(),
        &artifact.sha256,
        &artifact.target,
    )
}

/// The world publishes with this artifact from now on, and its bytes are `bytes`.
fn publish_with(w: &mut World, artifact: &Artifact, bytes: &[u8]) {
    w.store.set(&key(artifact), bytes.to_vec());
    w.listed = vec![listed(artifact)];
    w.artifacts = vec![artifact.clone()];
}

fn on_host(w: &World, path: &str) -> Option<String> {
    std::fs::read_to_string(w.dir.path().join("root").join(path)).ok()
}

#[tokio::test(start_paused = true)]
async fn an_artifact_is_installed_once_and_its_unit_restarted_once() {
    let mut w = World::new().await;
    let (mut agent, calls) = agent(&w);
    let one = artifact("/opt/bin/kubelet", b"one", Unpack::None);
    publish_with(&mut w, &one, b"one");
    w.publish(1).await;
    assert_eq!(agent.once().await, Outcome::Adopted(number(1)));
    assert_eq!(on_host(&w, "opt/bin/kubelet").unwrap(), "one");
    assert_eq!(calls.taken(), ["kubelet.service"]);
    w.store.requests();
    w.publish(2).await;
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(2)));
    let asked = w.store.requests();
    assert!(!asked.iter().any(|r| r.contains("kubelet-v1")), "{asked:?}");
    assert!(calls.taken().is_empty());

    // Edited: put back from the store, without a restart.
    std::fs::write(w.dir.path().join("root/opt/bin/kubelet"), "evil").unwrap();
    tick(&mut agent).await;
    assert_eq!(on_host(&w, "opt/bin/kubelet").unwrap(), "one");
    assert!(calls.taken().is_empty());
    w.artifacts.clear();
    w.listed.clear();
    w.publish(3).await;
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(3)));
    assert_eq!(on_host(&w, "opt/bin/kubelet"), None);
    assert!(calls.taken().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_unit_does_not_restart_is_adopted_and_not_done() {
    let mut w = World::new().await;
    let (mut agent, calls) = agent(&w);
    let one = artifact("/opt/bin/kubelet", b"one", Unpack::None);
    publish_with(&mut w, &one, b"one");
    calls
        .refuses
        .store(true, std::sync::atomic::Ordering::Relaxed);
    w.publish(1).await;
    let outcome = agent.once().await;
    assert_eq!(outcome, Outcome::Adopted(number(1)));
    let error = crate::commands::ended(&agent, outcome).unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("adopted release 1, but "), "{error}");
    assert!(error.contains("kubelet.service"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn units_restart_when_a_file_they_read_changed_or_went_and_not_otherwise() {
    let mut w = World::new().await;
    let (mut agent, calls) = agent(&w);
    let path: shared::names::EntryPath = "host/kubelet.yaml".parse().unwrap();
    let more: shared::names::EntryPath = "host/more.yaml".parse().unwrap();
    let restart = |on: &[&shared::names::EntryPath]| Restart {
        unit: "kubelet.service".parse().unwrap(),
        on: on.iter().map(|p| (*p).clone()).collect(),
    };
    w.restarts = vec![restart(&[&path])];
    w.publish(1).await;
    agent.once().await;
    assert_eq!(calls.taken(), ["kubelet.service"], "it appeared");
    w.publish(2).await;
    tick(&mut agent).await;
    assert!(calls.taken().is_empty(), "only a manifest changed");
    let mut files = w.files(pod("3"));
    files.insert(more.clone(), b"more".to_vec());
    w.restarts = vec![restart(&[&path, &more])];
    w.publish_files(3, &files).await;
    tick(&mut agent).await;
    assert_eq!(calls.taken(), ["kubelet.service"], "one more appeared");
    w.restarts = vec![restart(&[&path])];
    let files = w.files(pod("4"));
    w.publish_files(4, &files).await;
    // systemd cannot be reached: it stays due, and the release is on the disk all the same.
    calls
        .refuses
        .store(true, std::sync::atomic::Ordering::Relaxed);
    tick(&mut agent).await;
    assert_eq!(agent.release(), Some(number(4)));
    assert_eq!(w.error_kind().unwrap(), "unit");
    drop(agent);
    let (mut agent, calls) = self::agent(&w);
    agent.once().await;
    assert_eq!(
        calls.taken(),
        ["kubelet.service"],
        "it went, and a restart of the agent lost nothing"
    );
    assert_eq!(w.error_kind(), None);
    tick(&mut agent).await;
    assert!(calls.taken().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_signed_or_not_allowed_is_refused_and_nothing_is_written() {
    let good = artifact("/opt/bin/kubelet", b"one", Unpack::None);
    let link = {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_path("link").unwrap();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_link_name("/etc/shadow").unwrap();
        header.set_size(0);
        header.set_cksum();
        archive.append(&header, &[][..]).unwrap();
        zstd::encode_all(&archive.into_inner().unwrap()[..], 1).unwrap()
    };
    type Change<'a> = Box<dyn Fn(&mut World) + 'a>;
    let attacks: Vec<(&str, &str, Change<'_>)> = vec![
        ("not listed", "host", Box::new(|w| w.listed.clear())),
        (
            "listed longer",
            "host",
            Box::new(|w| w.listed[0].length += 1),
        ),
        (
            "listed as other bytes",
            "host",
            Box::new(|w| w.listed[0].sha256 = Sha256Digest::of(b"x")),
        ),
        (
            "outside",
            "host",
            Box::new(|w| w.artifacts[0].path = "/usr/bin/kubelet".to_owned()),
        ),
        (
            "a forbidden unit",
            "host",
            Box::new(|w| w.artifacts[0].restart = Some("sshd.service".parse().unwrap())),
        ),
        (
            "other bytes",
            "mismatch",
            Box::new(|w| w.store.set(&key(&good), b"two".to_vec())),
        ),
        (
            "longer",
            "too_large",
            Box::new(|w| w.store.set(&key(&good), b"longer".to_vec())),
        ),
        (
            "cut off",
            "mismatch",
            Box::new(|w| w.store.set(&key(&good), b"o".to_vec())),
        ),
        (
            "a link in an archive",
            "artifact",
            Box::new(|w| {
                let bad = artifact("/opt/cni/bin", &link, Unpack::TarZst);
                publish_with(w, &bad, &link);
            }),
        ),
        (
            "no archive",
            "artifact",
            Box::new(|w| {
                let bad = artifact("/opt/cni/bin", b"no archive", Unpack::TarZst);
                publish_with(w, &bad, b"no archive");
            }),
        ),
    ];
    for (what, kind, attack) in attacks {
        let mut w = World::new().await;
        let (mut agent, calls) = agent(&w);
        w.publish(1).await;
        agent.once().await;
        publish_with(&mut w, &good, b"one");
        attack(&mut w);
        w.publish(2).await;
        assert_eq!(tick(&mut agent).await, Outcome::Failed, "{what}");
        assert_eq!(w.error_kind().unwrap(), kind, "{what}");
        assert_eq!(w.on_disk().unwrap(), "release 1", "{what}");
        for place in ["opt/bin/kubelet", "opt/cni/bin/link", "usr/bin/kubelet"] {
            assert!(!w.dir.path().join("root").join(place).exists(), "{what}");
        }
        let leftovers = std::fs::read_dir(w.dir.path().join("root/opt/bin"));
        assert_eq!(leftovers.map_or(0, Iterator::count), 0, "{what}");
        assert!(calls.taken().is_empty(), "{what}");
        // The next release without it is adopted.
        w.artifacts.clear();
        w.listed.clear();
        w.publish(3).await;
        assert_eq!(
            tick(&mut agent).await,
            Outcome::Adopted(number(3)),
            "{what}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_artifact_that_cannot_be_fetched_now_is_fetched_later_and_kms_is_asked_once() {
    let mut w = World::new().await;
    let (mut agent, _) = agent(&w);
    let files: BTreeMap<_, _> = [("bridge".parse().unwrap(), b"b".to_vec())].into();
    let bytes = write_archive(&files, Vec::new()).unwrap();
    let cni = artifact("/opt/cni/bin", &bytes, Unpack::TarZst);
    publish_with(&mut w, &cni, &bytes);
    w.store.fail("kubelet-v1", StoreErrorKind::Unavailable);
    w.publish(1).await;
    assert_eq!(agent.once().await, Outcome::Failed);
    assert_eq!(w.error_kind().unwrap(), "unavailable");
    assert_eq!(w.on_disk(), None);
    w.store.mend();
    assert_eq!(tick(&mut agent).await, Outcome::Adopted(number(1)));
    assert_eq!(on_host(&w, "opt/cni/bin/bridge").unwrap(), "b");
    let unwrapped = w.wrap.unwrapped.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(unwrapped, 1);
}
