use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn issue(key: &KeyPair, from: i32, to: i32) -> String {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params.self_signed(key).unwrap().pem()
}

fn check(files: &[(&str, &str)]) -> Vec<String> {
    let files: BTreeMap<String, Vec<u8>> = files
        .iter()
        .map(|(n, t)| ((*n).to_owned(), t.as_bytes().to_vec()))
        .collect();
    check_pem_files("etcd", &files, now())
        .problems
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn every_supported_kind_of_key_matches_its_certificate_and_no_other() {
    let kinds = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ];
    for kind in kinds {
        let (key, other) = (
            KeyPair::generate_for(kind).unwrap(),
            KeyPair::generate_for(kind).unwrap(),
        );
        let certificate = issue(&key, 2026, 2027);
        assert_eq!(
            check(&[("a.crt", &certificate), ("a.key", &key.serialize_pem())]),
            [""; 0],
            "{kind:?}"
        );
        assert_eq!(
            check(&[("a.crt", &certificate), ("a.key", &other.serialize_pem())]),
            ["etcd/a.crt: the certificate does not belong to the key in a.key"],
            "{kind:?}"
        );
    }
}

#[test]
fn validity_is_judged_at_the_given_time_and_the_first_expiry_reported() {
    let key = KeyPair::generate().unwrap();
    let files = BTreeMap::from([
        ("old.crt".to_owned(), issue(&key, 2024, 2025)),
        ("new.crt".to_owned(), issue(&key, 2027, 2028)),
        ("good.crt".to_owned(), issue(&key, 2026, 2027)),
    ]);
    let report = check_pem_files("x", &files, now());
    let kinds: Vec<_> = report
        .problems
        .iter()
        .map(|p| (p.file.as_str(), &p.kind))
        .collect();
    assert!(
        matches!(
            kinds.as_slice(),
            [
                ("new.crt", CertProblemKind::NotYetValid { .. }),
                ("old.crt", CertProblemKind::Expired { .. })
            ]
        ),
        "{kinds:?}"
    );
    assert_eq!(
        report.earliest_expiry.unwrap().to_string(),
        "2025-01-01T00:00:00Z"
    );
}

#[test]
fn a_bundle_is_checked_to_its_last_certificate() {
    let key = KeyPair::generate().unwrap();
    let bundle = issue(&key, 2026, 2027) + &issue(&key, 2020, 2021);
    assert_eq!(
        check(&[("ca.crt", &bundle)]),
        ["etcd/ca.crt: the certificate expired at 2021-01-01T00:00:00Z"]
    );
}

#[test]
fn files_that_are_not_what_their_names_say_are_problems() {
    let key = KeyPair::generate().unwrap();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cut = issue(&key, 2026, 2027).replace("-----END CERTIFICATE-----", "");
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let found = check(&[
        ("a.crt", ""),
        ("b.crt", broken),
        ("c.crt", &cut),
        ("d.key", no_key),
        ("e.yaml", "a: 1\n"),
    ]);
    assert_eq!(found.len(), 4, "{found:#?}");
    for (found, part) in found.iter().zip([
        "a.crt: holds no PEM",
        "b.crt: holds a certificate",
        "c.crt: holds a PEM block",
        "d.key: holds a private key",
    ]) {
        assert!(found.contains(part), "{found}");
    }
}

#[test]
fn a_combined_pem_of_a_key_alone_is_fine() {
    let key = KeyPair::generate().unwrap();
    assert_eq!(
        check(&[("service-account.pem", &key.serialize_pem())]),
        [""; 0]
    );
}

/// Made with `openssl ecparam -name prime256v1 -genkey`, in the older SEC1 form, with a certificate by `openssl req -x509`.
#[test]
fn older_key_forms_are_read() {
    let sec1 = include_str!("testdata/sec1.key");
    let sec1_crt = include_str!("testdata/sec1.crt");
    let pkcs1 = include_str!("testdata/pkcs1.key");
    let pkcs1_crt = include_str!("testdata/pkcs1.crt");
    assert!(sec1.contains("BEGIN EC PRIVATE KEY") && pkcs1.contains("BEGIN RSA PRIVATE KEY"));
    let mismatch = |found: Vec<String>| found.iter().any(|p| p.contains("does not belong"));
    assert!(!mismatch(check(&[("a.crt", sec1_crt), ("a.key", sec1)])));
    assert!(!mismatch(check(&[("a.crt", pkcs1_crt), ("a.key", pkcs1)])));
    assert!(mismatch(check(&[("a.crt", sec1_crt), ("a.key", pkcs1)])));
    assert!(mismatch(check(&[("a.crt", pkcs1_crt), ("a.key", sec1)])));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), label in "(CERTIFICATE|PRIVATE KEY|EC PRIVATE KEY|RSA PRIVATE KEY)") {
        let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &bytes));
        let files = BTreeMap::from([("a.crt".to_owned(), pem.clone().into_bytes()), ("a.key".to_owned(), pem.into_bytes()), ("b.pem".to_owned(), bytes)]);
        prop_assert!(!check_pem_files("x", &files, now()).problems.is_empty());
    }
}

#[test]
fn the_first_expiry_is_found_in_pem_and_inside_a_kubeconfig() {
    use base64::Engine as _;
    let key = KeyPair::generate().unwrap();
    let (early, late) = (issue(&key, 2024, 2026), issue(&key, 2024, 2030));
    let at = |year: i32| {
        Some(
            format!("{year}-01-01T00:00:00Z")
                .parse::<Timestamp>()
                .unwrap(),
        )
    };
    assert_eq!(earliest_expiry(late.as_bytes()), at(2030));
    assert_eq!(
        earliest_expiry(format!("{late}{early}").as_bytes()),
        at(2026)
    );
    let embed = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let config = format!(
        "{{\"a\": \"{}\",\n\"b\": \"{}\"}}",
        embed(&late),
        embed(&early)
    );
    assert_eq!(earliest_expiry(config.as_bytes()), at(2026));
    for nothing in ["", "text", "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"] {
        assert_eq!(earliest_expiry(nothing.as_bytes()), None);
    }
    assert_eq!(earliest_expiry(&[0xff, 0xfe]), None);
}
