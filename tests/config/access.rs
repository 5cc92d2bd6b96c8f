//! Access lists, trusted proxies, and the requests that a route passes.

use gupd_config::{Class, ClientAddressSource, ClosedTo};

use super::{MANAGER, load, problems};

#[test]
fn access_and_proxies_are_read_with_their_defaults() {
    let config = load(MANAGER).unwrap();
    assert!(config.server.access.allow.is_empty() && config.server.proxies.subnets.is_empty());
    assert_eq!(config.routes[0].pass, None);
    let server = "[server]\nallow = [\"10.0.0.0/8\", \"2001:db8::/32\"]\ndeny = \"10.9.0.1\"\ntrusted_proxies = \"192.0.2.10\"\n";
    let route =
        "[[route]]\nprefix = \"/\"\npass = [\"payload GET\", \"private *\"]\ndeny = \"10.8.0.0/16\"\n";
    let config = load(&format!("{server}{MANAGER}{route}")).unwrap();
    assert_eq!((config.server.access.allow.len(), config.server.access.deny.len()), (2, 1));
    assert_eq!(config.server.proxies.source, ClientAddressSource::ProxyProtocol);
    let route = &config.routes[0];
    let pass = route.pass.as_ref().unwrap();
    assert_eq!(pass.check(Class::Generic, &http::Method::GET), Err(ClosedTo::Path));
    assert_eq!(pass.check(Class::Private, &http::Method::PUT), Ok(()));
    assert_eq!(route.access.deny.len(), 1);
    let alone = load(&format!("{MANAGER}[server]\nclient_address = \"forwarded\"\n")).unwrap();
    assert!(alone.warnings[0].to_string().contains("without trusted_proxies"), "{:?}", alone.warnings);
}

#[test]
fn mistakes_of_access_are_named_with_their_line() {
    let text = "\
[server]
allow = [\"10.0.0.0/8\", \"10.0.0.0/8\"]
deny = \"10.1.2.3/16\"
trusted_proxies = \"0.0.0.0/0\"
client_address = \"x-real-ip\"
client_identity = \"ip\"
[[upstream]]
url = \"http://manager:8014\"
[[route]]
prefix = \"/\"
pass = [\"payload\", \"generic get\", \"other GET\", \"private CONNECT\", \"catalog GET\", \"catalog HEAD\"]
max_upload = \"many\"
max_pass_through = 0
";
    let lines = problems(load(text));
    for expected in [
        "gupd.toml:2: server.allow: 10.0.0.0/8 is listed twice",
        "gupd.toml:3: server.deny: ",
        "gupd.toml:4: server.trusted_proxies: 0.0.0.0/0 trusts every client",
        "gupd.toml:5: server.client_address: invalid value \"x-real-ip\": use one of proxy-protocol, forwarded, x-forwarded-for",
        "gupd.toml:6: server.client_identity: invalid value \"ip\": use one of address, mac",
        "gupd.toml:11: route.pass: \"payload\" has no methods: write it like \"payload GET POST\"",
        "gupd.toml:11: route.pass: \"get\" is not a method: write it in capitals",
        "gupd.toml:11: route.pass: invalid value \"other\": use one of payload, catalog, private, generic",
        "gupd.toml:11: route.pass: CONNECT never passes",
        "gupd.toml:11: route.pass: catalog is listed twice",
        "gupd.toml:12: route.max_upload: ",
        "gupd.toml:13: route.max_pass_through: 0 is below the minimum of 1",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected} in {lines:#?}");
    }
    assert_eq!(lines.len(), 12, "{lines:#?}");
}

#[test]
fn closed_path_of_a_profile_must_be_private() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vendor.toml");
    let text = "[profile]\nname = \"vendor\"\ntitle = \"A vendor\"\n[[path]]\npattern = \"/admin/**\"\nclass = \"generic\"\nclosed = true\ncertainty = \"inferred\"\n";
    std::fs::write(&file, text).unwrap();
    let lines = problems(load(&format!("{MANAGER}[profiles]\nfiles = {file:?}\n")));
    assert!(
        lines[0].contains("vendor.toml:7: path.closed: is set for a class other than private"),
        "{lines:?}"
    );
}
