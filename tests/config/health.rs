//! Priorities, checks and health of upstreams in the configuration file.

use std::time::Duration;

use super::{MANAGER, load, problems};

#[test]
fn upstream_priority_and_check_load() {
    let config =
        load(&format!("{MANAGER}priority = 7\ncheck = \"/secars/secars.dll?hello,secars\"\n")).unwrap();
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.priority, Some(7));
    assert_eq!(upstream.check.as_ref().map(ToString::to_string).unwrap(), "/secars/secars.dll?hello,secars");
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn checks_can_be_turned_off() {
    assert_eq!(load(&format!("{MANAGER}[health]\ninterval = \"off\"\n")).unwrap().health.interval, None);
}

#[test]
fn retry_max_is_at_least_retry() {
    let health = load(&format!("{MANAGER}[health]\nretry = \"5m\"\n")).unwrap().health;
    assert_eq!((health.retry, health.retry_max), (Duration::from_secs(300), Duration::from_secs(300)));
}

#[test]
fn invalid_health_settings_are_reported_with_their_line() {
    let text = "\
[health]
interval = \"never\"
timeout = \"10m\"
failures = 0
retry = \"30s\"
retry_max = \"20s\"
slow_start = \"2h\"
[fill]
total_timeout = \"0s\"
[[upstream]]
url = \"http://a\"
priority = 0
check = \"secars\"
[[upstream]]
url = \"http://b\"
priority = \"first\"
check = \"/a b\"
";
    let expected = [
        "2: health.interval: \"never\" is not a time: write it like 30d, 4h, 15m, 10s or 300ms, or off",
        "3: health.timeout: 10m is above the maximum of 5m",
        "4: health.failures: 0 is below the minimum of 1",
        "6: health.retry_max: 20s is below health.retry (30s)",
        "7: health.slow_start: 2h is above the maximum of 1h",
        "9: fill.total_timeout: 0s is below the minimum of 1s",
        "12: upstream.priority: 0 is below the minimum of 1",
        "13: upstream.check: \"secars\" is not a path: write it like /secars/secars.dll?hello,secars",
        "16: upstream.priority: \"first\" is not a whole number: use 1 to 1000",
        "17: upstream.check: \"/a b\" is not a path: write it like /secars/secars.dll?hello,secars",
    ]
    .map(|line| format!("gupd.toml:{line}"));
    assert_eq!(problems(load(text)), expected);
}

#[test]
fn head_timeout_above_total_timeout_is_a_warning() {
    let config = load(&format!("[fill]\ntotal_timeout = \"30s\"\n{MANAGER}")).unwrap();
    let lines: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(
        line.ends_with("fill.head_timeout: exceeds fill.total_timeout (30s), which ends the attempt first"),
        "{line}"
    );
}

#[test]
fn check_settings_without_interval_are_warnings() {
    let config =
        load(&format!("[health]\ninterval = \"off\"\ntimeout = \"9s\"\n{MANAGER}check = \"/\"\n")).unwrap();
    let lines: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    let [timeout, check] = &lines[..] else { panic!("{lines:?}") };
    assert!(timeout.ends_with("3: health.timeout: has no effect while health.interval is off"), "{timeout}");
    assert!(check.ends_with("upstream.check: has no effect while health.interval is off"), "{check}");
}
