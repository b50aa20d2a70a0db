//! How long a publish takes, what a publish that changes nothing costs, and how long a node takes from seeing a new
//! release to having it durably on disk; for 10, 30, 100 and 1,000 files of 4 KiB, all of them different each time.
//! `BENCH_FILES` names other sizes (`10,30`).

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ctl::publish::Publication;
use http::{Method, StatusCode};
use platform_tests::measure::knob;
use platform_tests::measure::node::{AgentProcess, agent_binary, free_address};
use platform_tests::measure::report::{Samples, Table, head};
use platform_tests::measure::stand::{Filling, NodeSettings, Stand};
use platform_tests::measure::tls_front::{Passed, TlsFront};

/// The size that the goals are for.
const GOAL_FILES: usize = 30;

#[derive(Default)]
struct Figures {
    publish: Samples,
    publish_requests: Samples,
    unchanged: Samples,
    unchanged_requests: Samples,
    adoption: Samples,
    seen_to_reported: Samples,
    adoption_requests: Samples,
    cpu: Samples,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let agent = agent_binary()?;
    let runs: usize = knob("BENCH_RUNS", 15);
    let mut table = Table::new(&[
        "files",
        "publish",
        "requests",
        "publish, nothing new",
        "requests",
        "adoption (agent's metric)",
        "timestamp answered to status sent",
        "requests",
        "CPU of the agent",
    ]);
    let mut goals = Table::new(&["what", "measured", "goal", ""]);
    let sizes: String = knob("BENCH_FILES", "10,30,100,1000".to_owned());
    for (at, size) in sizes.split(',').enumerate() {
        let files: usize = size
            .trim()
            .parse()
            .context("BENCH_FILES: sizes with commas between")?;
        let stand = Stand::new().await?;
        if at == 0 {
            head(
                "adoption",
                "publish, and adoption over TLS",
                stand.directory(),
            );
        }
        let runs = if files >= 1_000 {
            runs.div_ceil(3)
        } else {
            runs
        };
        let f = measure(&stand, &agent, files, runs).await?;
        table.row(&[
            &files.to_string(),
            &f.publish.spread("ms"),
            &format!("{}", f.publish_requests.median()),
            &f.unchanged.spread("ms"),
            &format!("{}", f.unchanged_requests.median()),
            &f.adoption.spread("ms"),
            &f.seen_to_reported.spread("ms"),
            &format!("{}", f.adoption_requests.median()),
            &format!("{:.0} ms", f.cpu.median()),
        ]);
        if files == GOAL_FILES {
            let ms = |s: &Samples| format!("{:.0} ms", s.median());
            let requests = f.unchanged_requests.quantile(1.0);
            goals.goal(
                "publish of 30 files",
                &ms(&f.publish),
                "500 ms",
                f.publish.median() <= 500.0,
            );
            goals.goal(
                "requests of a no-op publish",
                &format!("{requests}"),
                "5",
                requests <= 5.0,
            );
            let (a, b) = (&f.adoption, &f.seen_to_reported);
            goals.goal(
                "release seen to 30 files durable",
                &ms(a),
                "150 ms",
                a.median() <= 150.0,
            );
            goals.goal(
                "the same, seen from outside",
                &ms(b),
                "150 ms",
                b.median() <= 150.0,
            );
        }
    }
    println!(
        "Medians (smallest to largest); the agent's and the publisher's requests are counted apart.\n"
    );
    goals.print();
    table.print();
    Ok(())
}

async fn measure(
    stand: &Stand,
    agent: &std::path::Path,
    files: usize,
    runs: usize,
) -> anyhow::Result<Figures> {
    let filling = Filling::of_4_kib(files);
    let first = stand.publish_fresh(filling).await?;
    let front = TlsFront::start(stand.store.addr(), stand.directory()).await?;
    let settings = NodeSettings {
        endpoint_url: front.endpoint_url(),
        metrics_listen: Some(free_address()?),
        poll_seconds: 1,
    };
    let config = stand.node("adopting", &settings)?;
    let metrics = settings.metrics_listen.context("metrics")?;
    let node = AgentProcess::start(agent, &config, metrics, Some(front.authority()))?;
    node.until_release(first).await?;

    let mut f = Figures::default();
    for _ in 0..runs {
        settle().await;
        let (adopted, cpu) = (adoption_seconds(&node)?, node.cpu()?);
        let seen = front.passed().len();
        stand.fill(filling)?;
        let (done, took, requests) = publish(stand, &front).await?;
        let Publication::Released { release, .. } = done else {
            anyhow::bail!("a release was expected, not {done:?}");
        };
        f.publish.push_ms(took);
        f.publish_requests.push(requests as f64);
        node.until_release(release.get()).await?;
        settle().await;
        f.adoption.push((adoption_seconds(&node)? - adopted) * 1e3);
        f.cpu.push_ms(node.cpu()? - cpu);
        let (took, requests) = outside(&front.passed().split_off(seen))?;
        f.seen_to_reported.push_ms(took);
        f.adoption_requests.push(requests as f64);

        let (done, took, requests) = publish(stand, &front).await?;
        ensure!(
            matches!(done, Publication::Unchanged { .. }),
            "nothing had changed, but {done:?}"
        );
        f.unchanged.push_ms(took);
        f.unchanged_requests.push(requests as f64);
    }
    Ok(f)
}

/// Long enough for the answers of a poll to be counted, short enough to fall between two.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

fn adoption_seconds(node: &AgentProcess) -> anyhow::Result<f64> {
    node.metric("platform_agent_adoption_seconds_sum")
        .context("no adoption metric")
}

/// Publishes; gives the time it took and the requests that the store got, but for the agent's.
async fn publish(stand: &Stand, front: &TlsFront) -> anyhow::Result<(Publication, Duration, u64)> {
    let (asked, passed) = (stand.store.requests(), front.passed().len());
    let began = Instant::now();
    let done = stand.publish().await?;
    let took = began.elapsed();
    let all = stand.store.requests().since(&asked).total;
    let agents = (front.passed().len() - passed) as u64;
    Ok((done, took, all.saturating_sub(agents)))
}

/// From the answer that brought the new timestamp to the status that reports its release, and the requests between
/// and including the two.
fn outside(passed: &[Passed]) -> anyhow::Result<(Duration, usize)> {
    let new = passed.iter().position(|p| {
        p.path.ends_with("/timestamp.json") && p.method == Method::GET && p.status == StatusCode::OK
    });
    let rest = passed
        .get(new.context("no new timestamp was seen")?..)
        .unwrap_or_default();
    let status = rest
        .iter()
        .position(|p| p.method == Method::PUT)
        .context("no status was sent")?;
    let (from, to) = (
        rest.first().context("first")?,
        rest.get(status).context("status")?,
    );
    Ok((to.asked - from.answered, status + 1))
}
