//! Translations of whole policies.

use super::*;

/// A policy with everything that SEPM's description of its API lists.
const FULL: &str = r#"{
  "name": "Branch A", "enabled": true, "desc": "x", "lastmodifiedtime": 1760000000000,
  "sources": [{"id": "1", "version": 3}], "lockedoptions": {},
  "configuration": {
    "windows": {
      "server": {
        "use_default_mgmt_server": true, "use_liveupdate_server": false, "activate_ftp_mode": null,
        "central_lu_servers": [{"name": "lua", "url": "http://lua:7070", "password": "hunter2"}],
        "proxy": {"http_proxy": {"http_proxy_option": "CUSTOMIZED_PROXY", "auth_password": "hunter2"}},
        "gup": {
          "default_port": 2967, "max_disk_cache_size": 20480, "delete_unused_content_after": 259200,
          "max_simultaneous_download": 50, "max_bandwidth_allowed": 4000, "download_from_default_after": 1800,
          "single_gup": "gup.example", "multi_gup": {"names": [{"os_rule": {"op_systems": []}}]},
          "explicit_gup": {"explicit_mappings": [
            {"client_subnet_addr": "10.1.0.0/16", "mapping_type": "HOST_NAME", "mapping_value": "g1", "port": 2968},
            {"client_subnet_addr": "10.1.2.0", "mapping_type": "IP_ADDRESS", "mapping_value": "10.1.2.5", "port": 2967},
            {"client_subnet_addr": "10.1.2.77", "mapping_type": "SUBNET", "mapping_value": "10.1.3.0"}
          ]}
        }
      },
      "schedule": {"frequency": "DAILY", "start_hour": 3, "start_minute": 5, "randomize_window": 2,
        "retry_window": 4, "idle_detection": true, "av_def_age": 2, "day": "SUNDAY"},
      "advanced": {"allow_manual_lu": true}
    },
    "linux": {"schedule": {"frequency": "HOURLY"}}, "mac": null
  },
  "new_field": {"deep": [1, 2]}
}"#;

fn flags(policy: &Path) -> ImportFlags {
    ImportFlags {
        policy: policy.to_owned(),
        upstream: vec!["https://sepm.example.com:8014".to_owned()],
        time_zone: Some("Europe/Berlin".to_owned()),
        time_unit: TimeUnit::Seconds,
        bandwidth_unit: BandwidthUnit::Kbit,
        mapping_prefix: 24,
        output: PathBuf::from("-"),
        json: false,
    }
}

/// Imports a policy.
fn imported(
    text: &str,
    change: impl FnOnce(&mut ImportFlags),
) -> Result<(String, Vec<ImportFinding>), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.json");
    std::fs::write(&path, text).unwrap();
    let mut flags = flags(&path);
    change(&mut flags);
    import(&flags).map_err(|error| match error {
        CommandError::Configuration(message) | CommandError::Failed(message) => message,
    })
}

/// Imports a policy that has these fields of `gup` and `schedule` only.
fn with(gup: &str, schedule: &str) -> Result<String, String> {
    let text = format!(
        r#"{{"configuration":{{"windows":{{"server":{{"gup":{{{gup}}}}},"schedule":{{{schedule}}}}}}}}}"#
    );
    imported(&text, |_| {}).map(|(text, _)| text)
}

