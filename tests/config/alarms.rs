//! Alarms and the subnets of the site in the configuration file.

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
