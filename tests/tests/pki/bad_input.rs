//! What is wrong is told with its object, and nothing is lost or half done.

use bytes::Bytes;
use ctl::keyring::{self, KeyringRolledBack};
use ctl::pki::{Names, complete};
use jiff::Timestamp;
use platform_tests::workspace::{Bucket, Operator, group};
use shared::documents::{KeyringContent, open_keyring, seal_keyring};
use shared::store::{PutCondition, keys};

use super::{fresh, run};

async fn put(operator: &Operator, bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let store = &operator.context.store;
    store
        .put(keys::KEYRING, bytes, PutCondition::Always)
        .await
        .unwrap();
}

fn raw(bucket: &Bucket) -> Vec<u8> {
    std::fs::read(bucket.object(keys::KEYRING)).unwrap()
}

async fn seal(operator: &Operator, content: &KeyringContent, version: u64) -> Vec<u8> {
    seal_keyring(content, version, operator.context.wrap.as_ref(), &[])
        .await
        .unwrap()
}

/// A self-signed certificate that is valid in those years, and another key.
fn certificate(from: i32, to: i32) -> (String, String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    let pem = params.self_signed(&key).unwrap().pem();
    let other = rcgen::KeyPair::generate().unwrap();
    (pem, key.serialize_pem(), other.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_certificate_of_an_operators_is_named_wherever_it_lies() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let (expired, its_key, _) = certificate(2000, 2001);
    operator
        .write_secret("secure/etcd/old.crt", &expired)
        .unwrap();
    operator
        .write_secret("secure/etcd/old.key", &its_key)
        .unwrap();
    let (valid, _, another) = certificate(2000, 2100);
    let e = ["-e", "local"];
    for (name, text) in [("mine.crt", &valid), ("mine.key", &another)] {
        let name = format!("secure/kube-scheduler/{name}");
        let said = run(
            &operator,
            &["secrets", "put", e[0], e[1], &name],
            text.as_bytes(),
        )
        .await;
        assert_eq!(said.code, 0, "{}", said.err);
    }
    let kept = raw(&bucket);
    let said = run(&operator, &["publish", e[0], e[1]], b"").await;
    assert_eq!(said.code, 2, "{}", said.err);
    for part in [
        "nothing was published",
        "secrets/secure/etcd/old.crt: the certificate expired at 2001-01-01",
        "secrets/secure/kube-scheduler/mine.crt: the certificate does not belong to the key in mine.key",
    ] {
        assert!(said.err.contains(part), "{part:?} is not in {}", said.err);
    }
    let published = operator.published(&group("secure")).await.unwrap();
    assert_eq!(published.current().unwrap().release().get(), 1);
    assert_eq!(raw(&bucket), kept);
}

#[tokio::test]
async fn a_file_that_two_sources_have_is_refused_with_both() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator
        .write_secret("secure/etcd/server.key", "mine\n")
        .unwrap();
    operator
        .write_secret("secure/kube-apiserver/encryption.yaml", "mine\n")
        .unwrap();
    let error = operator.publish().await.unwrap_err();
    let told = format!("{error:#}");
    for part in [
        "secrets/secure/etcd/server.key and the server.key that the platform makes for pod etcd",
        "secrets/secure/kube-apiserver/encryption.yaml and the encryption.yaml that the platform",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    assert_eq!(bucket.keys(), Vec::<String>::new(), "no keyring either");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_keyring_is_refused_and_left_as_it_is() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let whole = raw(&bucket);
    let cut = whole[..whole.len() / 2].to_vec();
    let text = String::from_utf8(whole.clone()).unwrap();
    let at = text.find("\"payload\"").unwrap() + 400;
    let mut flipped = whole.clone();
    flipped[at] = if flipped[at] == b'A' { b'B' } else { b'A' };
    let later = text.replacen("\"format\": 1", "\"format\": 2", 1);
    let e = ["-e", "local"];
    for (damaged, says) in [
        (cut, "does not parse"),
        (flipped, "cannot be encrypted or decrypted"),
        (later.into_bytes(), "has format 2"),
    ] {
        put(&operator, &damaged).await;
        for verb in [
            &["publish", e[0], e[1]][..],
            &["diff", e[0], e[1]],
            &["secrets", "list", e[0], e[1]],
            &["secrets", "put", e[0], e[1], "secure/etcd/mine"],
        ] {
            let said = run(&operator, verb, b"value").await;
            assert_eq!(said.code, 1, "{verb:?}: {}", said.err);
            assert!(said.err.contains(says), "{verb:?}: {}", said.err);
        }
        assert_eq!(raw(&bucket), damaged);
    }
    put(&operator, &whole).await;
    operator.publish().await.unwrap();
}

#[tokio::test]
async fn nothing_is_written_on_top_of_an_old_keyring_put_back() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    operator.publish().await.unwrap();
    let old = raw(&bucket);
    let content = operator.keyring().await.unwrap().content;
    let new = seal(&operator, &content, 2).await;
    put(&operator, &new).await;
    operator
        .amend("secure/etcd.yaml.j2", "cpu: 100m", "cpu: 110m")
        .unwrap();
    operator.publish().await.unwrap();

    put(&operator, &old).await;
    // Enough changes would lift it over the version that was published.
    for _ in 0..3 {
        let error = keyring::modify(&operator.context, |content| {
            content.files.entry(group("secure")).or_default();
            Ok(true)
        })
        .await
        .unwrap_err();
        assert!(error.is::<KeyringRolledBack>(), "{error:?}");
    }
    assert_eq!(raw(&bucket), old);
}

