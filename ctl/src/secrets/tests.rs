use jiff::Timestamp;
use shared::names::EnvironmentName;

use super::*;
use crate::context::Workspace;
use crate::pki::complete;

fn environment() -> (tempfile::TempDir, Environment) {
    let directory = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(directory.path(), "local").unwrap();
    (directory, workspace.environment)
}

fn content(environment: &Environment) -> KeyringContent {
    let mut content = KeyringContent::new(EnvironmentName::new("local").unwrap());
    complete(&mut content.pki, &Names::of(environment), Timestamp::now()).unwrap();
    content
}

fn file(bytes: &[u8]) -> OwnFile {
    OwnFile {
        bytes: SecretBytes::new(bytes.to_vec()),
        mode: Mode::new(0o600),
        uid: 0,
        gid: 0,
    }
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

#[test]
fn names_modes_and_owners_are_checked() {
    assert_eq!(name("secure/web/token").to_string(), "secure/web/token");
    for bad in [
        "",
        "secure/web",
        "secure/web/",
        "secure/web/.hidden",
        "secure/../x",
        "Secure/web/token",
        "secure/web/a/b",
    ] {
        assert!(bad.parse::<SecretName>().is_err(), "{bad}");
    }
    for (text, good) in [
        ("0600", true),
        ("440", true),
        ("0644", true),
        ("0755", false),
        ("0666", false),
        ("0200", false),
        ("4600", false),
        ("rw", false),
        ("00600", false),
    ] {
        assert_eq!(text.parse::<FileMode>().is_ok(), good, "{text}");
    }
    assert_eq!("65534:0".parse(), Ok(Owner { uid: 65534, gid: 0 }));
    for bad in ["root:root", "1", "1:", "-1:0", "4294967295:0"] {
        assert!(bad.parse::<Owner>().is_err(), "{bad}");
    }
}

#[test]
fn what_is_put_is_listed_got_and_removed() {
    let (_directory, environment) = environment();
    let mut content = content(&environment);
    let empty = content.clone();
    let token = name("secure/web/token");
    assert!(put(&mut content, &environment, &token, &file(b"hunter2")).unwrap());
    assert!(!put(&mut content, &environment, &token, &file(b"hunter2")).unwrap());
    assert_eq!(get(&content, &token).unwrap().bytes.expose(), b"hunter2");
    let shown = serde_json::to_string(&list(&content)).unwrap();
    assert_eq!(
        shown,
        r#"[{"group":"secure","pod":"web","name":"token","bytes":7,"mode":"0600","uid":0,"gid":0}]"#
    );
    remove(&mut content, &token).unwrap();
    assert_eq!(content, empty, "no empty maps stay behind");
    let error = remove(&mut content, &token).unwrap_err();
    assert!(error.to_string().contains("secure/web/token"), "{error}");
}

#[test]
fn what_the_platform_makes_cannot_be_put() {
    let (_directory, environment) = environment();
    let mut content = content(&environment);
    for made in [
        "secure/etcd/server.key",
        "secure/kube-apiserver/encryption.yaml",
        "compute/kube-proxy/kubeconfig",
    ] {
        let error = put(&mut content, &environment, &name(made), &file(b"x")).unwrap_err();
        assert!(error.to_string().contains(made), "{error}");
    }
    // A default may be replaced, and another file stand beside what is made.
    for own in [
        "secure/kube-apiserver/audit-policy.yaml",
        "secure/etcd/mine",
    ] {
        assert!(put(&mut content, &environment, &name(own), &file(b"x")).unwrap());
    }
}

#[test]
fn limits_are_named_with_the_file_before_anything_changes() {
    let (_directory, environment) = environment();
    let mut content = content(&environment);
    let big = name("secure/web/big");
    let error = read_value(&big, std::io::repeat(b'x')).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("secure/web/big") && text.contains("1048576"),
        "{text}"
    );
    let mib = file(&vec![b'x'; 1024 * 1024]);
    let mut stored = 0;
    let error = loop {
        let next = name(&format!("secure/web/f{stored}"));
        match put(&mut content, &environment, &next, &mib) {
            Ok(_) => stored += 1,
            Err(error) => break error.to_string(),
        }
    };
    // Base64 twice: four files of a MiB are more than 4 MiB.
    assert_eq!(stored, 2);
    assert!(
        error.contains("secure/web/f2") && error.contains("bytes"),
        "{error}"
    );
}

#[test]
fn an_edit_of_what_changed_meanwhile_is_refused() {
    let (_directory, environment) = environment();
    let mut content = content(&environment);
    let token = name("secure/web/token");
    let (old, mine, theirs) = (file(b"old"), file(b"mine"), file(b"theirs"));
    put(&mut content, &environment, &token, &theirs).unwrap();
    let before = content.clone();
    let error = replace(&mut content, &environment, &token, &old, &mine).unwrap_err();
    assert!(error.is::<ChangedMeanwhile>(), "{error}");
    assert_eq!(content, before);
    assert!(replace(&mut content, &environment, &token, &theirs, &mine).unwrap());
    // Again, as after an answer that was lost.
    assert!(!replace(&mut content, &environment, &token, &theirs, &mine).unwrap());
}
