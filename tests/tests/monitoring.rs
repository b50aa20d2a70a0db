//! What docs/monitoring promises: rules that promtool accepts and that fire when they should, and no metric that the agent
//! does not have.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::metrics::Metrics;
use platform_tests::tools;
use serde_json::Value;
use shared::documents::{ProbeReport, RolloutReport};

/// What every agent's metrics begin with.
const PREFIX: &str = "platform_agent_";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring")
}

fn read(name: &str) -> String {
    fs::read_to_string(directory().join(name)).unwrap()
}

/// The names of the time series that an agent serves.
fn served() -> BTreeSet<String> {
    let metrics = Metrics::new(Duration::from_secs(10));
    // A family shows itself with its first member.
    metrics.polled("unchanged");
    metrics.failed("fetch", "timeout");
    metrics.adopted(Duration::from_secs(1));
    metrics.rollout(&RolloutReport {
        probes: vec![ProbeReport {
            name: "apiserver".to_owned(),
            ok: true,
            only_warns: false,
            saw: String::new(),
        }],
        ..RolloutReport::default()
    });
    let text = metrics.text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let name = |line: &str| line.split(['{', ' ']).next().unwrap().to_owned();
    lines.map(name).collect()
}

/// The names of our metrics in an expression.
fn named(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in expression.match_indices(PREFIX) {
        let rest = &expression[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        found.insert(rest[..end.unwrap_or(rest.len())].to_owned());
    }
    found
}

/// Every expression of the dashboard, those of its variables too.
fn expressions(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "expr" || name == "query" => {
                        into.push(text.clone());
                    }
                    other => expressions(other, into),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, into)),
        _ => {}
    }
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_agents_serve() {
    let served = served();
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let mut in_dashboard = Vec::new();
    expressions(&dashboard, &mut in_dashboard);
    let in_dashboard: BTreeSet<String> = in_dashboard.iter().flat_map(|e| named(e)).collect();
    let in_rules = named(&read("alerts.yaml"));
    assert!(
        in_rules.len() > 8 && in_dashboard.len() > 12,
        "{in_rules:?} {in_dashboard:?}"
    );
    let unknown: Vec<&String> = in_rules
        .union(&in_dashboard)
        .filter(|n| !served.contains(*n))
        .collect();
    assert!(
        unknown.is_empty(),
        "no agent serves {unknown:?}; these are served: {served:?}"
    );
}

#[test]
fn every_rule_is_played() {
    let rules = read("alerts.yaml");
    let played = read("alerts_test.yaml");
    let names = rules
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- alert: "));
    let mut count = 0;
    for name in names {
        count += 1;
        let fires = played.split("alertname: ").any(|part| {
            part.starts_with(&format!("{name}\n"))
                && part
                    .trim_start_matches(name)
                    .trim_start()
                    .starts_with("exp_alerts")
        });
        assert!(fires, "{name} is never seen to fire in alerts_test.yaml");
    }
    assert!(count > 8, "{count}");
}

#[test]
fn promtool_accepts_and_plays_the_rules() {
    let Some(promtool) = tools::find("promtool") else {
        return;
    };
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts_test.yaml"],
    ] {
        let output = Command::new(&promtool)
            .args(arguments)
            .current_dir(directory())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}

#[test]
fn metrics_are_named_as_prometheus_asks() {
    let metrics = Metrics::new(Duration::from_secs(10));
    metrics.polled("unchanged");
    metrics.failed("fetch", "timeout");
    let text = metrics.text();
    for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(name.starts_with(PREFIX), "{line}");
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        assert!(name.bytes().all(plain), "{line}");
        // The suffix is the counter's, and is put there by the format.
        assert!(
            !name.ends_with("_total") && !name.ends_with("_count"),
            "{line}"
        );
        if kind == "histogram" {
            assert!(
                name.ends_with("_seconds") || name.ends_with("_bytes"),
                "{line}: a unit"
            );
        }
    }
}
