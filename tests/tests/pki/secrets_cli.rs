//! `platformctl secrets`, the real binary.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ctl::diff::published_release;
use platform_tests::scene::{Pod, SECURE, write_pod};
use platform_tests::workspace::{Bucket, Operator, group};
use serde_json::{Value, json};
use shared::bundle::Origin;
use shared::store::keys;

use super::{Said, run, run_with};

const TOKEN: &str = "secure/web/token";

async fn secrets(operator: &Operator, verb: &[&str], input: &[u8]) -> Said {
    let (first, rest) = verb.split_first().unwrap();
    let mut arguments = vec!["secrets", first, "-e", "local"];
    arguments.extend(rest);
    run(operator, &arguments, input).await
}

fn raw(bucket: &Bucket) -> Vec<u8> {
    fs::read(bucket.object(keys::KEYRING)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_delivered_with_mode_and_owner_and_listed_without_its_value() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    let pod = Pod {
        file: "web",
        name: "web",
        image: "registry.k8s.io/pause:3.10",
        secrets: &[("config", "from the working directory")],
        host_port: None,
    };
    write_pod(&operator, SECURE, &pod).unwrap();
    // The working directory's own part is not needed any more: the keyring's will do.
    fs::remove_dir_all(operator.path("secrets")).unwrap();
    let said = run(&operator, &["publish", "-e", "local"], b"").await;
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(
        said.err.contains("pod `web` has no secret files"),
        "{}",
        said.err
    );
    // Offline nobody can know.
    let said = run(&operator, &["lint", "-e", "local"], b"").await;
    assert_eq!(said.code, 0, "{}", said.err);
    let out = String::from_utf8(said.out).unwrap();
    assert!(out.contains("pod web has no secret files here"), "{out}");

    let said = secrets(
        &operator,
        &["put", TOKEN, "--mode", "0440", "--owner", "0:65534"],
        b"hunter2\n",
    )
    .await;
    assert_eq!(said.code, 0, "{}", said.err);
    let value = operator.path("value");
    fs::write(&value, [0, 159, 146, 150]).unwrap();
    let said = secrets(&operator, &["put", "secure/web/binary", "value"], b"").await;
    assert_eq!(said.code, 0, "{}", said.err);

    let said = secrets(&operator, &["list", "--output", "json"], b"").await;
    let listed: Value = serde_json::from_slice(&said.out).unwrap();
    assert_eq!(
        listed,
        json!([
            {"group": "secure", "pod": "web", "name": "binary", "bytes": 4, "mode": "0600", "uid": 0, "gid": 0},
            {"group": "secure", "pod": "web", "name": "token", "bytes": 8, "mode": "0440", "uid": 0, "gid": 65534},
        ])
    );
    let said = secrets(&operator, &["list"], b"").await;
    let out = String::from_utf8(said.out).unwrap();
    assert!(
        out.contains("secure/web/token") && out.contains("0:65534"),
        "{out}"
    );
    assert!(!out.contains("hunter2"), "{out}");

    let said = secrets(&operator, &["get", "secure/web/binary"], b"").await;
    assert_eq!(said.out, [0, 159, 146, 150]);
    let said = secrets(&operator, &["get", TOKEN, "--out", "got"], b"").await;
    assert_eq!((said.code, said.out.len()), (0, 0), "{}", said.err);
    let got = operator.path("got");
    assert_eq!(fs::read(&got).unwrap(), b"hunter2\n");
    assert_eq!(
        fs::metadata(&got).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let said = secrets(&operator, &["get", TOKEN, "--out", "got"], b"").await;
    assert_eq!(said.code, 2, "not over a file that is there");

    operator.publish().await.unwrap();
    let published = operator.published(&group(SECURE)).await.unwrap();
    let current = published.current().unwrap();
    let release = published_release(&operator.context, current).await.unwrap();
    let (entry, bytes) = release
        .files()
        .find(|(f, _)| f.path.as_str() == "secrets/web/token")
        .unwrap();
    assert_eq!(bytes.expose(), b"hunter2\n");
    assert_eq!(
        (entry.mode.bits(), entry.uid, entry.gid, entry.origin),
        (0o440, 0, 65534, Origin::Keyring)
    );

    // A new value keeps mode and owner; the same one writes nothing.
    let said = secrets(&operator, &["put", TOKEN], b"hunter3\n").await;
    assert_eq!(said.code, 0, "{}", said.err);
    let kept = raw(&bucket);
    let said = secrets(&operator, &["put", TOKEN], b"hunter3\n").await;
    assert!(
        String::from_utf8(said.out)
            .unwrap()
            .contains("the same already")
    );
    assert_eq!(raw(&bucket), kept);
    let said = secrets(&operator, &["list", "--output", "json"], b"").await;
    let listed: Value = serde_json::from_slice(&said.out).unwrap();
    assert_eq!(
        (&listed[1]["mode"], &listed[1]["gid"]),
        (&json!("0440"), &json!(65534))
    );

    let said = secrets(&operator, &["rm", TOKEN], b"").await;
    assert_eq!(said.code, 0, "{}", said.err);
    let said = secrets(&operator, &["rm", TOKEN], b"").await;
    assert_eq!(said.code, 2);
    assert!(said.err.contains(TOKEN), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_and_change_nothing() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    let said = secrets(&operator, &["get", TOKEN], b"").await;
    assert_eq!(said.code, 2);
    assert!(said.err.contains("there is no keyring"), "{}", said.err);
    operator.publish().await.unwrap();
    let kept = raw(&bucket);
    let large = vec![b'x'; 1024 * 1024 + 1];
    let cases: [(&[&str], &[u8], &str); 10] = [
        (
            &["put", TOKEN],
            &large,
            "secure/web/token has more than the 1048576 bytes",
        ),
        (&["put", TOKEN], b"", "nothing in what was given"),
        (&["put", TOKEN, "not-there"], b"", "cannot read not-there"),
        (&["put", "worker/web/token"], b"x", "no group worker"),
        (&["put", "secure/web"], b"x", "GROUP/POD/NAME"),
        (
            &["put", TOKEN, "--mode", "0666"],
            b"x",
            "between 0400 and 0644",
        ),
        (&["put", TOKEN, "--owner", "root:root"], b"x", "UID:GID"),
        (
            &["put", "secure/etcd/server.key"],
            b"x",
            "made by the platform",
        ),
        (
            &["get", TOKEN],
            b"",
            "the keyring has no file secure/web/token",
        ),
        (
            &["edit", TOKEN],
            b"",
            "the keyring has no file secure/web/token",
        ),
    ];
    for (verb, input, says) in cases {
        let said = secrets(&operator, verb, input).await;
        assert_eq!(said.code, 2, "{verb:?}: {}", said.err);
        assert!(said.err.contains(says), "{verb:?}: {}", said.err);
        assert_eq!(raw(&bucket), kept, "{verb:?}");
    }
    // Two files of a MiB go in, a third does not.
    let mib = &large[1..];
    for (name, code) in [("a", 0), ("b", 0), ("c", 2)] {
        let name = format!("secure/web/{name}");
        let said = secrets(&operator, &["put", &name], mib).await;
        assert_eq!(said.code, code, "{}", said.err);
        if code != 0 {
            assert!(
                said.err
                    .contains(&format!("with {name} the keyring would hold")),
                "{}",
                said.err
            );
        }
    }
    operator.keyring().await.unwrap();
}

/// An editor that runs `script` on the file, and where it saw it.
fn editor(operator: &Operator, script: &str) -> PathBuf {
    let path = operator.path("editor");
    let seen = operator.path("seen");
    let text = format!(
        "#!/bin/sh\nset -e\nprintf '%s\\n' \"$@\" >'{}'\nstat -c %a \"$1\" \"$(dirname \"$1\")\" >>'{0}'\n{script}\n",
        seen.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

async fn edit(operator: &Operator, script: &str) -> (Said, PathBuf) {
    let editor = editor(operator, script);
    let mut command: Command = operator.platformctl();
    command.env("EDITOR", editor).env_remove("VISUAL");
    let said = run_with(command, &["secrets", "edit", "-e", "local", TOKEN], b"").await;
    let seen = fs::read_to_string(operator.path("seen")).unwrap();
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(
        lines[1..],
        ["600", "700"],
        "private, and nothing else in argv"
    );
    (said, PathBuf::from(lines[0]))
}

fn is_gone(file: &Path) -> bool {
    !file.parent().unwrap().exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_stored_wiped_and_never_lost() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    let said = secrets(&operator, &["put", TOKEN], b"one\n").await;
    assert_eq!(said.code, 0, "a put before the first publish: {}", said.err);
    let value = async || secrets(&operator, &["get", TOKEN], b"").await.out;

    // As vi does: another file takes the place, a backup stays beside it.
    let (said, file) = edit(
        &operator,
        "cp \"$1\" \"$1~\"; echo two >\"$1.new\"; mv \"$1.new\" \"$1\"",
    )
    .await;
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(value().await, b"two\n");
    assert!(is_gone(&file), "{file:?}");

    let kept = raw(&bucket);
    let (said, file) = edit(&operator, "touch \"$1\"").await;
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(
        String::from_utf8(said.out)
            .unwrap()
            .contains("was not changed")
    );
    assert!(is_gone(&file) && raw(&bucket) == kept);

    let (said, file) = edit(&operator, "echo three >\"$1\"; exit 1").await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("nothing was changed"), "{}", said.err);
    assert!(is_gone(&file) && raw(&bucket) == kept);

    // A colleague was faster.
    let colleague = operator.colleague(&bucket.endpoint()).await.unwrap();
    let theirs = colleague.platformctl().get_program().to_owned();
    let script = format!(
        "cd '{}'; printf 'theirs\\n' | '{}' secrets put -e local {TOKEN} >/dev/null; echo mine >\"$1\"",
        colleague.path("").display(),
        Path::new(&theirs).display()
    );
    let (said, file) = edit(&operator, &script).await;
    assert_eq!(said.code, 1, "{}", said.err);
    for part in [
        "your edit was not stored",
        "another operator changed secure/web/token",
        &file.display().to_string(),
    ] {
        assert!(said.err.contains(part), "{part:?} is not in {}", said.err);
    }
    assert_eq!(value().await, b"theirs\n");
    assert_eq!(fs::read(&file).unwrap(), b"mine\n", "not lost");
    fs::remove_dir_all(file.parent().unwrap()).unwrap();

    // Too large: likewise.
    let (said, file) = edit(&operator, "head -c 1048577 /dev/zero >\"$1\"").await;
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("1048576"), "{}", said.err);
    assert!(file.exists());
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
}
