//! The operator's view: looking back at releases, going back to one, and removing what nobody needs. The real binary,
//! against an embedded store.

mod gc;
mod history;
mod rollback;
mod rollouts;
mod steering;

use std::process::{Output, Stdio};

use platform_tests::workspace::Operator;
use serde_json::Value;

/// What a run of platformctl said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The store runs in this process, so the child must not be waited for on its threads.
async fn run(operator: &Operator, arguments: &[&str]) -> Said {
    let mut command = operator.platformctl();
    command
        .args(arguments)
        .env("USER", "tester")
        .stdin(Stdio::null());
    let output: Output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        code: output.status.code().expect("an exit code"),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// Publishes with another count of etcd's, which is a change of one manifest.
async fn publish_count(operator: &Operator, from: u64, to: u64) {
    let count = |n: u64| format!("--terminated-pod-gc-threshold={n}");
    operator
        .amend(
            "secure/kube-controller-manager.yaml.j2",
            &count(from),
            &count(to),
        )
        .unwrap();
    operator.publish().await.unwrap();
}
