use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::env::parse;
use crate::testing::static_program;

const DEV: &str = include_str!("../../../tests/fixtures/golden/user-data/dev.tfvars");
const ROOT: &str = include_str!("../../../tests/fixtures/golden/user-data/root.json");
const OURS: &str = include_str!("../../../cloudinit/user-data.j2");

fn dev() -> Environment {
    parse(DEV, Path::new("dev.tfvars")).unwrap()
}

fn with(template: &str, group: &str, environment: &Environment) -> Result<String, UserDataError> {
    user_data(&Input {
        environment,
        group: &GroupName::new(group).unwrap(),
        trusted_root: ROOT,
        agent: Sha256Digest::of(b"agent"),
        template,
    })
}

fn files_below(directory: &Path, prefix: &str, into: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            files_below(&entry.path(), &format!("{name}/"), into);
        } else {
            into.insert(name, fs::read_to_string(entry.path()).unwrap());
        }
    }
}

#[test]
fn the_embedded_tables_are_the_directories() {
    let owned = |table: &[(&str, &str)]| -> BTreeMap<String, String> {
        let pair = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        table.iter().map(pair).collect()
    };
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cloudinit = BTreeMap::new();
    files_below(&top.join("cloudinit"), "", &mut cloudinit);
    assert_eq!(owned(EMBEDDED), cloudinit);
    let mut dist = BTreeMap::new();
    files_below(&top.join("agent/dist"), "", &mut dist);
    dist.remove("agent.toml.sample");
    assert_eq!(owned(DIST), dist);
    for program in PROGRAMS {
        assert!(
            dist.contains_key(&format!("libexec/{program}")),
            "{program}"
        );
    }
    // Whatever starts before the agent goes with it.
    let programs = dist.keys().filter(|k| k.starts_with("libexec/")).count();
    assert_eq!(programs, PROGRAMS.len());
}

#[test]
fn a_working_directorys_own_template_wins() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(template_for_working_dir(directory.path()).unwrap(), OURS);
    fs::create_dir(directory.path().join("cloudinit")).unwrap();
    fs::write(directory.path().join(TEMPLATE), "mine").unwrap();
    assert_eq!(template_for_working_dir(directory.path()).unwrap(), "mine");
}

#[test]
fn units_and_programs_are_those_of_the_agents_distribution() {
    for group in ["secure", "compute", "edge"] {
        let text = with(OURS, group, &dev()).unwrap();
        let config = cloud_config::parse(&text).unwrap();
        for (path, source) in DIST {
            let name = path.rsplit('/').next().unwrap();
            let found = match path.split_once('/') {
                Some(("systemd", unit)) => match unit.split_once(".d/") {
                    Some((unit, _)) => config.unit(unit).unwrap().drop_ins[0].1.clone(),
                    None => config.unit(unit).unwrap().content.clone().unwrap(),
                },
                Some(("libexec", _)) => written(&config, &format!("/etc/platform-agent/{name}")),
                _ => written(&config, &format!("/etc/{path}")),
            };
            assert_eq!(found, compact(source), "{path}");
        }
        assert_eq!(written(&config, "/etc/platform-agent/root.json"), ROOT);
        let last = config.units.iter().rfind(|u| u.command.is_some()).unwrap();
        assert_eq!(last.name, "platform.target");
    }
}

fn written(config: &cloud_config::CloudConfig, path: &str) -> String {
    String::from_utf8(config.file(path).expect(path).content.clone()).unwrap()
}

#[test]
fn only_the_control_planes_kubelet_has_a_certificate_from_its_agent() {
    let credentials = |group| {
        let config = cloud_config::parse(&with(OURS, group, &dev()).unwrap()).unwrap();
        let kubelet = config.unit("kubelet.service").unwrap().drop_ins[0]
            .1
            .clone();
        (kubelet, written(&config, "/etc/platform-agent/config.toml"))
    };
    let (kubelet, config) = credentials("secure");
    assert!(kubelet.contains("=--kubeconfig=/etc/kubernetes/host/kubelet/kubeconfig\""));
    assert!(config.contains("[kubelet]\nclient_certificate = true"));
    for workers in ["compute", "edge"] {
        let (kubelet, config) = credentials(workers);
        assert!(kubelet.contains("=--bootstrap-kubeconfig=/etc/kubernetes/host/kubelet/"));
        assert!(!config.contains("[kubelet]"), "{config}");
        assert!(config.contains(&format!("group = \"{workers}\"")));
    }
}

#[test]
fn comments_and_blank_lines_stay_at_home() {
    let text = "#!/bin/bash\n# why\n\n  # indented\nkeep # this\n";
    assert_eq!(compact(text), "#!/bin/bash\nkeep # this\n");
    assert_eq!(compact("# first\na\n"), "a\n");
}

#[test]
fn endpoints_are_regional_and_have_certificates() {
    let of = |from: &str, to: &str| {
        let text = DEV.replacen(from, to, 1);
        endpoints(&parse(&text, Path::new("dev.tfvars")).unwrap())
    };
    let (s3, sts) = of("eu-west-1", "us-east-1");
    assert_eq!(s3, "https://example-dev-secrets.s3.us-east-1.amazonaws.com");
    assert_eq!(sts, "https://sts.us-east-1.amazonaws.com");
    let (s3, _) = of("example-dev-secrets", "secrets.example.com");
    assert_eq!(s3, "https://s3.eu-west-1.amazonaws.com/secrets.example.com");
    let (s3, sts) = of("eu-west-1", "cn-north-1");
    assert_eq!(
        s3,
        "https://example-dev-secrets.s3.cn-north-1.amazonaws.com.cn"
    );
    assert_eq!(sts, "https://sts.cn-north-1.amazonaws.com.cn");
    let elsewhere = "platform = \"kube\"\naws_endpoint_url = \"http://127.0.0.1:9\"";
    let (s3, sts) = of("platform                 = \"kube\"", elsewhere);
    assert_eq!(s3, "http://127.0.0.1:9/example-dev-secrets");
    assert_eq!(sts, "http://127.0.0.1:9");
}

