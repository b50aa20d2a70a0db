//! What was published is adopted by real agents, with the configuration that the machines' own user data has.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use platform_tests::moto::SECRET_KEY;
use platform_tests::node::agent_binary;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;

use crate::desk::Desk;

/// Every machine of each group, as far as an agent sees it.
pub(crate) fn real_agents_adopt(desk: &Desk, made: &Value) {
    let shown = desk.ctl(&["instances", "--output", "json"]).with(0, &[]);
    // What is said on standard error stands in it too.
    let json = &shown.said[shown.said.find("\n[\n").map_or(0, |at| at + 1)..];
    let machines = serde_json::Deserializer::from_str(json).into_iter::<Value>();
    let machines = machines.into_iter().next().unwrap().unwrap();
    let machines = machines.as_array().unwrap();
    let mut by_group: BTreeMap<&str, Vec<BTreeMap<String, String>>> = BTreeMap::new();
    for machine in machines {
        let group = machine["group"].as_str().unwrap();
        let id = machine["id"].as_str().unwrap();
        let root = desk.path("machines").join(id);
        configure(&root, &user_data(made, group), group, id);
        let agent = |verb: &str| {
            let output = Command::new(agent_binary())
                .args([verb, "--config"])
                .arg(root.join("config.toml"))
                .output()
                .unwrap();
            assert!(output.status.success(), "{group} {verb}: {output:?}");
        };
        agent("once");
        // The disk against the digests of the signed release.
        agent("verify");
        let found = digests(&root.join("root/etc/kubernetes"));
        by_group.entry(group).or_default().push(found);
    }
    let machines_of = |group: &str| by_group.get(group).map_or(0, Vec::len);
    assert_eq!((machines_of("secure"), machines_of("compute")), (3, 1));
    for (group, manifest) in [
        ("secure", "manifests/kube-scheduler.yaml"),
        ("compute", "manifests/kube-proxy.yaml"),
    ] {
        let all = &by_group[group];
        assert!(all[0].contains_key(manifest), "{group}: {:?}", all[0]);
        assert!(all.iter().all(|one| *one == all[0]), "{group}: {all:#?}");
        // What `build` wrote for people to read is what machines have, where no secret is in it.
        let built = digests(&desk.path(".platform/dev/build").join(group));
        let same = built
            .iter()
            .filter(|(path, digest)| all[0].get(*path) == Some(digest));
        assert!(same.count() > 0, "{group}: {built:?}");
    }
    let status = desk.ctl(&["status", "--output", "json"]);
    let keys = desk.observe()["buckets"]["example-dev-secrets"]["keys"].to_string();
    for machine in machines {
        let (group, id) = (&machine["group"], &machine["id"]);
        let report = format!(
            "nodes/{}/AROAEXAMPLEROLEID:{}.json",
            group.as_str().unwrap(),
            id.as_str().unwrap()
        );
        assert!(keys.contains(&report), "{report}: {keys}\n{}", status.said);
    }
    assert!(!status.said.contains("is not believed"), "{}", status.said);
}

/// The SHA-256 of every file below a directory, by its path there.
fn digests(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let below = path.strip_prefix(directory).unwrap().display().to_string();
                let digest = Sha256Digest::of(&fs::read(&path).unwrap());
                found.insert(below, digest.to_string());
            }
        }
    }
    found
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
fn configure(root: &Path, data: &Value, group: &str, id: &str) {
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
    // In the place of the instance's role. By its access key moto's log knows whose request it was.
    let pair = format!("access_key = \"AGENT{group}\"\nsecret_key = \"{SECRET_KEY}\"\n");
    let credentials = root.join("credentials");
    fs::write(&credentials, pair).unwrap();
    fs::set_permissions(&credentials, fs::Permissions::from_mode(0o600)).unwrap();
    let below = format!(
        "root_directory = \"{}\"\nstate_directory = \"{}\"\ncredentials_file = \"{}\"\n",
        place("root"),
        place("state"),
        place("credentials")
    );
    fs::write(root.join("config.toml"), below + &placed).unwrap();
}
