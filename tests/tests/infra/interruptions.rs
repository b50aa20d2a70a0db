//! Interrupted within each step of `run`, and run again: it ends where a run that nobody interrupted ends.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::comparable::comparable;
use crate::desk::Desk;

/// A step, the request of it that is held while the signal comes, and how many of these are let through before.
const STEPS: [(&str, &str, usize); 6] = [
    ("doctor", "TrentService.DescribeKey", 0),
    ("buckets", "PUT /example-dev-terraform/?versioning", 0),
    (
        "keyring",
        "PUT /example-dev-secrets/operator/keyring.json",
        0,
    ),
    // Doctor, and the step of the keyring several times, read it before.
    ("build", "GET /example-dev-secrets/operator/keyring.json", 4),
    (
        "publish",
        "PUT /example-dev-secrets/groups/compute/metadata/timestamp.json",
        0,
    ),
    ("apply", "Action=CreateVpc", 0),
];

/// What a run leaves, without what depends on how often it was begun.
fn end_of(signal: Option<Signal>) -> Option<Value> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let desk = runtime.block_on(Desk::new())?;
    desk.own_terraform();
    if let Some(signal) = signal {
        for step in STEPS {
            interrupted(&desk, step, signal);
        }
    }
    desk.start_run().end().with(0, &["==> instances"]);
    let seen = desk.observe();
    let locks = seen["buckets"]["example-dev-terraform"]["keys"].to_string();
    assert!(!locks.contains("tflock"), "{locks}");
    Some(comparable(&desk, &seen))
}

fn interrupted(desk: &Desk, (step, request, skip): (&str, &str, usize), signal: Signal) {
    desk.hold(request, skip);
    let run = desk.start_run();
    desk.until_held();
    run.signal(signal);
    // A request that is under way when its sender dies is answered all the same. And the engine goes on to its end.
    if signal == Signal::SIGKILL || step == "apply" {
        desk.release();
    }
    let ended = run.end();
    desk.release();
    assert!(!ended.status.success(), "{step}: {}", ended.said);
    let begun: Vec<&str> = ended
        .said
        .lines()
        .filter_map(|line| line.strip_prefix("==> "))
        .collect();
    assert_eq!(begun.last(), Some(&step), "{signal}: {}", ended.said);
    if signal == Signal::SIGINT {
        ended.with(1, &["interrupted"]);
    }
}

#[test]
fn wherever_it_is_interrupted_it_ends_in_the_same_place() {
    let ends = std::thread::scope(|scope| {
        [None, Some(Signal::SIGINT), Some(Signal::SIGKILL)]
            .map(|signal| scope.spawn(move || end_of(signal)))
            .map(|thread| thread.join().unwrap())
    });
    let [Some(reference), Some(asked), Some(killed)] = ends else {
        return;
    };
    assert_ne!(reference["groups"], json!([]), "it has made something");
    assert_eq!(asked, reference, "after SIGINT in each step");
    assert_eq!(killed, reference, "after SIGKILL in each step");
}
