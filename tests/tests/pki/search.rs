//! Every private value of a keyring is looked for in every file of every release, however it is written there.
//!
//! The values are not listed here: everything in the keyring is private but for what [`PUBLIC`] names. So a secret that
//! is added later is looked for too, and found where nobody expects it until [`expected`] says so.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ctl::diff::published_release;
use ctl::pki::{new_authority, new_bootstrap_token, new_encryption_key, new_key_pair};
use ctl::release::prepare;
use jiff::Timestamp;
use platform_tests::scene::{COMPUTE, Pod, SECURE, write_pod};
use platform_tests::workspace::{Bucket, Operator, group};
use serde_json::Value;
use shared::bundle::{Mode, Release};
use shared::documents::{KeyringContent, OwnFile};
use shared::names::{Place, ReleaseNumber};
use shared::secret::SecretBytes;

/// What is no secret; `*` is any one member.
const PUBLIC: [&str; 8] = [
    "environment",
    "groups/*/roots/*",
    "pki/authorities/*/*/name",
    "pki/authorities/*/*/certificate",
    "pki/leaves/*/certificate",
    "pki/service_accounts/*/public",
    "pki/bootstrap/*/id",
    "pki/encryption/*/name",
];
const ALSO_PUBLIC: [&str; 2] = ["pki/ssh/public", "files/*/*/*/mode"];

type Found = BTreeMap<String, BTreeSet<String>>;

fn is_public(path: &str) -> bool {
    let matches = |pattern: &&str| {
        let (parts, pattern): (Vec<&str>, Vec<&str>) =
            (path.split('/').collect(), pattern.split('/').collect());
        let fits = |(part, wanted): (&&str, &&str)| *wanted == "*" || part == wanted;
        parts.len() == pattern.len() && parts.iter().zip(&pattern).all(fits)
    };
    PUBLIC.iter().chain(&ALSO_PUBLIC).any(matches)
}

/// Every private text of the keyring by its path in it.
fn private_values(content: &KeyringContent) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, all: &mut BTreeMap<String, String>) {
        let below = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        };
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    walk(&below(name), value, all);
                }
            }
            Value::Array(items) => {
                for (at, value) in items.iter().enumerate() {
                    walk(&below(&at.to_string()), value, all);
                }
            }
            Value::String(text) if !is_public(path) => {
                all.insert(path.to_owned(), text.clone());
            }
            _ => {}
        }
    }
    let mut all = BTreeMap::new();
    walk("", &serde_json::to_value(content).unwrap(), &mut all);
    all
}

/// The bytes that give a value away, whatever stands around them: a PEM block's content, what base64 encodes, the text.
fn core(text: &str) -> Vec<u8> {
    if text.starts_with("-----BEGIN") {
        let body: String = text.lines().filter(|l| !l.starts_with('-')).collect();
        return STANDARD.decode(body).unwrap();
    }
    match STANDARD.decode(text) {
        Ok(bytes) if text.len() > 20 => bytes,
        _ => text.as_bytes().to_vec(),
    }
}

/// A file's bytes, and what is base64 or hex in them, decoded; three times over.
fn views(bytes: &[u8], depth: u32) -> Vec<Vec<u8>> {
    let mut all = vec![bytes.to_vec()];
    if depth == 0 {
        return all;
    }
    let joined: Vec<u8> = bytes.iter().copied().filter(|b| *b != b'\n').collect();
    // As a JSON string has them.
    let unescaped = String::from_utf8_lossy(bytes).replace("\\n", "");
    for text in [bytes, &joined, unescaped.as_bytes()] {
        let in_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        for run in text.split(|b| !in_base64(b)).filter(|run| run.len() >= 16) {
            if let Ok(decoded) = STANDARD.decode(run) {
                all.extend(views(&decoded, depth - 1));
            }
        }
    }
    all
}

fn holds(views: &[Vec<u8>], core: &[u8]) -> bool {
    assert!(core.len() >= 7, "too short to look for");
    let within = |view: &Vec<u8>| view.windows(core.len()).any(|window| window == core);
    views.iter().any(within)
}

