use std::os::unix::fs::PermissionsExt as _;

use rcgen::{BasicConstraints, IsCa};

use super::*;

const NODE: &str = "ip-10-0-0-1.eu-central-1.compute.internal";

fn authority(name: &str, years: (i32, i32)) -> (SecretBytes, SecretBytes) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    let certificate = params.self_signed(&key).unwrap().pem();
    (
        SecretBytes::new(certificate.into_bytes()),
        SecretBytes::new(key.serialize_pem().into_bytes()),
    )
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn later(days: i64) -> Timestamp {
    now() + SignedDuration::from_hours(24 * days)
}

fn blocks(path: &Path) -> (Vec<u8>, Vec<u8>) {
    let text = std::fs::read(path).unwrap();
    let mut blocks = Pem::iter_from_buffer(&text).map(|p| p.unwrap().contents);
    (blocks.next().unwrap(), blocks.next().unwrap())
}

#[test]
fn due_by_age_name_authority_and_clock() {
    let ca = Sha256Digest::of(b"ca");
    let current = Current {
        authority: ca,
        name: "n".into(),
        not_before: later(0),
        not_after: later(90),
    };
    let due = |at| due(Some(&current), &ca, "n", at);
    assert_eq!(due(later(0)), None);
    assert_eq!(due(later(59)), None);
    assert_eq!(due(later(60)), Some(Due::Age));
    assert_eq!(due(later(300)), Some(Due::Age));
    assert_eq!(due(later(-1)), Some(Due::Clock));
    let other = Sha256Digest::of(b"other");
    assert_eq!(
        super::due(Some(&current), &other, "n", later(1)),
        Some(Due::Authority)
    );
    assert_eq!(
        super::due(Some(&current), &ca, "m", later(1)),
        Some(Due::Name)
    );
    assert_eq!(super::due(None, &ca, "n", later(1)), Some(Due::Absent));
}

#[test]
fn issues_renews_with_the_same_key_and_follows_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubelet/kubelet-client.pem");
    let one = authority("one", (2025, 2036));
    let mut kubelet = KubeletCertificate::new(dir.path(), NODE);
    assert_eq!(kubelet.care(None, now()).unwrap(), None);
    assert_eq!(kubelet.expires(), None);
    assert!(!path.exists(), "nothing where the release holds no CA");
    let mut care = |pair: &(SecretBytes, SecretBytes), at| {
        kubelet
            .care(Some((pair.0.clone(), pair.1.clone())), at)
            .unwrap()
    };
    assert_eq!(care(&one, now()), Some(Due::Absent));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let (certificate, key) = blocks(&path);
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    let subject = parsed.subject().to_string();
    assert_eq!(subject, format!("O=system:nodes, CN=system:node:{NODE}"));
    assert_eq!(parsed.issuer().to_string(), "CN=one");
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert!(!parsed.is_ca());

    assert_eq!(care(&one, later(59)), None);
    assert_eq!(blocks(&path).0, certificate, "not touched before it is due");
    assert_eq!(care(&one, later(61)), Some(Due::Age));
    assert_ne!(blocks(&path).0, certificate);
    assert_eq!(blocks(&path).1, key, "the key is kept");
    let two = authority("two", (2025, 2036));
    assert_eq!(care(&two, later(62)), Some(Due::Authority));
    assert_eq!(blocks(&path).1, key);
    std::fs::write(&path, "damaged").unwrap();
    assert_eq!(care(&two, later(63)), Some(Due::Absent));
    assert_ne!(blocks(&path).1, key, "a key that is lost is made anew");
    assert_eq!(care(&two, later(63)), None);
}

#[test]
fn is_worth_a_look_when_touched_or_due() {
    let dir = tempfile::tempdir().unwrap();
    let mut kubelet = KubeletCertificate::new(dir.path(), NODE);
    assert!(kubelet.is_worth_a_look(now()));
    kubelet
        .care(Some(authority("one", (2025, 2036))), now())
        .unwrap();
    assert!(!kubelet.is_worth_a_look(later(1)));
    assert!(kubelet.is_worth_a_look(later(70)));
    std::fs::remove_file(dir.path().join("kubelet/kubelet-client.pem")).unwrap();
    assert!(kubelet.is_worth_a_look(later(1)));
}

#[test]
fn never_outlives_its_authority_and_refuses_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut kubelet = KubeletCertificate::new(dir.path(), NODE);
    let short = authority("short", (2025, 2027));
    let expired = authority("expired", (2020, 2021));
    let (mixed, _) = authority("mixed", (2025, 2036));
    for bad in [
        expired,
        (mixed.clone(), SecretBytes::new(b"no key".to_vec())),
        (
            SecretBytes::new(b"no certificate".to_vec()),
            short.1.clone(),
        ),
    ] {
        let refused = kubelet.care(Some(bad), now()).unwrap_err();
        assert!(matches!(refused, KubeletError::Authority(_)), "{refused}");
    }
    let near_the_end: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
    kubelet.care(Some(short), near_the_end).unwrap();
    let (current, _) = kubelet.known.unwrap();
    assert_eq!(current.not_after, "2027-01-01T00:00:00Z".parse().unwrap());
}
