//! `[guard]`, and the related keys of upstreams and routes.

use std::time::Duration;

use gupd_config::Fallback;

use super::{MANAGER, load, problems};

#[test]
fn guard_settings_load_with_route_fallbacks() {
    let text = format!(
        "{MANAGER}public_url = \"https://manager.example\"\n[guard]\nanswer = \"relay\"\nwatchdog = \"300ms\"\n\
         restart_max = \"200ms\"\n[[route]]\nprefix = \"/\"\nfallback = \"redirect\"\n"
    );
    let config = load(&text).unwrap();
    assert_eq!(config.guard.answer, Fallback::Relay);
    assert_eq!(config.guard.watchdog, Duration::from_millis(300));
    assert_eq!(config.guard.restart_max, Duration::from_millis(200));
    assert_eq!(config.routes[0].fallback, Some(Fallback::Redirect));
    assert_eq!(config.upstreams[0].public_url, Some("https://manager.example".parse().unwrap()));
}

#[test]
fn invalid_guard_settings_are_reported_with_their_line() {
    let text = format!(
        "{MANAGER}public_url = \"manager/x\"\n[guard]\nanswer = \"drop\"\nwatchdog = \"1ms\"\nrestart_max = \"2h\"\n\
         [[route]]\nprefix = \"/\"\nfallback = \"307\"\n"
    );
    let lines = problems(load(&text));
    let expected = [
        "gupd.toml:3: upstream.public_url: ",
        "gupd.toml:5: guard.answer: invalid value \"drop\": use one of redirect, relay",
        "gupd.toml:6: guard.watchdog: 1ms is below the minimum",
        "gupd.toml:7: guard.restart_max: 2h is above the maximum",
        "gupd.toml:10: route.fallback: invalid value \"307\": use one of redirect, relay",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
}
