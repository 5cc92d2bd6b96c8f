//! `gupd clients-config`: its output, and that clients can use it. The PAC file is executed, not compared.

use std::process::Command;

use crate::process::{Ended, Process, gupd};

const SITE: &str = "[[upstream]]\nname = \"sepm\"\nurl = \"http://SEPM.example.com:8014\"\n\
    [[upstream]]\nname = \"lu\"\nurl = \"http://liveupdate.example.com\"\n\
    [[upstream]]\nname = \"secure\"\nurl = \"https://secure.example.com\"\n\
    [[route]]\nprefix = \"/content\"\nupstreams = [\"sepm\"]\nprofile = \"sep\"\n\
    [[route]]\nprefix = \"/\"\nupstreams = [\"lu\", \"secure\"]\nprofile = \"liveupdate\"\n";

fn clients_config(config: &str, arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = gupd(["clients-config", "--config"]);
    Process::start(command.arg(file).args(arguments)).wait_for_exit()
}

fn part(config: &str, only: &str) -> String {
    let ended = clients_config(config, &["--host", "relay.site", "--only", only]);
    assert!(ended.status.success(), "{ended:?}");
    ended.lines.join("\n") + "\n"
}

#[test]
fn relay_is_listed_before_its_upstreams() {
    let servers = "1. gupd http://relay.site:2967\n2. lu http://liveupdate.example.com\n\
                   3. secure https://secure.example.com\n";
    assert_eq!(part(SITE, "liveupdate").to_lowercase(), servers);
    assert_eq!(part(SITE, "gup"), "host relay.site\nport 2967\nbypass after 3 days\n");
    let hosts = "hosts/0/url=http://relay.site:2967/\nhosts/1/url=http://liveupdate.example.com/\n\
                 hosts/2/url=https://secure.example.com/\n";
    assert_eq!(part(SITE, "linux"), hosts);
    assert_eq!(part(SITE, "dns"), "gupd 300 IN CNAME relay.site.\n");
    assert_eq!(
        clients_config(SITE, &["--host", "relay1", "--only", "dns"]).lines,
        ["gupd 300 IN CNAME relay1"]
    );
}

#[test]
fn pac_file_sends_only_upstream_urls_to_the_relay() {
    let asked = [
        ("http://sepm.example.com:8014/content/x", true),
        ("http://SEPM.example.com:8014/", true),
        ("http://liveupdate.example.com/minitri.flg", true),
        ("http://liveupdate.example.com:80/minitri.flg", true),
        ("http://liveupdate.example.com:8080/", false),
        ("http://sepm.example.com/", false),
        ("http://sepm.example.com:80140/", false),
        ("https://sepm.example.com:8014/", false),
        ("https://secure.example.com/", false),
        ("http://secure.example.com/", false),
        ("http://liveupdate.example.com.evil.example/", false),
        ("http://other.example/?http://liveupdate.example.com/", false),
    ];
    let mut script = part(SITE, "pac");
    for (url, _) in asked {
        script += &format!("print(FindProxyForURL({url:?}, \"\"));\n");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy.js");
    std::fs::write(&file, script).unwrap();
    let output = Command::new("duk").arg(file).output().expect("duk: tests/run installs duktape");
    let answers = String::from_utf8(output.stdout).unwrap();
    let expected =
        asked.map(|(_, by_relay)| if by_relay { "PROXY relay.site:2967; DIRECT" } else { "DIRECT" });
    assert_eq!(answers.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn client_settings_use_public_urls() {
    let config = "[[upstream]]\nname = \"lu\"\nurl = \"http://10.0.0.1:7070\"\n\
                  public_url = \"http://updates.example\"\n";
    for only in ["liveupdate", "linux", "pac"] {
        let text = part(config, only);
        assert!(text.contains("http://updates.example") && !text.contains("10.0.0.1"), "{text}");
    }
}

#[test]
fn each_setting_has_its_certainty_or_why_it_does_not_apply() {
    let ended = clients_config(SITE, &["--host", "10.1.2.3"]);
    let all = ended.lines.join("\n");
    for certainty in ["certainty: documented.", "certainty: inferred, test", "certainty: unverified, test"] {
        assert!(all.contains(certainty), "{all}");
    }
    assert_eq!(all.matches("\n== ").count() + 1, 5);
    assert!(all.contains("    gupd 300 IN A 10.1.2.3\n") && !all.contains("longer than the longest wait"));

    let windows =
        format!("{SITE}[[group]]\nname = \"branch\"\nsubnets = [\"10.0.0.0/8\"]\nspread = \"4h\"\n");
    assert!(clients_config(&windows, &[]).lines.join("\n").contains("longer than the longest wait"));

    let tls = format!(
        "[server]\ntls_cert = \"c\"\ntls_key = \"k\"\nlisten = [\"127.0.0.1:1\", \"[::1]:2\", \"10.0.0.1:443\"]\n{SITE}"
    );
    assert_eq!(part(&tls, "liveupdate").lines().next(), Some("1. gupd https://relay.site:443"));
    for only in ["pac", "gup"] {
        clients_config(&tls, &["--host", "relay", "--only", only]).assert_error(1, &["TLS"]);
    }
    let ended = clients_config("[[upstream]]\nurl = \"https://lu\"\n", &["--host", "::1"]);
    let all = ended.lines.join("\n");
    assert!(
        all.contains("1. gupd http://[::1]:2967\n") && all.contains("not applicable: no upstream uses HTTP")
    );
}

#[test]
fn invalid_host_is_refused() {
    for host in ["http://relay", "relay:2967", "a b", "x\"; alert(1)", ""] {
        clients_config(SITE, &["--host", host]).assert_error(2, &["--host"]);
    }
}

#[test]
fn shipped_zone_file_has_the_printed_record_format() {
    let zone = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/dns/gupd.zone");
    let zone = std::fs::read_to_string(zone).unwrap();
    let records: Vec<Vec<&str>> = zone
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(';'))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(records.len(), 2);
    for record in records {
        let ["gupd", "300", "IN", "A", address] = record[..] else { panic!("{record:?}") };
        address.parse::<std::net::Ipv4Addr>().unwrap();
    }
}
