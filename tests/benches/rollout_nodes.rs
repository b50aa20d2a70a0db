//! Three real secure nodes, one after another: from the publish until the rollout is known to be complete. The probe succeeds at
//! once and need not settle, so what is left is the protocol's own time, at most of it waiting for polls.
//!
//! `BENCH_RUNS` rollouts (5) at the default poll period of ten seconds, and as many at one second.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ctl::env::SECURE;
use ctl::publish::Publication;
use platform_tests::measure::knob;
use platform_tests::measure::node::{AgentProcess, agent_binary, free_address};
use platform_tests::measure::report::{Samples, Table, head};
use platform_tests::measure::stand::{Filling, NodeSettings, Stand};
use shared::names::ReleaseNumber;
use tokio::time::sleep;

const NODES: u32 = 3;
/// How long one rollout may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often is looked how far it is.
const GLANCE: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let runs: usize = knob("BENCH_RUNS", 5);
    let mut table = Table::new(&[
        "poll period",
        "publish to the first node",
        "to the last",
        "to complete",
        "requests a node",
        "most in transition",
    ]);
    for (at, poll_seconds) in [10, 1].into_iter().enumerate() {
        let stand = Stand::new().await?;
        if at == 0 {
            head(
                "rollout_nodes",
                "three real secure nodes one after another",
                stand.directory(),
            );
        }
        measure(&stand, poll_seconds, runs, &mut table).await?;
    }
    table.print();
    Ok(())
}

async fn measure(
    stand: &Stand,
    poll_seconds: u64,
    runs: usize,
    table: &mut Table,
) -> anyhow::Result<()> {
    let mut release = publish(stand).await?;
    let mut nodes = Vec::new();
    for n in 0..NODES {
        let metrics = free_address()?;
        let settings = NodeSettings {
            endpoint_url: stand.store.endpoint().to_string(),
            metrics_listen: Some(metrics),
            poll_seconds,
        };
        let config = stand.node(&format!("node-{n}"), &settings)?;
        nodes.push(AgentProcess::start(
            &agent_binary()?,
            &config,
            metrics,
            None,
        )?);
        // Machines do not start at the same moment either.
        sleep(Duration::from_secs(poll_seconds) / NODES).await;
    }
    for node in &nodes {
        node.until_release(release).await?;
    }
    let mut first = Samples::default();
    let mut last = Samples::default();
    let mut complete = Samples::default();
    let mut requests = Samples::default();
    let mut most = 0;
    for _ in 0..runs {
        let before = stand.store.requests();
        release = publish(stand).await?;
        let published = stand.store.requests().since(&before).total;
        let began = Instant::now();
        let (mut seen_first, mut seen_last) = (None, None);
        loop {
            let number = release as f64;
            let has = |n: &&AgentProcess| n.metric("platform_agent_release_number") == Some(number);
            let count = nodes.iter().filter(has).count();
            if count > 0 {
                seen_first.get_or_insert_with(|| began.elapsed());
            }
            if count == nodes.len() {
                seen_last.get_or_insert_with(|| began.elapsed());
            }
            if let Some(document) = stand.rollout()? {
                most = most.max(document.holders.len());
                ensure!(document.halted.is_none(), "halted: {document:?}");
                if document.good.map(ReleaseNumber::get) == Some(release) {
                    break;
                }
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "release {release} was not rolled out"
            );
            sleep(GLANCE).await;
        }
        complete.push(began.elapsed().as_secs_f64());
        first.push(seen_first.context("a first node")?.as_secs_f64());
        // The last one gives its slot back a moment before it is asked here.
        last.push(seen_last.unwrap_or_else(|| began.elapsed()).as_secs_f64());
        let total = stand.store.requests().since(&before).total - published;
        requests.push(total as f64 / f64::from(NODES));
    }
    table.row(&[
        &format!("{poll_seconds} s"),
        &first.spread("s"),
        &last.spread("s"),
        &complete.spread("s"),
        &requests.spread(""),
        &most.to_string(),
    ]);
    Ok(())
}

/// Publishes three fresh files with a policy whose probe succeeds as soon as it is asked; the release's number.
async fn publish(stand: &Stand) -> anyhow::Result<u64> {
    stand.fill(Filling::of_4_kib(3))?;
    let policy = format!(
        "max_unavailable: 1\ndeadline: 60s\nsettle: 0s\nprobes:\n  - name: store\n    tcp: {{address: \"{}\"}}\n    \
         period: 100ms\n    timeout: 1s\n    failure_threshold: 10\n",
        stand.store.addr()
    );
    let path = stand.directory().join("manifests").join(SECURE);
    fs::write(path.join("rollout.yaml"), policy)?;
    match stand.publish().await? {
        Publication::Released { release, .. } => Ok(release.get()),
        other => anyhow::bail!("a release was expected, not {other:?}"),
    }
}
