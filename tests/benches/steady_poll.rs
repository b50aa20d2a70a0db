//! What a node costs while nothing is published: requests, processor time, memory and writes a poll, over TLS.
//!
//! The static agent polls the embedded store through a proxy on loopback that ends TLS, after it adopted a release
//! that is nearly as large as one may be, and again after one of the usual size. `BENCH_POLLS` sets how many polls are measured, a second each.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use http::{Method, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use platform_tests::measure::knob;
use platform_tests::measure::node::{AgentProcess, agent_binary, free_address};
use platform_tests::measure::report::{Samples, Table, head};
use platform_tests::measure::stand::{Filling, NodeSettings, Stand};
use platform_tests::measure::tls_front::{Passed, TlsFront};

/// Polls before the first that counts: connecting, and what follows an adoption, up to the removal of what the release
/// before has left, which waits for the end of the pods that used it.
const WARM_UP: usize = 65;
/// Polls of an agent that adopts nothing, before it is looked at.
const CONNECTING: usize = 5;
/// Polls a chunk, of which the median is shown beside the mean.
const CHUNK: usize = 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let polls: usize = knob("BENCH_POLLS", 120);
    let traced: usize = knob("BENCH_TRACED_POLLS", 20);
    let agent = agent_binary()?;
    let stand = Stand::new().await?;
    head("steady_poll", "a node at rest, over TLS", stand.directory());
    let filling = Filling::full_size();
    let release = stand.publish_fresh(filling).await?;
    let front = TlsFront::start(stand.store.addr(), stand.directory()).await?;
    let settings = NodeSettings {
        endpoint_url: front.endpoint_url(),
        metrics_listen: Some(free_address()?),
        poll_seconds: 1,
    };
    let config = stand.node("steady", &settings)?;
    let metrics = settings.metrics_listen.context("metrics")?;
    let node = AgentProcess::start(&agent, &config, metrics, Some(front.authority()))?;
    node.until_release(release).await?;
    let adopted = node.memory()?;
    let large = at_rest(&front, &node, polls).await?;
    let peak = node.memory()?.peak;
    println!(
        "First a release of {} files of {} KiB, then one of 30 files of 4 KiB; a poll a second.\n",
        filling.files,
        (filling.random + filling.padding) / 1024,
    );
    let mut table = Table::new(&["1,000 files", "measured", "goal", ""]);
    large.show(&mut table, false);
    table.goal(
        &format!("resident after {} polls", large.polls),
        &mib(large.resident_after()),
        "10 MiB",
        large.resident_after() <= 10 * 1024,
    );
    table.row(&["resident just after the adoption", &mib(adopted.resident)]);
    table.row(&["resident at its peak (the adoption)", &mib(peak)]);
    table.print();
    large.show_curve();

    let release = stand.publish_fresh(Filling::of_4_kib(30)).await?;
    node.until_release(release).await?;
    let small = at_rest(&front, &node, polls.min(120)).await?;
    let mut table = Table::new(&["30 files", "measured", "goal", ""]);
    small.show(&mut table, true);
    table.row(&["resident", &mib(small.resident_after())]);
    table.print();
    drop(node);

    // What an agent holds that never saw the large release.
    let node = AgentProcess::start(&agent, &config, metrics, Some(front.authority()))?;
    node.until_release(release).await?;
    until_polls(&front, polls_of(&front.passed()) + CONNECTING).await;
    println!(
        "An agent started on the 30 files on disk: {} resident.\n",
        mib(node.memory()?.resident)
    );
    match trace(&front, node.pid(), stand.directory(), traced).await {
        Ok(calls) => show_calls(&calls),
        Err(error) => println!("system calls were not counted: {error:#}\n"),
    }
    Ok(())
}

/// What a number of polls cost.
struct Rest {
    polls: usize,
    unchanged: usize,
    statuses: usize,
    others: usize,
    connections: usize,
    cpu: Duration,
    chunks: Samples,
    written: u64,
    /// Polls so far, and KiB resident then.
    resident: Vec<(usize, u64)>,
}

