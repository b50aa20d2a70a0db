//! 10, 100 and 1,000 agents' real loops in one process, on the embedded store in the same process: requests a second
//! at rest, and how long from a publish until each node has adopted it.
//!
//! The poll period is the default of ten seconds, with its jitter. All nodes write to this machine's one disk and share
//! its processors, which the nodes of a real group do not. No node watches its files with inotify: a machine has 128
//! instances for a user, and 1,000 agents here would count 872 errors that no node of its own has. `BENCH_FLEET` names other sizes (`10,100`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent::config::Config;
use agent::drift::DriftWatch;
use agent::engine::Agent;
use agent::metrics::Metrics;
use agent::parts;
use anyhow::{Context as _, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use platform_tests::measure::knob;
use platform_tests::measure::report::{Samples, Table, head};
use platform_tests::measure::stand::{Filling, NodeSettings, Stand};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The default poll period of a node, in seconds.
const POLL_SECONDS: u64 = 10;
/// How long requests at rest are counted.
const AT_REST: Duration = Duration::from_secs(20);
/// How long all nodes together may take to adopt.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often is looked who has adopted.
const GLANCE: Duration = Duration::from_millis(20);

struct Figures {
    nodes: usize,
    requests: f64,
    cores: f64,
    delays: Samples,
    adopting: Samples,
    refused: u64,
    missing: usize,
    errors: BTreeMap<String, u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    raise_open_files()?;
    let sizes: String = knob("BENCH_FLEET", "10,100,1000".to_owned());
    let files: usize = knob("BENCH_FLEET_FILES", 10);
    let mut table = Table::new(&[
        "nodes",
        "requests/s at rest",
        "cores at rest, store included",
        "publish to adopted, p50",
        "p99",
        "last",
        "adoption on the node, p50",
        "p99",
        "not adopted",
        "refused or 5xx",
        "errors of the agents",
    ]);
    for (at, size) in sizes.split(',').enumerate() {
        let nodes: usize = size
            .trim()
            .parse()
            .context("BENCH_FLEET: sizes with commas between")?;
        let stand = Stand::new().await?;
        if at == 0 {
            head("fleet", "many agents on one store", stand.directory());
            println!(
                "Each release has {files} files of 4 KiB, all different from the one before.\n"
            );
        }
        let f = measure(&stand, nodes, Filling::of_4_kib(files)).await?;
        let errors: Vec<String> = f
            .errors
            .iter()
            .map(|(what, n)| format!("{n} {what}"))
            .collect();
        table.row(&[
            &f.nodes.to_string(),
            &format!("{:.1}", f.requests),
            &format!("{:.2}", f.cores),
            &format!("{:.1} s", f.delays.quantile(0.5)),
            &format!("{:.1} s", f.delays.quantile(0.99)),
            &format!("{:.1} s", f.delays.quantile(1.0)),
            &format!("{:.0} ms", f.adopting.quantile(0.5)),
            &format!("{:.0} ms", f.adopting.quantile(0.99)),
            &f.missing.to_string(),
            &f.refused.to_string(),
            &if errors.is_empty() {
                "none".to_owned()
            } else {
                errors.join(", ")
            },
        ]);
    }
    table.print();
    Ok(())
}

async fn measure(stand: &Stand, nodes: usize, filling: Filling) -> anyhow::Result<Figures> {
    let first = stand.publish_fresh(filling).await?;
    let (stop, stopped) = watch::channel(false);
    let mut fleet = JoinSet::new();
    let mut meters: Vec<Metrics> = Vec::new();
    let settings = NodeSettings {
        endpoint_url: stand.store.endpoint().to_string(),
        metrics_listen: None,
        poll_seconds: POLL_SECONDS,
    };
    // Machines do not start at the same moment either.
    let between = Duration::from_secs(POLL_SECONDS) / u32::try_from(nodes)?;
    for at in 0..nodes {
        let config = Config::load(&stand.node(&format!("node-{at:04}"), &settings)?)?;
        let metrics = Metrics::new(config.poll_interval);
        let mut parts = parts::open(&config, parts::facts(&config)?, metrics).await?;
        parts.drift = DriftWatch::disabled();
        meters.push(parts.metrics.clone());
        fleet.spawn(Agent::new(parts).run(stopped.clone()));
        sleep(between).await;
    }
    let began = Instant::now();
    while meters.iter().any(|m| !has(m, first)) {
        let waiting = meters.iter().filter(|m| !has(m, first)).count();
        ensure!(
            began.elapsed() < PATIENCE,
            "{waiting} of {nodes} nodes did not adopt the first release"
        );
        sleep(GLANCE).await;
    }
    // The statuses that follow an adoption.
    sleep(Duration::from_secs(2)).await;

    let (asked, cpu, since) = (
        stand.store.requests(),
        cpu_of_this_process()?,
        Instant::now(),
    );
    sleep(AT_REST).await;
    let seconds = since.elapsed().as_secs_f64();
    let requests = stand.store.requests().since(&asked).total as f64 / seconds;
    let cores = (cpu_of_this_process()? - cpu).as_secs_f64() / seconds;

    let (asked, sums) = (stand.store.requests(), sums(&meters));
    let second = stand.publish_fresh(filling).await?;
    let published = Instant::now();
    let mut delays = Samples::default();
    let mut waiting: Vec<usize> = (0..nodes).collect();
    while !waiting.is_empty() && published.elapsed() < PATIENCE {
        waiting.retain(|at| {
            let adopted = meters.get(*at).is_some_and(|m| has(m, second));
            if adopted {
                delays.push(published.elapsed().as_secs_f64());
            }
            !adopted
        });
        sleep(GLANCE).await;
    }
    let mut adopting = Samples::default();
    for (metrics, before) in meters.iter().zip(sums) {
        adopting
            .push((value(&metrics.text(), "platform_agent_adoption_seconds_sum") - before) * 1e3);
    }
    let counts = stand.store.requests().since(&asked);
    stop.send_replace(true);
    while fleet.join_next().await.is_some() {}
    Ok(Figures {
        nodes,
        requests,
        cores,
        delays,
        adopting,
        refused: counts.refused + counts.server_errors,
        missing: waiting.len(),
        errors: errors(&meters),
    })
}

/// Each agent has a lock and its connections, with both of their ends in this process.
fn raise_open_files() -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .context("cannot raise the number of open files")?;
    }
    Ok(())
}

fn has(metrics: &Metrics, release: u64) -> bool {
    u64::try_from(metrics.release_number.get()) == Ok(release)
}

fn sums(meters: &[Metrics]) -> Vec<f64> {
    let sum = |m: &Metrics| value(&m.text(), "platform_agent_adoption_seconds_sum");
    meters.iter().map(sum).collect()
}

fn value(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|l| l.trim().parse().ok()).unwrap_or(0.0)
}

/// What all agents counted as failed, by phase and kind.
fn errors(meters: &[Metrics]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for metrics in meters {
        for line in metrics.text().lines() {
            if let Some(rest) = line.strip_prefix("platform_agent_errors_total{")
                && let Some((labels, count)) = rest.split_once("} ")
            {
                *all.entry(labels.replace('"', "")).or_default() += count.parse().unwrap_or(0);
            }
        }
    }
    all
}

fn cpu_of_this_process() -> anyhow::Result<Duration> {
    Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}