#[tokio::test]
async fn a_keyring_from_before_the_pki_is_completed_and_keeps_its_keys() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    let mut before = keyring::read_or_create(&operator.context)
        .await
        .unwrap()
        .content;
    before.pki = None;
    let text = serde_json::to_string(&before).unwrap();
    assert!(
        !text.contains("pki") && !text.contains("files"),
        "as it was written then"
    );
    put(&operator, &seal(&operator, &before, 7).await).await;

    let plans = operator.plan().await.unwrap();
    assert_eq!(plans.made, ["made the cluster's PKI, tokens and keys"]);
    let after = operator.keyring().await.unwrap();
    assert_eq!(after.mark.version, 8);
    assert_eq!(after.content.groups, before.groups);
    assert!(after.content.pki.is_some());
    // And then it rests.
    let plans = operator.plan().await.unwrap();
    assert_eq!(plans.made, [""; 0]);
    assert_eq!(operator.keyring().await.unwrap().mark, after.mark);
}

#[tokio::test]
async fn a_keyring_of_a_newer_build_is_refused_and_not_stripped() {
    let bucket = Bucket::start().await.unwrap();
    let operator = Operator::new(&bucket.endpoint()).await.unwrap();
    let content = keyring::read_or_create(&operator.context)
        .await
        .unwrap()
        .content;
    let mut value = serde_json::to_value(&content).unwrap();
    value["of_a_newer_build"] = "secret".into();
    let refused = serde_json::from_value::<KeyringContent>(value).unwrap_err();
    assert!(
        refused.to_string().contains("of_a_newer_build"),
        "{refused}"
    );
    let refused = refused.to_string();
    assert!(!refused.contains("\"secret\""), "{refused}");
}

#[tokio::test]
async fn leaves_that_are_due_are_renewed_once_by_two_publishers_at_once() {
    let bucket = Bucket::start().await.unwrap();
    let ann = Operator::new(&bucket.endpoint()).await.unwrap();
    ann.publish().await.unwrap();
    let mut content = ann.keyring().await.unwrap().content;
    // As if they had been made nine months ago.
    let names = Names::of(&ann.context.workspace.environment);
    let then = Timestamp::now() - jiff::SignedDuration::from_hours(24 * 270);
    let mut pki = None;
    complete(&mut pki, &names, then).unwrap();
    let aged = pki.clone().unwrap();
    content.pki = pki;
    put(&ann, &seal(&ann, &content, 2).await).await;

    let bob = ann.colleague(&bucket.endpoint()).await.unwrap();
    let (a, b) = tokio::join!(
        keyring::read_or_create(&ann.context),
        keyring::read_or_create(&bob.context)
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.mark.version, &a.content), (3, &b.content));
    let renewed = a.content.pki.unwrap();
    assert_eq!(renewed.authorities, aged.authorities);
    for (name, leaf) in &renewed.leaves {
        assert_ne!(Some(leaf), aged.leaves.get(name), "{name}");
    }
    let bytes = raw(&bucket);
    let name = &ann.context.workspace.name;
    let (_, version) = open_keyring(&bytes, name, ann.context.wrap.as_ref())
        .await
        .unwrap();
    assert_eq!(version, 3);
}

#[test]
fn no_print_shows_a_key() {
    let (pki, _) = fresh("eu-west-1");
    let shown = format!("{pki:?}");
    for secret in ["PRIVATE KEY", pki.bootstrap.current.secret.expose()] {
        assert!(!shown.contains(secret));
    }
    let bytes = format!("{:?}", pki.encryption.current.secret.expose());
    assert!(!shown.contains(&bytes));
}