/// Which private values lie where: a pod's secret directory is one place, any other file its own.
fn search(content: &KeyringContent, release: &Release) -> Found {
    let secrets = private_values(content);
    let cores: Vec<(&String, Vec<u8>)> = secrets.iter().map(|(p, t)| (p, core(t))).collect();
    let mut found = Found::new();
    let index = serde_json::to_vec(release.index()).unwrap();
    let files = release.files().map(|(entry, bytes)| {
        let place = match entry.path.place() {
            Place::Secret { pod, .. } => format!("secrets/{pod}"),
            _ => entry.path.to_string(),
        };
        (place, bytes.expose().to_vec())
    });
    for (place, bytes) in files.chain([("the index".to_owned(), index)]) {
        let views = views(&bytes, 3);
        for (path, core) in &cores {
            if holds(&views, core) {
                let here = found.entry(place.clone()).or_default();
                here.insert((*path).clone());
            }
        }
    }
    found
}

/// The whole truth about who may have what.
fn expected(group: &str) -> Found {
    let leaf = |name: &str| format!("pki/leaves/{name}/key");
    let at = |place: &str, values: Vec<String>| (place.to_owned(), BTreeSet::from_iter(values));
    let mut all = match group {
        SECURE => vec![
            at(
                "secrets/etcd",
                vec![
                    leaf("etcd-server"),
                    leaf("etcd-peer"),
                    leaf("etcd-peer-client"),
                ],
            ),
            at(
                "secrets/kube-apiserver",
                vec![
                    leaf("apiserver"),
                    leaf("etcd-client"),
                    leaf("apiserver-kubelet-client"),
                    leaf("front-proxy-client"),
                    "pki/service_accounts/current/key".to_owned(),
                    "pki/encryption/current/secret".to_owned(),
                ],
            ),
            at(
                "secrets/kube-controller-manager",
                vec![
                    leaf("kube-controller-manager"),
                    "pki/service_accounts/current/key".to_owned(),
                    "pki/authorities/kubelet-client/current/key".to_owned(),
                ],
            ),
            at("secrets/kube-scheduler", vec![leaf("kube-scheduler")]),
            at(
                "secrets/addons",
                vec![leaf("addons"), leaf("addons-bootstrap")],
            ),
            at(
                "secrets/addons_objects",
                vec!["pki/bootstrap/current/secret".to_owned()],
            ),
            at(
                "secrets/web",
                vec!["files/secure/web/token/bytes".to_owned()],
            ),
        ],
        _ => vec![at(
            "host/kubelet/bootstrap.kubeconfig",
            vec!["pki/bootstrap/current/secret".to_owned()],
        )],
    };
    all.push(at("secrets/kube-proxy", vec![leaf("kube-proxy")]));
    all.push(at(
        "agent/group.key",
        vec![format!("groups/{group}/group_key")],
    ));
    all.into_iter().collect()
}

/// An operator with every pod that the platform has secrets for, and one of his own.
async fn operator(bucket: &Bucket) -> Operator {
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    let web = Pod {
        file: "web",
        name: "web",
        image: "registry.k8s.io/pause:3.10",
        secrets: &[("beside", "from the working directory")],
        host_port: None,
    };
    write_pod(&operator, SECURE, &web).unwrap();
    ctl::keyring::read_or_create(&operator.context)
        .await
        .unwrap();
    ctl::keyring::modify(&operator.context, |content| {
        let file = OwnFile {
            bytes: SecretBytes::new(b"an operator's own token".to_vec()),
            mode: Mode::new(0o440),
            uid: 0,
            gid: 65534,
        };
        let files = content.files.entry(group(SECURE)).or_default();
        let web = files.entry("web".to_owned()).or_default();
        Ok(web.insert("token".to_owned(), file).is_none())
    })
    .await
    .unwrap();
    operator
}

