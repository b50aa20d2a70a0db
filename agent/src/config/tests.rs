use super::*;

const SAMPLE: &str = include_str!("../../dist/agent.toml.sample");

#[test]
fn the_sample_parses_and_shows_the_defaults() {
    let config = Config::parse(SAMPLE).unwrap();
    assert_eq!(config.environment.as_str(), "dev");
    assert_eq!(config.root_directory, Path::new("/"));
    assert_eq!(config.poll_interval, Duration::from_secs(10));
    assert_eq!(config.metrics_listen.unwrap().to_string(), "127.0.0.1:9102");
    assert!(matches!(config.key_wrap, KeyWrapConfig::AwsKms { .. }));
    // The commented defaults are the defaults.
    let shown: String = SAMPLE
        .lines()
        .map(|l| match l.strip_prefix("# ") {
            Some(key) if key.split_once(" = ").is_some_and(|(k, _)| !k.contains(' ')) => key,
            _ => l,
        })
        .fold(String::new(), |all, l| all + l + "\n");
    assert_eq!(Config::parse(&shown).unwrap(), config);
}

#[test]
fn a_local_file_and_no_metrics() {
    let text = SAMPLE
        .replace(
            "method = \"aws-kms\"\nkey_id",
            "method = \"local-file\"\npath = \"/k\"\n#",
        )
        .replace(
            "# metrics_listen = \"127.0.0.1:9102\"",
            "metrics_listen = \"\"",
        );
    let config = Config::parse(&text).unwrap();
    assert_eq!(
        config.key_wrap,
        KeyWrapConfig::LocalFile { path: "/k".into() }
    );
    assert_eq!(config.metrics_listen, None);
}

#[test]
fn every_mistake_at_once_with_its_line() {
    let text = "\
environment = \"Not A Name\"
group = 7
bucket = \"b\"
region = \" \"
endpoint_url = \"ftp://x\"
root_directory = \"relative\"
pol_interval_seconds = 3
poll_interval_seconds = 0
metrics_listen = \"here\"
trusted_root = \"/r\"
[key_wrap]
method = \"aws-kms\"
path = \"/x\"
";
    let mistakes = Config::parse(text).unwrap_err();
    let lines: Vec<Option<usize>> = mistakes.iter().map(|m| m.line).collect();
    let expected = [1, 2, 4, 5, 6, 7, 8, 9, 13].map(Some);
    assert_eq!(
        lines,
        [&expected[..], &[None, None]].concat(),
        "{mistakes:#?}"
    );
    let texts: Vec<&str> = mistakes.iter().map(|m| m.message.as_str()).collect();
    for (at, part) in [
        (1, "group must be a text"),
        (
            5,
            "pol_interval_seconds is unknown; known here: environment",
        ),
        (6, "between 1 and 86400"),
        (8, "key_wrap.path is unknown"),
        (9, "node is missing"),
        (10, "key_wrap.key_id is missing"),
    ] {
        assert!(texts[at].contains(part), "{at}: {}", texts[at]);
    }
}

#[test]
fn a_file_that_is_not_toml_is_one_mistake_with_a_line() {
    let mistakes = Config::parse("environment = \"dev\"\ngroup = = 3\n").unwrap_err();
    assert!(mistakes.iter().all(|m| m.line.is_some()), "{mistakes:?}");
    assert_eq!(mistakes[0].line, Some(2), "{mistakes:?}");
}

#[test]
fn credentials_are_for_their_owner_only_and_never_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, "access_key = \"a\"\nsecret_key = \"hunter2\"\n").unwrap();
    let mode = |m| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(m)).unwrap();
    mode(0o640);
    let refused = StoreCredentials::load(&path).unwrap_err();
    assert!(refused.to_string().contains("0640"), "{refused}");
    mode(0o600);
    let read = StoreCredentials::load(&path).unwrap();
    assert_eq!(read.secret_key.expose(), "hunter2");
    assert!(!format!("{read:?}").contains("hunter2"));
    std::fs::write(&path, "access_key = \"a\"\nsecret_kei = \"hunter2\"\n").unwrap();
    let refused = StoreCredentials::load(&path).unwrap_err();
    assert!(!format!("{refused:?} {refused}").contains("hunter2"));
}
