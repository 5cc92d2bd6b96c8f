//! `[[listener]]`, and the TLS keys of `[server]`.

use std::time::Duration;

use gupd_config::{ClientCertificates, ConnectionBounds, ListenerSettings};

use super::{MANAGER, load, problems};

const TLS: &str = "tls_cert = \"c\"\ntls_key = \"k\"\n";

fn listener(settings: &str) -> String {
    format!("{MANAGER}[[listener]]\nname = \"internet\"\nlisten = \"0.0.0.0:8443\"\n{settings}\n")
}

#[test]
fn listener_has_settings_of_the_server_by_default() {
    let server = "[server]\nmax_header_bytes = \"16KiB\"\nheader_timeout = \"5s\"\nmax_connections = 100\n";
    let config = load(&format!("{}{server}", listener(""))).unwrap();
    let [own] = &config.server.listeners[..] else { panic!("{:?}", config.server.listeners) };
    let default = config.server.all_listeners().next().unwrap();
    let connections = Some(ConnectionBounds { max: 100, max_client: 25 });
    let (name, listen) = ("internet".to_owned(), vec!["0.0.0.0:8443".parse().unwrap()]);
    assert_eq!(*own, ListenerSettings { name, listen, connections, ..default });
    assert_eq!((own.max_header_bytes, own.header_timeout), (16 << 10, Duration::from_secs(5)));
    assert!(own.has_http2 && own.tls.is_none() && !own.is_gateway);
}

#[test]
fn gateway_is_stricter_and_has_a_group_of_its_own() {
    let config = load(&listener(&format!("gateway = true\n{TLS}client_ca = \"ca\""))).unwrap();
    let own = &config.server.listeners[0];
    assert_eq!(own.tls.as_ref().unwrap().client_certificates, ClientCertificates::Required);
    assert_eq!(own.connections, Some(ConnectionBounds { max: 256, max_client: 16 }));
    assert_eq!(
        (own.max_header_bytes, own.header_timeout.as_secs(), own.stall_timeout.as_secs()),
        (8 << 10, 15, 30)
    );
    let groups: Vec<_> = config.groups.iter().map(|group| (&*group.name, &group.listeners[..])).collect();
    assert_eq!(groups, [("internet", &["internet".to_owned()][..])]);
    // A group for all its clients takes the place of that.
    let text = listener(&format!("gateway = true\n{TLS}client_ca = \"ca\""));
    let config = load(&format!("{text}[[group]]\nname = \"roaming\"\nlisteners = \"internet\"\n")).unwrap();
    assert_eq!(config.groups.len(), 1);
    let config =
        load(&format!("{text}[[group]]\nname = \"some\"\nlisteners = \"internet\"\npaths = \"/a\"\n"))
            .unwrap();
    assert_eq!(config.groups.len(), 2);
}

#[test]
fn client_certificates_follow_from_issuers() {
    for (settings, expected) in [
        ("", ClientCertificates::Off),
        ("client_certificates = \"off\"", ClientCertificates::Off),
        ("client_ca = \"ca\"", ClientCertificates::Optional),
        ("client_ca = \"ca\"\nclient_certificates = \"required\"", ClientCertificates::Required),
    ] {
        for text in [listener(&format!("{TLS}{settings}")), format!("{MANAGER}[server]\n{TLS}{settings}\n")] {
            let server = load(&text).unwrap().server;
            let tls = server.all_listeners().last().unwrap().tls.unwrap();
            assert_eq!(tls.client_certificates, expected, "{text}");
        }
    }
}

#[test]
fn certificates_and_keys_are_lists_of_one_order() {
    let text = "[server]\ntls_cert = [\"a\", \"b\"]\ntls_key = [\"c\", \"d\"]\n";
    let tls = load(&format!("{MANAGER}{text}")).unwrap().server.tls.unwrap();
    let files: Vec<_> =
        tls.certificates.iter().map(|files| (files.cert.to_str(), files.key.to_str())).collect();
    assert_eq!(files, [(Some("a"), Some("c")), (Some("b"), Some("d"))]);
    let text = text.replace(", \"d\"", "");
    assert_eq!(
        problems(load(&format!("{MANAGER}{text}"))),
        ["gupd.toml:5: server.tls_key: lists 1 for 2 of tls_cert: list one for each, in their order"]
    );
}