#[tokio::test]
async fn every_private_value_is_exactly_where_it_is_needed() {
    let bucket = Bucket::start().await.unwrap();
    let operator = operator(&bucket).await;
    operator.publish().await.unwrap();
    let keyring = operator.keyring().await.unwrap();
    // Four keys a group, its own key, each authority's, each leaf's, and six more.
    let all = private_values(&keyring.content);
    assert!(all.len() >= 2 * 5 + 4 + 13 + 5, "{:?}", all.keys());
    for name in [SECURE, COMPUTE] {
        let published = operator.published(&group(name)).await.unwrap();
        let current = published.current().unwrap();
        let release = published_release(&operator.context, current).await.unwrap();
        assert_eq!(search(&keyring.content, &release), expected(name), "{name}");
        if name == SECURE {
            let token = release
                .index()
                .files
                .iter()
                .find(|f| f.path.as_str() == "secrets/web/token")
                .unwrap();
            assert_eq!((token.mode.bits(), token.uid, token.gid), (0o440, 0, 65534));
        }
    }
}

/// While everything is being rotated, only what reads old data or still is accepted goes along.
#[tokio::test]
async fn a_rotation_takes_no_key_along_that_is_not_needed() {
    let bucket = Bucket::start().await.unwrap();
    let operator = operator(&bucket).await;
    let mut content = operator.keyring().await.unwrap().content;
    let now = Timestamp::now();
    let pki = content.pki.as_mut().unwrap();
    for (name, authority) in &mut pki.authorities {
        let next = new_authority("local", *name, 2, now).unwrap();
        authority.stage(next).unwrap();
    }
    pki.service_accounts.stage(new_key_pair().unwrap()).unwrap();
    pki.encryption.stage(new_encryption_key()).unwrap();
    pki.bootstrap.stage(new_bootstrap_token()).unwrap();
    let number = ReleaseNumber::new(1).unwrap();
    let mut judged = 0;
    for promoted in [false, true] {
        if promoted {
            let pki = content.pki.as_mut().unwrap();
            for authority in pki.authorities.values_mut() {
                authority.promote().unwrap();
            }
            pki.service_accounts.promote().unwrap();
            pki.encryption.promote().unwrap();
            pki.bootstrap.promote().unwrap();
            let names = ctl::pki::Names::of(&operator.context.workspace.environment);
            let made = ctl::pki::complete(&mut content.pki, &names, now).unwrap();
            assert!(made.iter().all(|m| m.contains("another authority")));
        }
        let other = if promoted { "previous" } else { "next" };
        for name in [SECURE, COMPUTE] {
            let workspace = &operator.context.workspace;
            let prepared = prepare(workspace, &group(name), Some(&content), now).unwrap();
            let release = prepared.0.number(number).unwrap();
            let mut wanted = expected(name);
            if name == SECURE {
                let mut more = |place: &str, value: String| {
                    wanted.entry(place.to_owned()).or_default().insert(value);
                };
                more(
                    "secrets/kube-apiserver",
                    format!("pki/encryption/{other}/secret"),
                );
                more(
                    "secrets/addons_objects",
                    format!("pki/bootstrap/{other}/secret"),
                );
            }
            assert_eq!(search(&content, &release), wanted, "{name}, {other}");
            judged += 1;
        }
    }
    assert_eq!(judged, 4);
}

#[test]
fn the_search_finds_what_is_hidden_in_the_usual_ways() {
    let key = "-----BEGIN PRIVATE KEY-----\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n-----END PRIVATE KEY-----\n";
    let core = core(key);
    assert_eq!(core.len(), 32);
    let twice = STANDARD.encode(STANDARD.encode(key));
    for hidden in [
        key.to_owned(),
        key.replace('\n', "\\n"),
        format!("client-key-data: {}", STANDARD.encode(key)),
        format!("{{\"a\": \"{twice}\"}}"),
    ] {
        assert!(holds(&views(hidden.as_bytes(), 3), &core), "{hidden}");
    }
    assert!(!holds(
        &views(b"client-key-data: AAECAwQFBgcICQoLDA0O", 3),
        &core
    ));
    assert!(is_public("pki/leaves/admin/certificate"));
    assert!(!is_public("pki/leaves/admin/key"));
    assert!(!is_public("pki/leaves/certificate"));
}
