//! Metrics: any scraper can parse them, and all series exist from the start.

use crate::exposition::parse;
use crate::process::{Relay, serve};
use crate::support::{Manager, PAYLOAD, Request, Resource, bytes};

#[tokio::test(flavor = "multi_thread")]
async fn known_series_exist_before_the_first_event() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    let text = relay.metrics().await;
    let families = parse(&text);
    let upstream = manager.address();
    for (family, series) in [
        ("gupd_requests_total", r#"{cache="hit",class="payload"}"#),
        ("gupd_requests_total", r#"{cache="miss",class="catalog"}"#),
        ("gupd_responses_total", r#"{status="5xx"}"#),
        ("gupd_client_sent_bytes_total", r#"{cache="hit",class="payload"}"#),
        ("gupd_upstream_received_bytes_total", &format!(r#"{{upstream="{upstream}"}}"#)),
        ("gupd_upstream_requests_total", &format!(r#"{{outcome="2xx",upstream="{upstream}"}}"#)),
        ("gupd_upstream_requests_total", &format!(r#"{{outcome="connect",upstream="{upstream}"}}"#)),
        ("gupd_saved_bytes_total", ""),
        ("gupd_fills_total", r#"{outcome="stored"}"#),
        ("gupd_fills_total", r#"{outcome="broken-off"}"#),
        ("gupd_fill_resumes_total", ""),
        ("gupd_digest_mismatches_total", r#"{by="repr-digest",then="fetched-again"}"#),
        ("gupd_refused_total", r#"{reason="foreign-target"}"#),
        ("gupd_refused_total", r#"{reason="slow-head"}"#),
        ("gupd_refused_total", r#"{reason="too-many-connections"}"#),
        ("gupd_broken_transfers_total", r#"{by="upstream"}"#),
        ("gupd_store_verification_failures_total", ""),
        ("gupd_store_evicted_objects_total", r#"{reason="quota"}"#),
        ("gupd_store_condition", r#"{state="read-only"}"#),
        ("gupd_accept_failures_total", ""),
        ("gupd_store_bytes", ""),
        ("gupd_store_deduplicated_bytes", ""),
        ("gupd_draining", ""),
        ("gupd_wan_received_bytes_total", r#"{cause="full-set-no-delta"}"#),
        ("gupd_wan_limit_bytes_per_second", ""),
        ("gupd_fill_oversized_total", ""),
        ("gupd_content_type_sent_bytes_total", r#"{content_type="virus-definitions-32"}"#),
        ("gupd_content_type_sent_bytes_total", r#"{content_type="catalog"}"#),
    ] {
        let family_samples = families.get(family).unwrap_or_else(|| panic!("no {family} in {text}"));
        assert_eq!(family_samples.samples.get(&format!("{family}{series}")), Some(&0.0), "{family}{series}");
    }
    for histogram in ["gupd_response_head_seconds", "gupd_request_seconds"] {
        assert_eq!(families[histogram].kind, "histogram");
    }
    assert!(families.keys().all(|name| name.starts_with("gupd_") || name.starts_with("process_")));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_increment_their_series() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let length = 100_000;
    manager.put(PAYLOAD, Resource::new(bytes(1, length)).cut(60_000, 1));
    let relay = Relay::start(&mut serve(&manager, folder.path()));
    relay.get(PAYLOAD).await.expect_body();
    relay.wait_until_stored(PAYLOAD).await;
    Request::new("CONNECT", "elsewhere:443").send(relay.address).await;
    // A response is counted after its last byte, so the test waits until earlier responses are counted.
    let saved_responses = |families: &std::collections::BTreeMap<_, crate::exposition::Family>| -> f64 {
        let requests = |cache| {
            families["gupd_requests_total"].samples
                [&format!(r#"gupd_requests_total{{cache="{cache}",class="payload"}}"#)]
        };
        requests("hit") + requests("collapsed")
    };
    let mut before = parse(&relay.metrics().await);
    while before["gupd_saved_bytes_total"].samples["gupd_saved_bytes_total"]
        < saved_responses(&before) * 100_000.0
    {
        before = parse(&relay.metrics().await);
    }
    relay.get(PAYLOAD).await.expect_body();
    let counted = |after: &std::collections::BTreeMap<_, crate::exposition::Family>, name: &str| -> f64 {
        let value = |families: &std::collections::BTreeMap<_, crate::exposition::Family>| {
            families[name.split('{').next().unwrap()].samples[name]
        };
        value(after) - value(&before)
    };
    let mut after = parse(&relay.metrics().await);
    while counted(&after, "gupd_saved_bytes_total") == 0.0 {
        after = parse(&relay.metrics().await);
    }
    let length = length as f64;
    assert_eq!(counted(&after, r#"gupd_requests_total{cache="hit",class="payload"}"#), 1.0);
    assert_eq!(counted(&after, r#"gupd_client_sent_bytes_total{cache="hit",class="payload"}"#), length);
    assert_eq!(counted(&after, "gupd_saved_bytes_total"), length);
    let value = |name: &str| after[name.split('{').next().unwrap()].samples[name];
    let upstream = manager.address();
    assert_eq!(value(&format!(r#"gupd_upstream_received_bytes_total{{upstream="{upstream}"}}"#)), length);
    assert_eq!(
        value(&format!(r#"gupd_upstream_requests_total{{outcome="2xx",upstream="{upstream}"}}"#)),
        2.0
    );
    // The payload is a full set, whose second part was requested again.
    assert_eq!(value(r#"gupd_wan_received_bytes_total{cause="full-set"}"#), length);
    assert_eq!(value("gupd_fill_resumes_total"), 1.0);
    assert_eq!(value(r#"gupd_fills_total{outcome="stored"}"#), 1.0);
    assert_eq!(value(r#"gupd_refused_total{reason="connect"}"#), 1.0);
    assert_eq!(value("gupd_store_objects"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn build_and_process_are_described() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    // The sandbox hides the descriptors from other users, who may run this test.
    let mut command = serve(&manager, folder.path());
    let relay = Relay::start(command.env("GUPD_SERVER_SANDBOX", "off"));
    let families = parse(&relay.metrics().await);
    let (labels, one) = families["gupd_build_info"].samples.first_key_value().unwrap();
    assert_eq!(*one, 1.0);
    for label in [concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), "revision=\"", "rustc=\"1."] {
        assert!(labels.contains(label), "{label} in {labels}");
    }
    let value = |name: &str| families[name].samples[name];
    let near = |name: &str, actual: u64| {
        let value = value(name);
        assert!(
            (actual as f64 / 3.0..actual as f64 * 3.0).contains(&value),
            "{name} is {value}, not {actual}"
        );
    };
    near("process_resident_memory_bytes", relay.process.resident_memory());
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", relay.process.id())).unwrap().count();
    near("process_open_fds", descriptors as u64);
    assert!(value("process_max_fds") >= value("process_open_fds"));
    assert!(value("process_cpu_seconds_total") >= 0.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - value("process_start_time_seconds");
    assert!((-2.0..300.0).contains(&age), "{age} s");
    assert_eq!(value("gupd_config_last_reload_successful"), 1.0);
    assert!((now - value("gupd_config_last_reload_success_timestamp_seconds")).abs() < 300.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_of_the_line_is_a_series() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let mut command = serve(&manager, folder.path());
    let relay = Relay::start(command.args(["--wan-limit", "8Mbit/s"]));
    assert!(relay.metrics().await.contains("gupd_wan_limit_bytes_per_second 1000000\n"));
}