#[test]
fn every_unknown_name_is_told_at_once_with_its_line() {
    let template = OURS.replace("{{ agent_sha256 }}", "{{ agent_sha265 }} {{ nobody }}");
    let Err(UserDataError::Template(problems)) = with(&template, "secure", &dev()) else {
        panic!("not refused");
    };
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(
        problems[0].contains(".j2:34: `agent_sha265` is undefined (did you mean `agent_sha256`?)"),
        "{problems:#?}"
    );
    assert!(
        problems[1].contains("`nobody` is undefined"),
        "{problems:#?}"
    );
    for (broken, expected) in [
        (
            "#cloud-config\n{{ dist(\"systemd/none\", 2) }}",
            "there is no systemd/none",
        ),
        ("#cloud-config\n{{ group", "syntax error"),
        ("#cloud-config\n{{ terraform_bucket_name.x }}", "undefined"),
    ] {
        let error = with(broken, "secure", &dev()).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains(".j2:2"),
            "{error}"
        );
    }
}

#[test]
fn what_coreos_cloudinit_would_ignore_is_refused() {
    let template = OURS.replace("write_files:", "runcmd: [reboot]\nwrite_files:");
    let error = with(&template, "secure", &dev()).unwrap_err().to_string();
    assert!(error.contains("runcmd is unknown"), "{error}");
}

#[test]
fn too_large_names_its_largest_parts() {
    // Nothing compresses this: no two of the digests are alike.
    let noise = |bytes: usize| -> String {
        let digests = (0u32..).map(|n| Sha256Digest::of(&n.to_be_bytes()).to_string());
        digests
            .flat_map(String::into_bytes)
            .take(bytes)
            .map(char::from)
            .collect()
    };
    let padded = |padding: String| {
        let template = format!("{OURS}  - name: big.service\n    content: {padding}\n");
        with(&template, "secure", &dev())
    };
    // Hexadecimal digits take half of their size.
    let error = padded(noise(30_000)).unwrap_err();
    assert!(
        matches!(&error, UserDataError::TooLarge { sent, .. } if *sent >= MAX_BYTES),
        "{error}"
    );
    let error = error.to_string();
    assert!(
        error.contains("the largest parts are big.service (30000), "),
        "{error}"
    );
    // More than EC2 takes, and less once it is compressed.
    let text = padded(noise(5_000)).unwrap();
    assert!(text.len() > MAX_BYTES && sent_bytes(&text) < MAX_BYTES);

    // A byte less than what is allowed plain is taken, as much is not.
    let room = MAX_PLAIN_BYTES - with(OURS, "secure", &dev()).unwrap().len();
    let of = |bytes: usize| {
        with(
            &format!("{OURS}#{}", "x".repeat(bytes - 1)),
            "secure",
            &dev(),
        )
    };
    assert_eq!(of(room - 1).unwrap().len(), MAX_PLAIN_BYTES - 1);
    assert!(matches!(of(room), Err(UserDataError::TooLarge { .. })));
}

/// The aim: half of what EC2 takes is left to whoever edits the template.
#[test]
fn ours_is_sent_in_less_than_half_of_what_ec2_takes() {
    for group in ["secure", "compute"] {
        let sent = sent_bytes(&with(OURS, group, &dev()).unwrap());
        assert!(sent < MAX_BYTES / 2, "{group}: {sent}");
    }
}

#[test]
fn an_environment_without_machines_has_none() {
    let local = include_str!("../../../environments/local.tfvars");
    let local = parse(local, Path::new("local.tfvars")).unwrap();
    let refused = with(OURS, "secure", &local).unwrap_err();
    assert!(matches!(refused, UserDataError::NoMachines(name) if name == "local"));
}

#[test]
fn an_agent_for_machines_is_a_program_of_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("platform-agent");
    assert!(matches!(
        AgentBinary::read(&path),
        Err(AgentBinaryError::Read { .. })
    ));
    fs::write(&path, "#!/bin/sh\n").unwrap();
    assert!(matches!(
        AgentBinary::read(&path),
        Err(AgentBinaryError::NotForMachines { .. })
    ));
    let mut program = static_program(b"and more");
    program[64] = 3;
    fs::write(&path, &program).unwrap();
    assert!(matches!(
        AgentBinary::read(&path),
        Err(AgentBinaryError::NotForMachines {
            source: ElfProblem::Dynamic,
            ..
        })
    ));
    fs::write(&path, static_program(b"and more")).unwrap();
    let agent = AgentBinary::read(&path).unwrap();
    assert_eq!(agent.sha256, Sha256Digest::of(&agent.bytes));
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(MAX_AGENT_BYTES + 1).unwrap();
    assert!(matches!(
        AgentBinary::read(&path),
        Err(AgentBinaryError::TooLarge { .. })
    ));
}

/// `UPDATE_GOLDEN=1 cargo nextest run -E 'test(golden_user_data)'` writes the files anew; look at the difference then.
#[test]
fn golden_user_data() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden/user-data");
    for group in ["secure", "compute"] {
        let text = with(OURS, group, &dev()).unwrap();
        let path = golden.join(group);
        if std::env::var_os("UPDATE_GOLDEN").is_some_and(|v| v == "1") {
            fs::write(&path, &text).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            text == expected,
            "{} differs from what is rendered; if it should, run this test with UPDATE_GOLDEN=1",
            path.display()
        );
    }
}
