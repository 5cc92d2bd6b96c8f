//! `gupd policy explain` without a running relay.

use crate::process::{Ended, Process, gupd};

const SITE: &str = r#"
[site]
time_zone = "UTC"
[wan]
limit = "8Mbit/s"
[[wan_limit]]
name = "full-sets"
pattern = "**/full.zip"
limit = "1Mbit/s"
[lan]
max_downloads = 50
[[upstream]]
url = "http://second.example"
priority = 2
[[upstream]]
url = "http://first.example"
priority = 1
[[content_type]]
name = "client-patches"
pattern = "/patches/**"
[[group]]
name = "pilot"
subnets = ["10.1.2.0/24"]
paths = ["/patches/**"]
allow = ["client-patches"]
[[group]]
name = "branch"
subnets = ["10.9.0.0/16", "10.1.0.0/16"]
client_limit = "500KiB/s"
spread = "4h"
[[group]]
name = "laptops"
certificates = ["*.laptops.example"]
upstreams = ["second.example"]
[[group]]
name = "roaming"
listeners = ["internet"]
[[listener]]
name = "internet"
listen = "127.0.0.1:8443"
gateway = true
tls_cert = "relay.pem"
tls_key = "relay.key"
client_ca = "site-ca.pem"
[server]
tls_cert = "relay.pem"
tls_key = "relay.key"
client_ca = "site-ca.pem"
"#;
const FULL: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/full.zip";

fn explain(client: &str, path: &str, more: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    std::fs::write(&file, SITE).unwrap();
    let mut command = gupd(["policy", "explain", "--client", client, "--path", path, "--config"]);
    Process::start(command.arg(file).args(more)).wait_for_exit()
}

fn value<'a>(ended: &'a Ended, name: &str) -> Vec<&'a str> {
    let own = ended.lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    own.map(str::trim_start).collect()
}

#[test]
fn explain_shows_group_schedule_limits_and_upstreams() {
    let ended = explain("10.1.2.3", FULL, &[]);
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(value(&ended, "route"), ["/"]);
    assert_eq!(value(&ended, "class"), ["payload, form full"]);
    assert_eq!(value(&ended, "content type"), ["virus-definitions-32"]);
    let group = value(&ended, "group")[0];
    assert!(
        group.starts_with("branch: ")
            && group.ends_with("gupd.toml:26 is the first match, by subnets 10.1.0.0/16"),
        "{group}"
    );
    assert_eq!(value(&ended, "windows"), ["always open"]);
    let turn = value(&ended, "turn")[0];
    assert!(
        turn.starts_with("now, or ") && turn.contains(" in a spread of 4h, for revision 261121001"),
        "{turn}"
    );
    assert_eq!(
        value(&ended, "limit"),
        ["500KiB/s group.client_limit", "1Mbit/s wan_limit full-sets", "8Mbit/s wan.limit"]
    );
    assert_eq!(value(&ended, "downloads"), ["50 lan.max_downloads"]);
    assert_eq!(
        value(&ended, "upstream"),
        [
            "1 first.example http://first.example/ of the route",
            "2 second.example http://second.example/ of the route"
        ]
    );
}

#[test]
fn explain_shows_denial_status_and_matching_group() {
    let denied = explain("10.1.3.3", "/patches/a.zip", &[]);
    assert!(value(&denied, "denied")[0].contains("get 404"), "{denied:?}");
    let allowed = explain("10.1.2.3", "/Patches/a.zip", &[]);
    assert_eq!(value(&allowed, "denied"), [""; 0]);
    assert!(
        value(&allowed, "group")[0].ends_with("by subnets 10.1.2.0/24 and paths /patches/**"),
        "{allowed:?}"
    );
    let laptop =
        explain("192.0.2.1", "/a", &["--certificate", "urn:a", "--certificate", "PC-7.laptops.example"]);
    assert_eq!(value(&laptop, "upstream"), ["2 second.example http://second.example/ of the group"]);
    assert!(value(&laptop, "group")[0].ends_with("by certificates *.laptops.example"), "{laptop:?}");
    let roaming = explain("10.1.2.3", FULL, &["--listener", "internet"]);
    assert!(value(&roaming, "group")[0].ends_with("by listeners internet"), "{roaming:?}");
    let unknown = explain("10.1.2.3", FULL, &["--listener", "intranet"]);
    unknown.assert_error(2, &["--listener intranet: no [[listener]] has this name"]);
    let unmatched = explain("2001:db8::1", "/minitri.flg", &[]);
    assert_eq!(value(&unmatched, "group"), ["default: no [[group]] matches"]);
}