#[test]
fn every_setting_of_a_policy_has_its_place() {
    let (text, findings) = imported(FULL, |_| {}).unwrap();
    for line in [
        "url = \"https://sepm.example.com:8014\"",
        "listen = [\"0.0.0.0:2967\", \"0.0.0.0:2968\"]",
        "quota = \"20GiB\"",
        "max_unused = \"3d\"",
        "max_downloads = 50",
        "limit = \"4Mbit/s\"",
        "answer = \"redirect\"",
        "schedule = \"daily 03:05\"",
        "random = \"2h\"",
        "retry_window = \"4h\"",
        "time_zone = \"Europe/Berlin\"",
        "name = \"subnet-10-1-2-0-24\"",
        "subnets = [\"10.1.0.0/16\"]",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    assert!(text.find("10.1.2.0/24").unwrap() < text.find("10.1.0.0/16").unwrap(), "{text}");
    assert!(text.contains("are mapped to 10.1.2.5, providers of 10.1.3.0."), "{text}");
    let untranslated: Vec<_> =
        findings.iter().filter(|one| one.setting.is_none()).map(|one| &*one.field).collect();
    for field in [
        "windows.server.gup.single_gup",
        "windows.server.gup.multi_gup.names",
        "windows.server.central_lu_servers",
        "windows.server.proxy.http_proxy.http_proxy_option",
        "windows.server.use_default_mgmt_server",
        "windows.schedule.idle_detection",
        "windows.schedule.av_def_age",
        "windows.advanced.allow_manual_lu",
        "linux",
        "new_field.deep",
    ] {
        assert!(untranslated.contains(&field), "{field}: {untranslated:?}");
        assert!(text.contains(&format!("# - {field} = ")), "{field}: {text}");
    }
    assert!(!untranslated.contains(&"mac"), "{untranslated:?}");
    assert!(!text.contains("hunter2") && !format!("{findings:?}").contains("hunter2"));
}

#[test]
fn values_become_settings_or_stay_at_the_default() {
    for (gup, schedule, present, absent) in [
        ("", "", "listen = [\"0.0.0.0:2967\"]", "quota"),
        (r#""max_disk_cache_size": 1"#, "", "quota = \"64MiB\"", "quota = \"1MiB\""),
        (r#""max_disk_cache_size": 0"#, "", "no limit: store.quota", "\nquota"),
        (r#""max_disk_cache_size": -1"#, "", "no limit: store.quota", "\nquota"),
        (r#""max_disk_cache_size": 9223372036854775807"#, "", "no limit: store.quota", "\nquota"),
        (r#""max_simultaneous_download": 0"#, "", "lan.max_downloads is unlimited", "\nmax_downloads"),
        (r#""max_bandwidth_allowed": 0"#, "", "wan.limit is unlimited", "\nlimit"),
        (r#""max_bandwidth_allowed": 1"#, "", "limit = \"1KiB/s\"", "no limit"),
        (r#""delete_unused_content_after": 72"#, "", "not plausible as seconds", "\nmax_unused"),
        (r#""download_from_default_after": 0"#, "", "answer = \"relay\"", "redirect\""),
        (r#""download_from_default_after": 30"#, "", "not plausible as seconds", "\nanswer"),
        ("", r#""frequency": "CONTINUOUS", "randomize_window": 2"#, "schedule = \"continuous\"", "\nrandom"),
        ("", r#""frequency": "HOURLY""#, "schedule = \"every 4h\"", "\nrandom"),
        (
            "",
            r#""frequency": "HOURLY", "download_interval": 2, "randomize_window": 5"#,
            "random = \"1h\"",
            "5h",
        ),
        (
            "",
            r#""frequency": "WEEKLY", "day": "FRIDAY", "start_hour": 20, "randomize_window": 1"#,
            "schedule = \"weekly fri 20:00\"",
            "random = \"1h\"",
        ),
        ("", r#""frequency": "DAILY", "retry_window": 400"#, "retry_window = \"7d\"", "400h"),
    ] {
        let text = with(gup, schedule).unwrap();
        assert!(text.contains(present) && !text.contains(absent), "{gup} {schedule}: {text}");
    }
}

#[test]
fn units_are_those_of_the_administrator() {
    for (unit, value, expected) in [
        (TimeUnit::Milliseconds, "259200000", "3d"),
        (TimeUnit::Minutes, "90", "90m"),
        (TimeUnit::Hours, "72", "3d"),
        (TimeUnit::Days, "3", "3d"),
    ] {
        let text = FULL.replace("259200", value);
        let (text, _) = imported(&text, |flags| flags.time_unit = unit).unwrap();
        assert!(text.contains(&format!("max_unused = \"{expected}\"")), "{unit:?}: {text}");
    }
    let (text, _) = imported(FULL, |flags| flags.bandwidth_unit = BandwidthUnit::Kbyte).unwrap();
    assert!(text.contains("limit = \"32Mbit/s\""), "{text}");
    let (text, _) = imported(FULL, |flags| flags.mapping_prefix = 28).unwrap();
    assert!(text.contains("10.1.2.0/28") && text.contains("10.1.2.64/28"), "{text}");
}

#[test]
fn wrong_values_are_one_line_with_their_field() {
    for (gup, schedule, expected) in [
        (r#""default_port": 70000"#, "", "default_port: 70000 is not a port"),
        (r#""default_port": 0"#, "", "default_port: 0 is not a port"),
        (r#""default_port": -1"#, "", "is not a port"),
        (
            r#""explicit_gup": {"explicit_mappings": [{"client_subnet_addr": "branch\n"}]}"#,
            "",
            "explicit_mappings[0].client_subnet_addr",
        ),
        (
            r#""explicit_gup": {"explicit_mappings": [{"client_subnet_addr": "10.0.0.0", "port": 0}]}"#,
            "",
            "explicit_mappings.port: 0",
        ),
        (r#""multi_gup": {}, "mode": 3"#, "", "unknown field `mode`"),
        ("", r#""frequency": "DAILY", "start_hour": 24"#, "start_hour: 24"),
        ("", r#""frequency": "DAILY", "start_minute": -1"#, "start_minute: -1"),
        ("", r#""frequency": "WEEKLY""#, "day: missing"),
        ("", r#""frequency": "HOURLY", "download_interval": 1000"#, "download_interval: 1000"),
        ("", r#""every": 4"#, "unknown field `every`"),
    ] {
        let error = with(gup, schedule).unwrap_err();
        assert!(error.contains(expected) && error.lines().count() == 1, "{expected}: {error}");
    }
    let error = imported(r#"{"configuration":{"windows":{"server":{}}}}"#, |_| {}).unwrap_err();
    assert!(error.contains("neither a gup nor a schedule"), "{error}");
    let error = imported(FULL, |flags| flags.upstream = vec!["sepm".to_owned()]).unwrap_err();
    assert!(error.contains("new configuration:") && error.contains("upstream"), "{error}");
}

#[test]
fn text_of_a_policy_leaves_no_comment() {
    for name in ["a\\n[server]\\nadmin = \\\"0.0.0.0:1\\\"", "\\u001b[2J", "\\u2028x"] {
        let text = FULL.replace("Branch A", name).replace("gup.example", name).replace("new_field", name);
        let (text, _) = imported(&text, |_| {}).unwrap();
        assert!(!text.lines().any(|line| line.starts_with("admin")) && !text.contains('\x1b'), "{text}");
    }
}
