//! `gupd policy import`: a configuration that passes the check, a report, and nothing written for another file.

use std::fs;
use std::path::Path;

use crate::process::{Ended, Process, gupd};

pub(crate) const POLICY: &str = r#"{"name":"Branch","enabled":true,"configuration":{"windows":{
  "server":{"gup":{"default_port":2968,"max_disk_cache_size":20480,"max_bandwidth_allowed":8000,
    "download_from_default_after":-1,"single_gup":"gup.example",
    "explicit_gup":{"explicit_mappings":[{"client_subnet_addr":"10.1.2.0","mapping_type":"IP_ADDRESS",
      "mapping_value":"10.1.2.5","port":2967}]}}},
  "schedule":{"frequency":"WEEKLY","day":"SUNDAY","start_hour":3,"start_minute":0}}}}"#;

fn import(policy: &Path, flags: &[&str]) -> Ended {
    let mut command = gupd(["policy", "import", "--upstream", "http://sepm.example.com:8014"]);
    Process::start(command.arg(policy).args(flags)).wait_for_exit()
}

#[test]
fn imported_policy_passes_the_check_with_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, file) = (folder.path().join("policy.json"), folder.path().join("gupd.toml"));
    fs::write(&policy, POLICY).unwrap();
    let ended = import(&policy, &["--output", &file.to_string_lossy()]);
    assert!(ended.status.success(), "{ended:#?}");
    let report = ended.lines.join("\n");
    for text in ["wan.limit = \"8Mbit/s\"", "single_gup", "no counterpart", "group subnet-10-1-2-0-24"] {
        assert!(report.contains(text), "{text}: {report}");
    }
    let checked = Process::start(gupd(["check", "--config"]).arg(&file)).wait_for_exit();
    assert!(checked.status.success(), "{checked:#?}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("schedule = \"weekly sun 03:00\"") && text.contains("answer = \"relay\""),
        "{text}"
    );
    assert_eq!(import(&policy, &[]).lines.join("\n"), text.trim_end());
    let json = import(&policy, &["--json"]).lines.join("\n");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["configuration"], text);
    assert!(json["findings"].as_array().unwrap().iter().any(|one| one["setting"].is_null()), "{json:#}");
    import(&policy, &["--output", &file.to_string_lossy()]).assert_error(1, &["exists", "--output"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn other_file_is_one_line_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (policy, file) = (folder.path().join("policy.json"), folder.path().join("gupd.toml"));
    let output = file.to_string_lossy();
    for (text, expected) in [
        (&POLICY[..POLICY.len() / 2], "is truncated"),
        ("", "is truncated"),
        ("<html>Sign in</html>", "is not JSON"),
        (&POLICY.replace("default_port", "port"), "another version of SEPM: unknown field `port`"),
        (&POLICY.replace("WEEKLY", "MONTHLY"), "another version of SEPM: unknown variant `MONTHLY`"),
        (&POLICY.replace("IP_ADDRESS", "IP_RANGE"), "another version of SEPM: unknown variant `IP_RANGE`"),
        (
            &POLICY.replace("\"start_hour\":3", "\"start_hour\":\"3\""),
            "another version of SEPM: invalid type",
        ),
        (&POLICY.replace("client_subnet_addr", "subnet"), "remove that field from a copy of the file"),
        (&POLICY.replace("\"windows\"", "\"win\""), "no LiveUpdate policy of a known version"),
        (r#"{"name":"Firewall","configuration":{"rules":[]}}"#, "no LiveUpdate policy of a known version"),
        ("[]", "no LiveUpdate policy of a known version"),
        (&POLICY.replace("2968", "\"2968\""), "invalid type"),
        (&POLICY.replace("2968", "80000"), "80000 is not a port"),
        (&POLICY.replace("configuration", "policy"), "missing field `configuration`"),
    ] {
        fs::write(&policy, text).unwrap();
        let ended = import(&policy, &["--output", &output]);
        ended.assert_error(2, &[&policy.to_string_lossy(), expected]);
        assert_eq!((ended.lines.len(), ended.errors.lines().count()), (0, 1), "{ended:#?}");
        assert!(!file.exists(), "{expected}");
    }
    import(&folder.path().join("none.json"), &[]).assert_error(2, &["none.json: cannot be read"]);
    import(folder.path(), &[]).assert_error(2, &["cannot be read"]);
    fs::write(&policy, POLICY).unwrap();
    import(&policy, &["--time-zone", "Nowhere", "--output", &output])
        .assert_error(2, &["new configuration:"]);
    assert!(!file.exists());
}
