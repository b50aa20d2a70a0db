use super::*;

const GOOD: &str = r#"#cloud-config
hostname: one
ssh_authorized_keys: ["ssh-ed25519 AAAA"]
write_files:
  - path: /etc/one
    permissions: "0644"
    owner: root
    content: |
      costs \$private_ipv4
  - path: /etc/two
    permissions: "755"
    encoding: b64
    content: dHdv
coreos:
  units:
    - name: locksmithd.service
      mask: true
    - name: a.service
      enable: true
      command: restart
      content: "[Unit]\n"
      drop_ins:
        - name: 10-a.conf
          content: "[Service]\n"
    - name: b.service
      command: start
      content: "[Service]\nType=notify\n"
"#;

/// What is said of `GOOD` with `to` in the place of `from`.
fn said(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from), "{from}");
    parse(&GOOD.replacen(from, to, 1)).expect_err(to)
}

#[test]
fn what_is_honoured_is_read() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.file("/etc/two").unwrap().content, b"two");
    assert_eq!(config.file("/etc/two").unwrap().mode, 0o755);
    assert_eq!(config.unit("a.service").unwrap().drop_ins.len(), 1);
    assert!(config.unit("locksmithd.service").unwrap().mask);
    assert_eq!(config.parts()[0], ("b.service".to_owned(), 22));
}

#[test]
fn each_mistake_is_named() {
    for (from, to, expected) in [
        (
            "#cloud-config\n",
            "# cloud-config\n",
            "the first line must be #cloud-config",
        ),
        (
            "hostname:",
            "runcmd:",
            "the document: runcmd is unknown and would be ignored",
        ),
        ("hostname: one", "hostname: 1", "hostname must be a text"),
        (
            "  units:",
            "  etcd2: {}\n  units:",
            "coreos: etcd2 is unknown",
        ),
        (
            "    owner: root",
            "    owner: root\n    mode: x",
            "/etc/one: mode is unknown",
        ),
        ("\"0644\"", "0644", "line 6: permissions must be in quotes"),
        ("\"0644\"", "\"0689\"", "must be octal digits"),
        ("\"0644\"", "\"u=rw\"", "must be octal digits"),
        ("/etc/one", "etc/one", "must be absolute"),
        ("/etc/one", "/etc/../one", "must be absolute and plain"),
        (
            "/etc/one",
            "/etc/kubernetes/manifests/one",
            "nothing is written below /etc/kubernetes",
        ),
        ("/etc/one", "/usr/bin/one", "nothing is written below /usr"),
        ("/etc/one", "/etc/two", "/etc/two is there twice"),
        (
            "\\$private_ipv4",
            "$private_ipv4",
            "line 9: coreos-cloudinit replaces $private_ipv4",
        ),
        (
            "costs \\$private_ipv4",
            "-----BEGIN PRIVATE KEY-----",
            "a secret never goes",
        ),
        (
            "costs \\$private_ipv4",
            "kind: Pod",
            "a manifest belongs to a release",
        ),
        ("dHdv", "dHd%", "not base64"),
        ("dHdv", "QUdFLVNFQ1JFVC1LRVktMQ==", "a secret never goes"),
        ("encoding: b64", "encoding: gzip", "is not b64"),
        ("drop_ins", "drop-ins", "a.service: drop-ins is unknown"),
        ("10-a.conf", "10-a", "must end with .conf"),
        (
            "command: restart",
            "command: enable",
            "there is no command \"enable\"",
        ),
        (
            "enable: true",
            "enable: \"yes\"",
            "enable must be true or false",
        ),
        (
            "mask: true",
            "mask: true\n      command: stop",
            "a masked unit has nothing else",
        ),
        ("a.service", "a", "not the full name of a unit"),
        (
            "content: \"[Unit]\\n\"",
            "content: \"Type=notify\"",
            "must be the last",
        ),
    ] {
        let problems = said(from, to);
        assert_eq!(problems.len(), 1, "{to}: {problems:#?}");
        assert!(problems[0].contains(expected), "{to}: {problems:#?}");
    }
}

#[test]
fn all_mistakes_at_once() {
    let text = GOOD
        .replace("hostname:", "runcmd:")
        .replace("drop_ins", "drop-ins")
        .replace("\"0644\"", "[6]");
    assert_eq!(parse(&text).unwrap_err().len(), 3);
    assert_eq!(
        parse("#cloud-config\nwrite_files: [\n").unwrap_err().len(),
        1
    );
}