#[test]
fn denial_names_the_setting_that_causes_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    let text = r#"
[[upstream]]
url = "http://manager"
[[route]]
prefix = "/"
[[route]]
prefix = "/site"
deny_download = ["packages"]
[[content_type]]
name = "client-patches"
pattern = "/patches/**"
[[content_type]]
name = "packages"
pattern = "/{packages,site}/**"
[[group]]
name = "branch"
subnets = ["10.1.0.0/16"]
deny = ["packages", "client-patches"]
[[group]]
name = "pilot"
subnets = ["10.2.0.0/16"]
"#;
    std::fs::write(&file, text).unwrap();
    let explain = |client: &str, path: &str, more: &[&str]| {
        let mut command = gupd(["policy", "explain", "--client", client, "--path", path, "--config"]);
        Process::start(command.arg(&file).args(more)).wait_for_exit()
    };
    let branch = format!("packages is in deny of group branch ({}:15): remove it there", file.display());
    let pilot = format!(
        "client-patches are denied by default: add them to allow of group pilot ({}:19)",
        file.display()
    );
    let named = format!("client-patches is in deny of group branch ({}:15): remove it there", file.display());
    let route = "packages is in deny_download of route /site: remove it there";
    let rest = "add a [[group]] for this client with allow = [\"client-patches\"]";
    let nobody = format!("client-patches are denied by default: {rest}");
    for (client, path, causes, expected) in [
        ("10.1.0.1", "/packages/a", &["group.deny"][..], branch.clone()),
        ("10.1.0.1", "/patches/a", &["group.deny"], named),
        ("10.2.0.1", "/patches/a", &["group.allow"], pilot),
        ("10.3.0.1", "/patches/a", &["group.allow"], nobody),
        ("10.3.0.1", "/site/a", &["route.deny_download"], route.to_owned()),
        ("10.1.0.1", "/site/a", &["group.deny", "route.deny_download"], format!("{branch}; {route}")),
        ("10.2.0.1", "/packages/a", &[], String::new()),
    ] {
        let shown = explain(client, path, &[]);
        let line = value(&shown, "denied").join("");
        assert_eq!(line, if expected.is_empty() { expected } else { format!("clients get 404: {expected}") });
        let json: serde_json::Value =
            serde_json::from_str(&explain(client, path, &["--json"]).lines.join("\n")).unwrap();
        assert_eq!(json["denied_by"], serde_json::json!(causes), "{client} {path}");
    }
}

#[test]
fn explain_as_json_has_the_same_values() {
    let ended = explain("::ffff:10.1.2.3", FULL, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&ended.lines.join("\n")).unwrap();
    assert_eq!((json["client"].as_str(), json["class"].as_str()), (Some("10.1.2.3"), Some("payload")));
    assert_eq!(json["group"]["because"][0]["value"], "10.1.0.0/16");
    assert_eq!(
        (&json["upstreams"][0]["name"], &json["upstreams_of"]),
        (&"first.example".into(), &"route".into())
    );
    assert_eq!(json["limits"][1]["bytes_per_second"], 125_000);
    // The relay's unit test of client offsets has the same value for this client and revision.
    assert_eq!(
        (json["turn"]["spread_seconds"].as_f64(), json["turn"]["offset_seconds"].as_f64()),
        (Some(14_400.0), Some(6_785.019))
    );
    assert!(json["turn"]["known"] == json["time"] && json["denied"].is_null(), "{json}");
}

#[test]
fn invalid_explain_request_is_one_line_error() {
    explain("10.1.2.3", "/a/../b", &[]).assert_error(1, &["/a/../b", "400"]);
    for (client, path, word) in [("10.1.2.3", "content", "not a path"), ("10.1.2", "/a", "--client")] {
        let ended = explain(client, path, &[]);
        assert!(ended.status.code() == Some(2) && ended.errors.contains(word), "{ended:?}");
    }
}
