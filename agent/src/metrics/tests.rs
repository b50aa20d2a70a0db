use super::*;

#[test]
fn names_are_as_documented() {
    let m = Metrics::new(Duration::from_secs(10));
    m.polled("unchanged");
    m.failed("fetch", "timeout");
    m.adopted(Duration::from_millis(120));
    m.drift_repaired.inc();
    let text = m.text();
    for line in [
        "platform_agent_polls_total{result=\"unchanged\"} 1",
        "platform_agent_errors_total{phase=\"fetch\",kind=\"timeout\"} 1",
        "platform_agent_release_number 0",
        "platform_agent_published_release_number 0",
        "platform_agent_adoption_seconds_bucket{le=\"0.15\"} 1",
        "platform_agent_drift_repaired_total 1",
        "platform_agent_clock_skew_seconds 0",
        "platform_agent_metadata_expiry_timestamp_seconds 0",
        "platform_agent_certificate_expiry_timestamp_seconds 0",
        "platform_agent_last_success_timestamp_seconds 0",
        "platform_agent_hold 0",
        "platform_agent_foreign_files 0",
        "platform_agent_build_info{version=",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

#[test]
fn a_rollout_is_told_and_what_is_over_is_zero() {
    use shared::documents::{ProbeReport, Waiting};
    let m = Metrics::new(Duration::from_secs(10));
    let waiting = RolloutReport {
        waiting: Some(Waiting {
            release: shared::names::ReleaseNumber::new(7).unwrap(),
            kind: "halted".to_owned(),
            why: String::new(),
        }),
        probes: vec![ProbeReport {
            name: "apiserver".to_owned(),
            ok: false,
            only_warns: false,
            saw: String::new(),
        }],
        ..RolloutReport::default()
    };
    m.rollout(&waiting);
    let text = m.text();
    for line in [
        "platform_agent_rollout_waiting{reason=\"halted\"} 1",
        "platform_agent_rollout_waiting{reason=\"turn\"} 0",
        "platform_agent_probe_success{probe=\"apiserver\"} 0",
        "platform_agent_slot 0",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
    m.rollout(&RolloutReport::default());
    let text = m.text();
    assert!(text.contains("{reason=\"halted\"} 0"), "{text}");
    assert!(!text.contains("probe=\"apiserver\""), "{text}");
}

#[tokio::test(start_paused = true)]
async fn healthy_with_matching_files_and_a_recent_poll() {
    let m = Metrics::new(Duration::from_secs(10));
    assert!(m.healthy().unwrap_err().contains("starting"));
    m.disk_is(None);
    assert!(m.healthy().unwrap_err().contains("no poll"));
    m.succeeded(1);
    assert_eq!(m.healthy(), Ok(()));
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(m.healthy().unwrap_err().contains("61 seconds"));
    m.succeeded(2);
    m.disk_is(Some("a file differs"));
    assert!(m.healthy().unwrap_err().contains("differs"));
}
