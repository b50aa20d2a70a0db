//! The same 30 files of 4 KiB kept in step with the same store by `aws s3 sync`, `s3cmd sync` and `rclone sync` in a
//! loop, and by platform-agent: processor time a poll and peak memory side by side. Plain HTTP for all.
//!
//! The tools compare names, sizes and times; they verify no signature and decrypt nothing. The agent's figure is its
//! whole poll.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use nix::sys::resource::{UsageWho, getrusage};
use platform_tests::measure::knob;
use platform_tests::measure::node::{AgentProcess, agent_binary, free_address};
use platform_tests::measure::report::{Samples, Table, head};
use platform_tests::measure::stand::{Filling, NodeSettings, Stand};
use rand::Rng as _;
use shared::store::PutCondition;

/// The first argument with which this program measures one command and ends.
const MEASURE: &str = "--measure";
const FILES: usize = 30;
const BYTES: usize = 4096;
const PREFIX: &str = "compare/";

struct Tool {
    name: &'static str,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

#[derive(Default)]
struct Figures {
    cpu: Samples,
    peak: Samples,
    requests: Samples,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some((first, command)) = arguments.split_first()
        && first == MEASURE
    {
        return measure_one(command);
    }
    tokio::runtime::Runtime::new()?.block_on(compare())
}

async fn compare() -> anyhow::Result<()> {
    let runs: usize = knob("BENCH_RUNS", 15);
    let polls: u64 = knob("BENCH_POLLS", 60);
    let agent_program = agent_binary()?;
    let stand = Stand::new().await?;
    head(
        "sync_tools",
        "the agent beside tools that synchronise a directory",
        stand.directory(),
    );
    for at in 0..FILES {
        let mut raw = vec![0_u8; BYTES];
        rand::rng().fill(raw.as_mut_slice());
        let key = format!("{PREFIX}file-{at:02}");
        stand
            .context
            .store
            .put(&key, Bytes::from(raw), PutCondition::Always)
            .await?;
    }
    let release = stand.publish_fresh(Filling::of_4_kib(FILES)).await?;
    let settings = NodeSettings {
        endpoint_url: stand.store.endpoint().to_string(),
        metrics_listen: Some(free_address()?),
        poll_seconds: 1,
    };
    let config = stand.node("beside", &settings)?;
    let metrics = settings.metrics_listen.context("metrics")?;
    let node = AgentProcess::start(&agent_program, &config, metrics, None)?;
    node.until_release(release).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;

    // No tool runs at the same time: what the store is asked are the agent's polls.
    let (asked, cpu) = (stand.store.requests(), node.cpu()?);
    while stand.store.requests().since(&asked).not_modified < polls {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let counted = stand.store.requests().since(&asked);
    let spent = node.cpu()? - cpu;
    let memory = node.memory()?;
    drop(node);
    let agent_cpu = spent.as_secs_f64() * 1e3 / counted.not_modified as f64;
    let agent_peak = memory.peak as f64 / 1024.0;

    println!(
        "{FILES} files of {BYTES} bytes; a tool's poll is one run that finds nothing to do.\n"
    );
    let mut table = Table::new(&[
        "",
        "CPU a poll",
        "times the agent's",
        "peak memory",
        "times the agent's",
        "requests a poll",
    ]);
    table.row(&[
        "platform-agent",
        &format!("{agent_cpu:.3} ms (mean of {} polls)", counted.not_modified),
        "1",
        &format!(
            "{agent_peak:.1} MiB (at rest {:.1})",
            memory.resident as f64 / 1024.0
        ),
        "1",
        &format!("{:.2}", counted.total as f64 / counted.not_modified as f64),
    ]);
    let mut ratios = Vec::new();
    for tool in tools(&stand)? {
        let Some(program) = find(tool.name) else {
            println!("!!! {} is not installed: tests/setup.sh --bench", tool.name);
            table.row(&[tool.name, "not installed"]);
            continue;
        };
        let f = match run(&stand, &tool, &program, runs).await {
            Ok(f) => f,
            Err(error) => {
                println!("!!! {error}");
                table.row(&[tool.name, "failed"]);
                continue;
            }
        };
        let ratio = f.cpu.median() / agent_cpu;
        ratios.push((tool.name, ratio));
        table.row(&[
            &format!("{} ({})", tool.name, version(&program)),
            &f.cpu.spread("ms"),
            &format!("{ratio:.0}"),
            &format!("{:.1} MiB", f.peak.median()),
            &format!("{:.1}", f.peak.median() / agent_peak),
            &format!("{}", f.requests.median()),
        ]);
    }
    table.print();
    let mut goals = Table::new(&["what", "measured", "goal", ""]);
    for (name, ratio) in ratios {
        let what = format!("CPU of {name}, times the agent's");
        goals.goal(
            &what,
            &format!("{ratio:.0}"),
            "at least 100",
            ratio >= 100.0,
        );
    }
    goals.print();
    Ok(())
}

fn tools(stand: &Stand) -> anyhow::Result<Vec<Tool>> {
    let (access, secret) = stand.key_pair()?;
    let environment = &stand.context.workspace.environment;
    let (bucket, region) = (
        environment.secrets_bucket.to_string(),
        environment.region.to_string(),
    );
    let endpoint = stand.store.endpoint().to_string();
    let addr = stand.store.addr();
    let url = format!("s3://{bucket}/{PREFIX}");
    let to = |name: &str| -> anyhow::Result<String> {
        let directory = stand.directory().join("synced").join(name);
        fs::create_dir_all(&directory)?;
        Ok(format!("{}/", directory.display()))
    };
    let s3cfg = stand.directory().join("s3cfg");
    fs::write(
        &s3cfg,
        format!(
            "[default]\naccess_key = {access}\nsecret_key = {secret}\nbucket_location = {region}\nhost_base = {addr}\n\
             host_bucket = {addr}\nuse_https = False\nsignature_v2 = False\n"
        ),
    )?;
    let text = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
    Ok(vec![
        Tool {
            name: "aws",
            arguments: text(&[
                "s3",
                "sync",
                "--only-show-errors",
                "--endpoint-url",
                &endpoint,
                &url,
                &to("aws")?,
            ]),
            environment: vec![
                ("AWS_ACCESS_KEY_ID", access.clone()),
                ("AWS_SECRET_ACCESS_KEY", secret.clone()),
                ("AWS_DEFAULT_REGION", region.clone()),
                ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ],
        },
        Tool {
            name: "s3cmd",
            arguments: text(&[
                "--config",
                &s3cfg.display().to_string(),
                "--quiet",
                "sync",
                &url,
                &to("s3cmd")?,
            ]),
            environment: Vec::new(),
        },
        Tool {
            name: "rclone",
            arguments: text(&[
                "--config",
                "/dev/null",
                "--quiet",
                "sync",
                &format!("store:{bucket}/{PREFIX}"),
                &to("rclone")?,
            ]),
            environment: vec![
                ("RCLONE_CONFIG_STORE_TYPE", "s3".to_owned()),
                ("RCLONE_CONFIG_STORE_PROVIDER", "Other".to_owned()),
                ("RCLONE_CONFIG_STORE_ACCESS_KEY_ID", access),
                ("RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY", secret),
                ("RCLONE_CONFIG_STORE_REGION", region),
                ("RCLONE_CONFIG_STORE_ENDPOINT", endpoint),
            ],
        },
    ])
}

async fn run(stand: &Stand, tool: &Tool, program: &Path, runs: usize) -> anyhow::Result<Figures> {
    let mut f = Figures::default();
    // The first run brings the files; the second warms what is to be warm.
    for at in 0..runs + 2 {
        let before = stand.store.requests();
        let mut command = Command::new(env::current_exe()?);
        // The environment of whoever measures must not steer the tools: a certificate bundle, a profile, an endpoint.
        for (name, _) in
            env::vars().filter(|(n, _)| n.starts_with("AWS_") || n.starts_with("RCLONE_"))
        {
            command.env_remove(name);
        }
        command
            .arg(MEASURE)
            .arg(program)
            .args(&tool.arguments)
            .envs(tool.environment.iter().map(|(k, v)| (k, v)))
            .env("HOME", stand.directory())
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{} failed: {said}", tool.name);
        let text = String::from_utf8(output.stdout)?;
        let figures = text.lines().last().context("nothing was measured")?;
        let (cpu, peak) = figures.split_once(' ').context("two figures")?;
        if at >= 2 {
            f.cpu.push(cpu.parse::<f64>()? / 1e3);
            f.peak.push(peak.parse::<f64>()? / 1024.0);
            f.requests
                .push(stand.store.requests().since(&before).total as f64);
        }
    }
    let synced = fs::read_dir(stand.directory().join("synced").join(tool.name))?.count();
    ensure!(
        synced == FILES,
        "{} brought {synced} files of {FILES}",
        tool.name
    );
    Ok(f)
}

/// Runs a command to its end and prints what the kernel counted of it: processor time in microseconds, and the most
/// that was resident in KiB. A process of its own, since the kernel keeps only the maximum over all children.
fn measure_one(command: &[String]) -> anyhow::Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let status = Command::new(program).args(arguments).status()?;
    ensure!(status.success(), "{program} ended with {status}");
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |t: nix::sys::time::TimeVal| t.tv_sec() * 1_000_000 + t.tv_usec();
    println!(
        "{} {}",
        micros(used.user_time()) + micros(used.system_time()),
        used.max_rss()
    );
    Ok(())
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|d| d.join(name))
        .find(|p| p.is_file())
}

fn version(program: &Path) -> String {
    let argument = if program.ends_with("rclone") {
        "version"
    } else {
        "--version"
    };
    let said = Command::new(program).arg(argument).output();
    let text = said
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let first = text.split_whitespace().find(|w| w.contains('.'));
    first.unwrap_or("unknown version").to_owned()
}