async fn at_rest(front: &TlsFront, node: &AgentProcess, polls: usize) -> anyhow::Result<Rest> {
    let begun = until_polls(front, polls_of(&front.passed()) + WARM_UP).await;
    let (seen, connections) = (front.passed().len(), front.connections());
    let (cpu, written) = (node.cpu()?, node.disk_writes()?);
    let mut chunks = Samples::default();
    let mut resident = vec![(0, node.memory()?.resident)];
    let (mut done, mut so_far) = (0, cpu);
    while done < polls {
        let next = (done + CHUNK).min(polls);
        until_polls(front, begun + next).await;
        let now = node.cpu()?;
        chunks.push_ms((now - so_far) / u32::try_from(next - done)?);
        (done, so_far) = (next, now);
        resident.push((done, node.memory()?.resident));
    }
    let window = front.passed().split_off(seen);
    let polls = polls_of(&window);
    let statuses = window.iter().filter(|p| p.method == Method::PUT).count();
    Ok(Rest {
        polls,
        unchanged: window
            .iter()
            .filter(|p| is_poll(p) && p.status == StatusCode::NOT_MODIFIED)
            .count(),
        statuses,
        others: window.len() - polls - statuses,
        connections: front.connections() - connections,
        cpu: node.cpu()? - cpu,
        chunks,
        written: node.disk_writes()? - written,
        resident,
    })
}

impl Rest {
    fn resident_after(&self) -> u64 {
        self.resident.last().map_or(0, |(_, kib)| *kib)
    }

    fn show(&self, table: &mut Table, cpu_has_a_goal: bool) {
        let each = self.cpu.as_secs_f64() * 1e3 / self.polls as f64;
        let first = self.resident.first().map_or(0, |(_, kib)| *kib);
        let grown = self.resident_after().saturating_sub(first);
        table.row(&[
            "polls",
            &format!(
                "{}, {} of them answered 304; {} status PUTs",
                self.polls, self.unchanged, self.statuses
            ),
        ]);
        table.goal(
            "requests a poll, the status aside",
            &format!("{:.3}", 1.0 + self.others as f64 / self.polls as f64),
            "exactly 1",
            self.others == 0,
        );
        table.goal(
            "new connections",
            &self.connections.to_string(),
            "0",
            self.connections == 0,
        );
        let mean = format!("{each:.3} ms");
        if cpu_has_a_goal {
            table.goal("CPU a poll, mean", &mean, "1 ms", each <= 1.0);
        } else {
            table.row(&["CPU a poll, mean", &mean]);
        }
        table.row(&[
            "CPU a poll, chunks of 20 polls",
            &chunks_shown(&self.chunks),
        ]);
        table.goal(
            "grown between first and last poll",
            &format!("{grown} KiB"),
            "0",
            grown < 128,
        );
        table.goal(
            "bytes written to disk",
            &self.written.to_string(),
            "0",
            self.written == 0,
        );
    }

    fn show_curve(&self) {
        let curve: Vec<String> = self
            .resident
            .iter()
            .step_by((self.resident.len() / 10).max(1))
            .map(|(at, kib)| format!("{at}: {kib}"))
            .collect();
        println!("resident KiB by poll: {}\n", curve.join(", "));
    }
}

fn is_poll(passed: &Passed) -> bool {
    passed.method == Method::GET && passed.path.ends_with("/timestamp.json")
}

fn polls_of(passed: &[Passed]) -> usize {
    passed.iter().filter(|p| is_poll(p)).count()
}

