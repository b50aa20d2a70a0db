//! What was published is adopted by real agents, with the configuration that the machines' own user data has.

use std::fs;
use std::path::Path;
use std::process::Command;

use platform_tests::moto::with_credentials;
use platform_tests::node::agent_binary;
use serde_json::{Value, json};

use crate::desk::Desk;

/// One machine of each group, as far as an agent sees it.
pub(crate) fn real_agents_adopt(desk: &Desk, made: &Value) {
    let shown = desk.ctl(&["instances", "--output", "json"]).with(0, &[]);
    // What is said on standard error stands in it too.
    let json = &shown.said[shown.said.find("\n[\n").map_or(0, |at| at + 1)..];
    let machines = serde_json::Deserializer::from_str(json).into_iter::<Value>();
    let machines = machines.into_iter().next().unwrap().unwrap();
    for (group, manifest) in [
        ("secure", "kube-scheduler.yaml"),
        ("compute", "kube-proxy.yaml"),
    ] {
        let machine = machines
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["group"] == json!(group))
            .unwrap_or_else(|| panic!("no machine of {group}: {machines}"));
        let id = machine["id"].as_str().unwrap();
        let root = desk.path("machines").join(id);
        configure(&root, &user_data(made, group), id);
        let mut agent = Command::new(agent_binary());
        with_credentials(&mut agent, &root);
        let adopted = agent
            .args(["once", "--config"])
            .arg(root.join("config.toml"))
            .output()
            .unwrap();
        assert!(adopted.status.success(), "{group}: {adopted:?}");
        let there = root.join("root/etc/kubernetes/manifests").join(manifest);
        assert!(there.is_file(), "{group} has no {manifest}: {adopted:?}");
        desk.ctl(&["instances"]).with(0, &[id]);
    }
    let status = desk.ctl(&["status", "--output", "json"]);
    for group in ["secure", "compute"] {
        let reports = format!("nodes/{group}/AROAEXAMPLEROLEID:i-");
        let keys = desk.observe()["buckets"]["example-dev-secrets"]["keys"].to_string();
        assert!(keys.contains(&reports), "{group}: {keys}\n{}", status.said);
    }
    assert!(!status.said.contains("is not believed"), "{}", status.said);
}

/// What the group's launch template has.
fn user_data(made: &Value, group: &str) -> Value {
    let templates = made["templates"].as_array().unwrap();
    let texts = templates.iter().map(|t| t["user_data"].as_str().unwrap());
    let parsed = texts.map(|text| serde_yaml::from_str::<Value>(text).unwrap());
    parsed
        .into_iter()
        .find(|data| {
            let config = file(data, "/etc/platform-agent/config.toml");
            config.contains(&format!("group = \"{group}\""))
        })
        .unwrap()
}

fn file<'a>(data: &'a Value, path: &str) -> &'a str {
    let files = data["write_files"].as_array().unwrap();
    let file = files.iter().find(|f| f["path"] == json!(path)).unwrap();
    file["content"].as_str().unwrap()
}

/// Lays it out below a directory of its own: only where things lie is another place than on a machine.
fn configure(root: &Path, data: &Value, id: &str) {
    fs::create_dir_all(root.join("root")).unwrap();
    let place = |name: &str| root.join(name).display().to_string();
    fs::write(
        root.join("node.env"),
        format!("NODE_ID=AROAEXAMPLEROLEID:{id}\nNODE_NAME=ip-10-100-4-7.ec2.internal\nNODE_IP=10.100.4.7\nZONE=us-east-1a\n"),
    )
    .unwrap();
    let trusted = file(data, "/etc/platform-agent/root.json");
    fs::write(root.join("root.json"), trusted).unwrap();
    let config = file(data, "/etc/platform-agent/config.toml");
    let mut placed = config.to_owned();
    for (on_a_machine, here) in [
        ("/run/platform/node.env", place("node.env")),
        ("/etc/platform-agent/root.json", place("root.json")),
        ("127.0.0.1:9102", "127.0.0.1:0".to_owned()),
    ] {
        assert!(placed.contains(on_a_machine), "{config}");
        placed = placed.replace(on_a_machine, &here);
    }
    let below = format!(
        "root_directory = \"{}\"\nstate_directory = \"{}\"\n",
        place("root"),
        place("state")
    );
    fs::write(root.join("config.toml"), below + &placed).unwrap();
}
