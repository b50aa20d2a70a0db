use super::*;
use proptest::prelude::*;

fn policy() -> RolloutPolicy {
    RolloutPolicy {
        max_unavailable: MaxUnavailable::Nodes(1),
        deadline: TimeSpan::from_secs(900),
        settle: TimeSpan::from_secs(10),
        probes: vec![Probe {
            name: "apiserver".to_owned(),
            check: ProbeCheck::Http {
                url: "https://127.0.0.1:6443/readyz".to_owned(),
                ca: Some("secrets/kube-apiserver/ca.crt".parse().unwrap()),
                certificate: None,
                key: None,
            },
            period: TimeSpan::from_secs(5),
            timeout: TimeSpan::from_secs(5),
            success_threshold: 2,
            failure_threshold: 3,
        }],
        waiver: None,
    }
}

fn fields(change: impl Fn(&mut RolloutPolicy)) -> Vec<String> {
    let mut policy = policy();
    change(&mut policy);
    let problems = policy.problems(|path| path.as_str() == "secrets/kube-apiserver/ca.crt");
    problems.into_iter().map(|(field, _)| field).collect()
}

#[test]
fn each_rule_names_its_field() {
    assert_eq!(fields(|_| ()), [""; 0]);
    assert_eq!(fields(|p| p.settle = TimeSpan::from_secs(300)), ["settle"]);
    let field = |change: fn(&mut Probe)| fields(move |p| change(&mut p.probes[0]));
    assert_eq!(field(|p| p.name = "A".to_owned()), ["probes[0].name"]);
    assert_eq!(
        field(|p| p.period = TimeSpan::from_secs(600)),
        ["probes[0].period"]
    );
    assert_eq!(
        field(|p| p.success_threshold = 0),
        ["probes[0].success_threshold"]
    );
    assert_eq!(
        field(|p| p.check = ProbeCheck::File {
            path: "etc".to_owned()
        }),
        ["probes[0].file.path"]
    );
    let other = |ca: Option<&str>, url: &str| ProbeCheck::Http {
        url: url.to_owned(),
        ca: ca.map(|ca| ca.parse().unwrap()),
        certificate: None,
        key: None,
    };
    let http = |ca, url| fields(|p| p.probes[0].check = other(ca, url));
    assert_eq!(http(None, "https://127.0.0.1/"), ["probes[0].http.ca"]);
    assert_eq!(
        http(Some("host/x"), "https://127.0.0.1/"),
        ["probes[0].http.ca"]
    );
    assert_eq!(http(None, "http://localhost/"), ["probes[0].http.url"]);
    assert_eq!(
        fields(|p| p.probes.push(p.probes[0].clone())),
        ["probes[1].name"]
    );
}

#[test]
fn comes_back_from_json_as_it_was() {
    let text = serde_json::to_string(&policy()).unwrap();
    assert!(text.contains("\"deadline\":\"15m\""), "{text}");
    assert_eq!(
        serde_json::from_str::<RolloutPolicy>(&text).unwrap(),
        policy()
    );
    let strict = text.replace("\"settle\"", "\"setle\"");
    assert!(serde_json::from_str::<RolloutPolicy>(&strict).is_err());
    for (text, max) in [
        ("2", Ok(MaxUnavailable::Nodes(2))),
        ("\"25%\"", Ok(MaxUnavailable::Percent(25))),
        ("0", Err(())),
        ("\"2\"", Err(())),
        ("\"101%\"", Err(())),
    ] {
        let read = serde_json::from_str::<MaxUnavailable>(text).map_err(|_| ());
        assert_eq!(read, max, "{text}");
    }
}

#[test]
fn a_share_is_at_least_one_node() {
    assert_eq!(MaxUnavailable::Percent(25).of(3), 1);
    assert_eq!(MaxUnavailable::Percent(25).of(50), 12);
    assert_eq!(
        MaxUnavailable::Percent(100).of(1000),
        limits::ROLLOUT_HOLDERS
    );
    assert_eq!(MaxUnavailable::Nodes(2).of(1), 2);
}

proptest! {
    #[test]
    fn a_time_span_is_its_text(milliseconds in 0_u64..100_000_000) {
        let span = TimeSpan::from_millis(milliseconds);
        prop_assert_eq!(span.to_string().parse::<TimeSpan>().unwrap(), span);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,20}") {
        let _ = text.parse::<TimeSpan>();
        let _ = text.parse::<MaxUnavailable>();
    }
}