#[test]
fn mistakes_of_listeners_are_reported_with_their_line() {
    let tls = |rest: &str| listener(&format!("{TLS}{rest}"));
    for (text, expected) in [
        (
            listener("gateway = true"),
            "6: listener.gateway: needs TLS with client certificates: set tls_cert, tls_key and client_ca",
        ),
        (
            tls("client_ca = \"ca\"\nclient_certificates = \"optional\"\ngateway = true"),
            "10: listener.gateway: needs client_certificates = \"required\", with tls_cert, tls_key and client_ca",
        ),
        (
            listener("client_ca = \"ca\""),
            "6: listener.client_ca: is set without tls_cert: clients present certificates over TLS only",
        ),
        (
            listener("client_certificates = \"required\""),
            "6: listener.client_certificates: is set without tls_cert: clients present certificates over TLS only",
        ),
        (
            tls("client_crl = \"l\""),
            "8: listener.client_crl: is set without client_ca, whose certificates it revokes: set both",
        ),
        (
            tls("client_certificates = \"required\""),
            "8: listener.client_certificates: needs client_ca, the issuers of the certificates: set it",
        ),
        (
            tls("client_certificates = \"always\""),
            "8: listener.client_certificates: invalid value \"always\": use one of off, optional, required",
        ),
        (
            tls("client_ca = \"ca\"\nclient_certificates = \"off\""),
            "8: listener.client_ca: is never used with client_certificates = \"off\": remove one of them",
        ),
        (listener("tls_cert = \"c\""), "6: listener.tls_cert: is set without tls_key: set both or neither"),
        (
            listener("max_connections = 5000"),
            "6: listener.max_connections: 5000 exceeds server.max_connections (4096), which includes it",
        ),
        (listener("http2 = 1"), "6: listener.http2: invalid value \"1\": use one of true, false"),
        (
            listener("[[listener]]\nname = \"internet\"\nlisten = \"0.0.0.0:9443\""),
            "7: listener.name: duplicate name \"internet\": give each listener its own name",
        ),
        (
            listener("[[listener]]\nname = \"b\"\nlisten = \"[::]:1\"\n[server]\nlisten = [\"[::1]:1\"]"),
            "8: listener.listen: [::]:1 overlaps another listen address: list each port once",
        ),
        (
            listener("[[listener]]\nname = \"b\"\nlisten = \"127.0.0.1:8443\""),
            "8: listener.listen: 127.0.0.1:8443 overlaps another listen address: list each port once",
        ),
        (
            format!("{MANAGER}[[listener]]\nname = \"default\"\nlisten = \"0.0.0.0:1\"\n"),
            "4: listener.name: \"default\" is the listener of [server]: use another name",
        ),
        (format!("{MANAGER}[[listener]]\nname = \"a\"\n"), "3: listener.listen: missing required key"),
        (
            format!("{MANAGER}[[listener]]\nlisten = \"0.0.0.0:1\"\n"),
            "3: listener.name: missing required key",
        ),
        (
            format!("{MANAGER}[[listener]]\nname = \"{}\"\nlisten = \"0.0.0.0:1\"\n", "a".repeat(33)),
            "4: listener.name: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" is too long for a name: use at most 32 characters",
        ),
        (
            format!("{}[[group]]\nname = \"a\"\nlisteners = \"lan\"\n", listener("")),
            "9: group.listeners: no listener is named \"lan\": add a [[listener]], or write \"default\" for server.listen",
        ),
        (
            format!(
                "{}[[group]]\nname = \"internet\"\nsubnets = \"10.0.0.0/8\"\n",
                tls("client_ca = \"ca\"\ngateway = true")
            ),
            "11: group.name: \"internet\" is the group of all clients of that gateway: set listeners = [\"internet\"] alone",
        ),
    ] {
        assert_eq!(problems(load(&text)), [format!("gupd.toml:{expected}")], "{text}");
    }
}
