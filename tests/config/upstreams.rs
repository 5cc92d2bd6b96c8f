//! Certificates and proxies of upstreams in the configuration file.

use std::path::Path;

use gupd_config::{CertificateFiles, HttpProxy, Pin};

use super::{MANAGER, load, problems};

const SECURE: &str = "[[upstream]]\nurl = \"https://manager:8443\"\n";
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn upstream_with_ca_pins_and_proxy_loads() {
    let ones = "FF:".repeat(31) + "FF";
    let config = load(&format!(
        "{SECURE}ca = \"ca.pem\"\npin = [\"sha256:{ZEROS}\", \"sha256:{ones}\"]\n\
         client_cert = \"c.pem\"\nclient_key = \"c.key\"\n\
         proxy = \"http://proxy:3128\"\nproxy_auth_file = \"auth\"\n"
    ))
    .unwrap();
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.trust.ca.as_deref(), Some(Path::new("ca.pem")));
    let pins: Vec<_> = upstream.trust.pins.iter().map(Pin::to_string).collect();
    assert_eq!(pins, [format!("sha256:{ZEROS}"), format!("sha256:{}", "ff".repeat(32))]);
    assert_eq!(upstream.trust.client, Some(CertificateFiles { cert: "c.pem".into(), key: "c.key".into() }));
    let url = http::Uri::from_static("http://proxy:3128");
    assert_eq!(upstream.proxy, Some(HttpProxy { url, auth_file: Some("auth".into()) }));
}

#[test]
fn invalid_upstream_certificates_are_reported() {
    for (settings, expected) in [
        (
            "pin = \"00\"\n",
            "pin: \"00\" is not a pin: write sha256: and the 64 hex digits of the certificate's SHA-256",
        ),
        (
            "pin = \"sha256:xy\"\n",
            "pin: \"sha256:xy\" is not a pin: write sha256: and the 64 hex digits of the certificate's SHA-256",
        ),
        ("pin = []\n", "pin: empty list: add a value or remove the key"),
        ("ca = \"\"\n", "ca: empty path: write the path of a file or folder"),
        ("client_cert = \"c\"\n", "client_cert: is set without client_key: set both or neither"),
        ("client_key = \"c\"\n", "client_key: is set without client_cert: set both or neither"),
    ] {
        let lines = problems(load(&format!("{SECURE}{settings}")));
        assert_eq!(lines, [format!("gupd.toml:3: upstream.{expected}")]);
    }
    for digits in [62, 63, 65, 66] {
        let pin = format!("{SECURE}pin = \"sha256:{}\"\n", "0".repeat(digits));
        assert_eq!(problems(load(&pin)).len(), 1, "{digits}");
    }
}

#[test]
fn certificate_settings_of_http_upstream_are_refused() {
    for key in ["ca = \"c\"".to_owned(), format!("pin = \"sha256:{ZEROS}\"")] {
        let name = key.split_once(' ').unwrap().0;
        let lines = problems(load(&format!("{MANAGER}{key}\n")));
        let expected = "is set, but the URL is http: use https or remove it";
        assert_eq!(lines, [format!("gupd.toml:3: upstream.{name}: {expected}")]);
    }
}

#[test]
fn proxy_is_an_http_url_without_credentials() {
    for (settings, expected) in [
        (
            "proxy = \"https://p:3128\"\n",
            "proxy: \"https://p:3128\" is not an http URL: write it like http://proxy:3128",
        ),
        ("proxy = \"p:3128\"\n", "proxy: \"p:3128\" has no scheme: write it like http://proxy:3128"),
        ("proxy = \"http://a:secret@p\"\n", "proxy: contains credentials: remove them from the URL"),
        ("proxy_auth_file = \"f\"\n", "proxy_auth_file: is set without proxy: set both or remove it"),
    ] {
        let lines = problems(load(&format!("{MANAGER}{settings}")));
        assert_eq!(lines, [format!("gupd.toml:3: upstream.{expected}")]);
    }
}
