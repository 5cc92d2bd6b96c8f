//! Alarms, the daily summary, traces and the subnets of the site in the configuration file.

use std::time::Duration;

use super::{MANAGER, load, problems};

#[test]
fn alarm_times_are_read_within_their_bounds() {
    let alarms = |text: &str| load(&format!("{MANAGER}[alarms]\n{text}\n"));
    let loaded = alarms("saturated_after = \"1m\"\ncatalogs_after = \"2d\"").unwrap().alarms;
    assert_eq!([loaded.saturated_after, loaded.catalogs_after], [60, 2 * 86_400].map(Duration::from_secs));
    let default = load(MANAGER).unwrap().alarms;
    assert_eq!(
        [default.saturated_after, default.catalogs_after],
        [1_800, 6 * 3_600].map(Duration::from_secs)
    );
    for (text, expected) in [
        ("saturated_after = \"59s\"", "59s is below the minimum of 1m"),
        ("saturated_after = \"off\"", "not a time"),
        ("catalogs_after = \"31d\"", "31d is above the maximum of 30d"),
    ] {
        let problems = problems(alarms(text));
        assert!(problems.len() == 1 && problems[0].starts_with("gupd.toml:4:"), "{problems:?}");
        assert!(problems[0].contains(expected), "{problems:?}");
    }
}

#[test]
fn subnets_of_the_site_are_read_and_named_when_wrong() {
    let site = |text: &str| load(&format!("{MANAGER}[site]\nsubnets = {text}\n"));
    assert_eq!(site("[\"10.1.0.0/16\", \"192.0.2.7\"]").unwrap().site.subnets.len(), 2);
    assert!(load(MANAGER).unwrap().site.subnets.is_empty());
    for text in ["[\"10.1.0.0/33\"]", "[\"branch\"]", "[\"10.0.0.0/8\", \"10.0.0.0/8\"]"] {
        let problems = problems(site(text));
        assert!(problems.len() == 1 && problems[0].starts_with("gupd.toml:4:"), "{problems:?}");
    }
}

#[test]
fn summary_has_a_local_time_and_an_optional_webhook() {
    let summary = |text: &str| load(&format!("{MANAGER}[summary]\n{text}\n"));
    let loaded = summary("at = \"23:59\"\nwebhook = \"http://10.0.0.5:8080/hook?key=1\"").unwrap().summary;
    assert_eq!((loaded.at, loaded.webhook.unwrap().to_string().len()), (Some(23 * 60 + 59), 31));
    assert_eq!(load(MANAGER).unwrap().summary.at, Some(7 * 60));
    assert_eq!(summary("at = \"off\"").unwrap().summary.at, None);
    let unused = summary("at = \"off\"\nwebhook = \"http://10.0.0.5/\"").unwrap().warnings;
    assert!(
        unused.iter().any(|warning| warning.to_string().contains("while summary.at is off")),
        "{unused:?}"
    );
    for (text, expected) in [
        ("at = \"24:00\"", "00:00 of the next day"),
        ("at = \"seven\"", "or off"),
        ("webhook = \"alerts.example\"", "write it like https://"),
        ("webhook = \"ftp://alerts.example/\"", "write it like https://"),
        ("webhook = \"https://user:secret@alerts.example/\"", "credentials"),
        ("webhook_ca = \"/etc/gupd/ca.pem\"", "no https URL"),
        ("webhook_ca = \"/etc/gupd/ca.pem\"\nwebhook = \"http://10.0.0.5/\"", "no https URL"),
        ("webhook_ca = \"\"\nwebhook = \"https://10.0.0.5/\"", "empty path"),
    ] {
        let problems = problems(summary(text));
        assert!(problems.len() == 1 && problems[0].starts_with("gupd.toml:4:"), "{problems:?}");
        assert!(problems[0].contains(expected), "{problems:?}");
    }
}

#[test]
fn traces_have_an_endpoint_and_a_ratio() {
    let traces = |text: &str| load(&format!("{MANAGER}[traces]\n{text}\n"));
    let loaded = traces("endpoint = \"https://collector.example:4318/v1/traces\"\nratio = 1").unwrap().traces;
    assert_eq!((loaded.endpoint.as_ref().unwrap().port_u16(), loaded.ratio), (Some(4318), 1.0));
    assert!(loaded.unsupported().unwrap().to_string().contains("/gupd.toml:4: traces.endpoint: "));
    let default = load(MANAGER).unwrap().traces;
    assert_eq!((default.endpoint.clone(), default.ratio, default.unsupported()), (None, 0.01, None));
    for (text, expected) in [
        ("ratio = 1.1", "from 0 to 1"),
        ("ratio = -0.1", "from 0 to 1"),
        ("ratio = nan", "from 0 to 1"),
        ("ratio = \"1%\"", "from 0 to 1"),
        ("endpoint = \"127.0.0.1:4318\"", "write it like http://127.0.0.1:4318/v1/traces"),
        ("endpoint = \"grpc://127.0.0.1:4317\"", "write it like http://127.0.0.1:4318/v1/traces"),
        ("endpoint = \"http://user:secret@127.0.0.1/\"", "credentials"),
    ] {
        let problems = problems(traces(text));
        assert!(problems.len() == 1 && problems[0].starts_with("gupd.toml:4:"), "{problems:?}");
        assert!(problems[0].contains(expected), "{problems:?}");
    }
}