/// Waits for this many polls in all, and a moment more for what a poll does after its answer; gives how many there are.
async fn until_polls(front: &TlsFront, count: usize) -> usize {
    loop {
        let now = polls_of(&front.passed());
        if now >= count {
            tokio::time::sleep(Duration::from_millis(200)).await;
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn mib(kib: u64) -> String {
    format!("{:.2} MiB", kib as f64 / 1024.0)
}

fn chunks_shown(chunks: &Samples) -> String {
    format!(
        "median {:.3} ms ({:.3} to {:.3})",
        chunks.median(),
        chunks.quantile(0.0),
        chunks.quantile(1.0)
    )
}

/// System calls by name, how many polls they are of, and those that may reach a disk.
struct Calls {
    polls: usize,
    by_name: BTreeMap<String, usize>,
    to_disk: Vec<String>,
}

/// Follows the agent with strace for some polls.
async fn trace(
    front: &TlsFront,
    pid: Pid,
    directory: &Path,
    polls: usize,
) -> anyhow::Result<Calls> {
    let out = directory.join("strace");
    let mut strace = Command::new("strace")
        .args(["-f", "-y", "-qq", "-p", &pid.to_string(), "-o"])
        .arg(&out)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("strace (Debian package strace)")?;
    let before = polls_of(&front.passed());
    // A poll that was under way when strace came does not count.
    let started = until_polls(front, before + 1).await;
    let skip = fs::read_to_string(&out).unwrap_or_default().lines().count();
    let ended = until_polls(front, started + polls).await;
    let text = fs::read_to_string(&out)?;
    kill(Pid::from_raw(i32::try_from(strace.id())?), Signal::SIGINT)?;
    strace.wait()?;
    let mut calls = Calls {
        polls: ended - started,
        by_name: BTreeMap::new(),
        to_disk: Vec::new(),
    };
    for line in text.lines().skip(skip) {
        // "PID name(arguments) = result"; the second half of an interrupted call is the same call.
        let call = line
            .split_once(' ')
            .map_or(line, |(_, rest)| rest.trim_start());
        let Some((name, arguments)) = call.split_once('(') else {
            continue;
        };
        if name.starts_with('<') {
            continue;
        }
        *calls.by_name.entry(name.to_owned()).or_default() += 1;
        if reaches_disk(name, arguments) {
            calls.to_disk.push(call.chars().take(120).collect());
        }
    }
    anyhow::ensure!(
        !calls.by_name.is_empty(),
        "strace saw nothing: may it trace here?"
    );
    Ok(calls)
}

fn reaches_disk(name: &str, arguments: &str) -> bool {
    match name {
        "open" | "openat" => ["O_WRONLY", "O_RDWR", "O_CREAT"]
            .iter()
            .any(|f| arguments.contains(f)),
        // strace -y shows the path behind a descriptor: "9</path>", "7<socket:[123]>".
        "write" | "writev" | "pwrite64" => arguments
            .split_once('<')
            .is_some_and(|(_, what)| what.starts_with('/') && !what.starts_with("/dev/")),
        "fsync" | "fdatasync" | "rename" | "renameat" | "renameat2" | "unlink" | "unlinkat"
        | "mkdir" | "mkdirat" | "ftruncate" | "fchmod" | "fchown" | "linkat" | "symlinkat"
        | "utimensat" => true,
        _ => false,
    }
}

fn show_calls(calls: &Calls) {
    let total: usize = calls.by_name.values().sum();
    let each = |count: usize| format!("{:.1}", count as f64 / calls.polls as f64);
    let mut sorted: Vec<(&String, &usize)> = calls.by_name.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    println!("System calls over {} polls (strace -f):\n", calls.polls);
    let mut table = Table::new(&["what", "measured", "goal", ""]);
    let to_disk = calls.to_disk.len();
    table.goal(
        "calls that can reach a disk",
        &to_disk.to_string(),
        "0",
        to_disk == 0,
    );
    table.row(&["all calls a poll", &each(total)]);
    let most: Vec<String> = sorted
        .iter()
        .take(10)
        .map(|(name, n)| format!("{name} {}", each(**n)))
        .collect();
    table.row(&["the most frequent, a poll", &most.join(", ")]);
    table.print();
    for call in calls.to_disk.iter().take(20) {
        println!("    {call}");
    }
}
