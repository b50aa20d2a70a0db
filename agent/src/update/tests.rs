use super::*;

fn digest(text: &str) -> Sha256Digest {
    Sha256Digest::of(text.as_bytes())
}

fn wanted(text: &str) -> AgentTarget {
    AgentTarget {
        target: "platform-agent-2".into(),
        sha256: digest(text),
        bytes: text.len() as u64,
        version: "2.0 beta".into(),
    }
}

struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/platform-agent"), "old").unwrap();
        Self(dir)
    }

    fn updater(&self, own: &str) -> Updater {
        Updater::of(self.0.path(), digest(own), Duration::from_secs(600)).unwrap()
    }

    fn file(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.path().join(name)).ok()
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn install(&self, text: &str) {
        // Opening sweeps what a killed process left.
        let updater = self.updater("old");
        let fetched = self.0.path().join("bin/.platform-agent-x");
        fs::write(&fetched, text).unwrap();
        updater.install(&fetched, &wanted(text)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_binary_is_on_trial_until_it_has_confirmed_a_poll() {
    let machine = Machine::new();
    assert_eq!(
        machine.updater("old").choose(Some(&wanted("new"))),
        Choice::Install
    );
    machine.install("new");
    assert_eq!(machine.file("bin/platform-agent").unwrap(), "new");
    assert_eq!(machine.file("bin/platform-agent.old").unwrap(), "old");
    let attempt = format!("{} 2.0beta\n", digest("new"));
    assert_eq!(machine.file("update/attempt").unwrap(), attempt);

    machine.put("update/starts", "2\n");
    let mut updater = machine.updater("new");
    assert_eq!(updater.choose(Some(&wanted("new"))), Choice::Current);
    assert!(!updater.has_failed());
    tokio::time::advance(Duration::from_secs(600)).await;
    assert!(updater.has_failed(), "it had its time");
    updater.confirmed().unwrap();
    assert!(!updater.has_failed());
    assert_eq!(machine.file("update/attempt"), None);
    assert_eq!(machine.file("update/starts"), None);
}

#[tokio::test]
async fn an_interrupted_update_is_no_trial() {
    let machine = Machine::new();
    fs::create_dir_all(machine.0.path().join("update")).unwrap();
    machine.put("update/attempt", &format!("{} 2\n", digest("new")));
    let updater = machine.updater("old");
    assert!(!updater.on_trial);
    assert_eq!(machine.file("update/attempt"), None);
    assert_eq!(updater.choose(Some(&wanted("new"))), Choice::Install);
}

#[tokio::test]
async fn what_was_put_back_is_rejected_unless_the_store_was_the_reason() {
    let machine = Machine::new();
    fs::create_dir_all(machine.0.path().join("update")).unwrap();
    let rolled_back = || {
        machine.put(
            "update/rejected",
            &format!("{}\n{}\n", digest("worse"), digest("new")),
        );
        machine.put("update/rolled-back", &format!("{}\n", digest("new")));
    };
    rolled_back();
    let mut updater = machine.updater("old");
    assert_eq!(updater.choose(Some(&wanted("new"))), Choice::Rejected);
    assert_eq!(updater.choose(Some(&wanted("newer"))), Choice::Install);
    updater.confirmed().unwrap();
    // A failure later on says nothing about the new one.
    updater.poll_failed().unwrap();
    assert_eq!(
        machine.updater("old").choose(Some(&wanted("new"))),
        Choice::Rejected
    );

    rolled_back();
    let mut updater = machine.updater("old");
    updater.poll_failed().unwrap();
    updater.confirmed().unwrap();
    let updater = machine.updater("old");
    assert_eq!(updater.choose(Some(&wanted("new"))), Choice::Install);
    assert_eq!(updater.choose(Some(&wanted("worse"))), Choice::Rejected);
}

/// The guard, as systemd runs it.
fn guard(machine: &Machine) {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/dist/libexec/platform-agent-guard"
    );
    let run = std::process::Command::new("sh")
        .arg(script)
        .arg(machine.0.path())
        .output();
    let run = run.unwrap();
    assert!(run.status.success(), "{run:?}");
}

#[tokio::test]
async fn the_guard_puts_the_old_binary_back_after_three_starts() {
    let machine = Machine::new();
    guard(&machine);
    assert_eq!(
        machine.file("bin/platform-agent").unwrap(),
        "old",
        "no update, no trial"
    );
    machine.install("new");
    for _ in 0..3 {
        guard(&machine);
        assert_eq!(machine.file("bin/platform-agent").unwrap(), "new");
    }
    guard(&machine);
    assert_eq!(machine.file("bin/platform-agent").unwrap(), "old");
    assert_eq!(
        machine.updater("old").choose(Some(&wanted("new"))),
        Choice::Rejected
    );
    assert_eq!(machine.file("update/attempt"), None);

    // Not where the new binary never was in its place, nor for a counter that is no number.
    machine.put("update/attempt", &format!("{} 2\n", digest("other")));
    machine.put("update/starts", "9\n");
    guard(&machine);
    assert_eq!(machine.file("bin/platform-agent").unwrap(), "old");
    machine.install("third");
    machine.put("update/starts", "$(reboot)\n");
    guard(&machine);
    assert_eq!(machine.file("update/starts").unwrap(), "1\n");
    // A binary that is gone is put back at once.
    fs::remove_file(machine.0.path().join("bin/platform-agent")).unwrap();
    guard(&machine);
    assert_eq!(machine.file("bin/platform-agent").unwrap(), "old");
}
