//! Proxies before the relay: their word about a client's address is taken, nobody else's. The client's address then
//! decides about access, groups and limits, and managers see it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use gupd_config::{AccessSettings, ClientAddressSource, Config, GroupSettings};

use crate::support::{Gate, PAYLOAD, Request, Resource, Response, Site, WireClient, bytes};

const PRIVATE: &str = "/secars/secars.dll";
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 8);

fn trust(config: &mut Config, source: ClientAddressSource) {
    config.server.proxies.subnets = vec![IpAddr::from(PROXY).into()];
    config.server.proxies.source = source;
    config.server.header_timeout = Duration::from_secs(2);
}

fn site(source: ClientAddressSource) -> Site {
    Site::with_config(|config| trust(config, source))
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.10 4711 2967\r\n").into_bytes()
}

fn v2(client: &str) -> Vec<u8> {
    let client: Ipv4Addr = client.parse().unwrap();
    let addresses = [&client.octets()[..], &[192, 0, 2, 10], &[0x12, 0x67, 0x0b, 0x97]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..], &addresses].concat()
}

/// Connects from an address, and sends bytes before anything else.
async fn connect(site: &Site, from: Ipv4Addr, begin: &[u8]) -> WireClient {
    let mut client = WireClient::connect_from(from.into(), site.address()).await;
    client.write(begin).await.unwrap();
    client
}

async fn get(client: &mut WireClient, path: &str) -> Response {
    client.send(&Request::get(path)).await.unwrap()
}

fn refused(reason: &str) -> String {
    format!("gupd_refused_total{{reason=\"{reason}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn header_of_a_trusted_proxy_names_the_client() {
    let site = site(ClientAddressSource::ProxyProtocol);
    site.manager.put(PRIVATE, Resource::new("profile"));
    let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 2967\r\n".to_vec();
    for (header, client) in [
        (v1("10.1.2.3"), "10.1.2.3"),
        (v2("10.1.2.4"), "10.1.2.4"),
        (six, "2001:db8::7"),
        // The proxy itself, such as a health check.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.9"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec(), "127.0.0.9"),
    ] {
        let mut connection = connect(&site, PROXY, &header).await;
        // For every request of the connection.
        for _ in 0..2 {
            assert_eq!(get(&mut connection, PRIVATE).await.status, 200, "{client}");
            let seen = site.manager.requests_for(PRIVATE).pop().unwrap();
            assert_eq!(seen.header("x-forwarded-for"), Some(client));
        }
    }
    // A client that comes by itself needs no header.
    let mut direct = connect(&site, STRANGER, b"").await;
    assert_eq!(get(&mut direct, PRIVATE).await.status, 200);
    let seen = site.manager.requests_for(PRIVATE).pop().unwrap();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn header_of_an_unlisted_peer_is_refused_and_counted() {
    for source in [ClientAddressSource::ProxyProtocol, ClientAddressSource::Forwarded] {
        let site = site(source);
        for (count, header) in
            [v1("10.1.2.3"), v2("10.1.2.3"), b"PROXY UNKNOWN\r\n".to_vec()].iter().enumerate()
        {
            let mut client = connect(&site, STRANGER, header).await;
            client.write_request(&Request::get(PRIVATE)).await.ok();
            // At most a refusal, and the end of the connection.
            let answer = client.read_head().await;
            assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400));
            site.wait_for_metric(&refused("unlisted-proxy"), (count + 1) as f64).await;
        }
        assert_eq!(site.manager.total_requests(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_header_of_a_proxy_ends_its_connection() {
    let site = site(ClientAddressSource::ProxyProtocol);
    site.manager.put(PRIVATE, Resource::new("profile"));
    let oversized = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(), vec![0; 3_000]].concat();
    let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 500]].concat();
    let cases: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY TCP4 10.0.0.1 192.0.2.10 4711 99999\r\n",
        b"PROXY TCP4 10.0.0.1\r\n",
        &long,
        &oversized,
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x02ab",
        // Truncated: refused after server.header_timeout.
        b"PROXY TCP4 10.0.",
    ];
    for (count, begin) in cases.iter().enumerate() {
        let mut client = connect(&site, PROXY, begin).await;
        assert!(client.is_closed().await, "{begin:?}");
        site.wait_for_metric(&refused("proxy-header"), (count + 1) as f64).await;
    }
    assert_eq!(site.manager.total_requests(), 0);
    let mut good = connect(&site, PROXY, &v2("10.1.2.3")).await;
    assert_eq!(get(&mut good, PRIVATE).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_limits_see_the_client_behind_a_proxy() {
    let site = Site::with_config(|config| {
        trust(config, ClientAddressSource::ProxyProtocol);
        let mut group = GroupSettings::catch_all("branch");
        group.subnets = vec!["10.2.0.0/16".parse().unwrap()];
        group.deny = vec!["virus-definitions-32".to_owned()];
        config.groups = vec![group];
        config.lan.client_downloads = Some(1);
        config.lan.client_queue = 0;
    });
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 2_000_000)).stalled(500_000, &gate));
    let denied = get(&mut connect(&site, PROXY, &v2("10.2.0.1")).await, PAYLOAD).await;
    assert_eq!(denied.status, 404);
    let mut running = Vec::new();
    for client in ["10.1.0.1", "10.1.0.2"] {
        let mut first = connect(&site, PROXY, &v1(client)).await;
        first.write_request(&Request::get(PAYLOAD)).await.unwrap();
        assert_eq!(first.read_head().await.unwrap().status, 200, "{client}");
        running.push(first);
        let second = get(&mut connect(&site, PROXY, &v2(client)).await, PAYLOAD).await;
        assert_eq!(second.status, 503, "{client} has its one download");
    }
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_proxy_count_for_their_clients() {
    let site = Site::with_config(|config| {
        trust(config, ClientAddressSource::ProxyProtocol);
        config.server.max_connections = 8;
        config.server.max_client_connections = 1;
    });
    site.manager.put(PRIVATE, Resource::new("profile"));
    let mut held = Vec::new();
    for client in ["10.1.0.1"; 6].iter().chain(&["10.1.0.2"]) {
        let mut connection = connect(&site, PROXY, &v1(client)).await;
        assert_eq!(get(&mut connection, PRIVATE).await.status, 200, "{client}");
        held.push(connection);
    }
    let mut greedy = connect(&site, PROXY, &v1("10.1.0.1")).await;
    assert_eq!(greedy.read_head().await.unwrap().status, 503);
    site.wait_for_metric(&refused("too-many-client-connections"), 1.0).await;
    drop(greedy);
    held.truncate(6);
    site.wait_for_metric("gupd_connections", 6.0).await;
    let mut other = connect(&site, PROXY, &v1("10.1.0.3")).await;
    assert_eq!(get(&mut other, PRIVATE).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn field_of_a_trusted_proxy_alone_names_the_client() {
    for (source, name, value) in [
        (ClientAddressSource::XForwardedFor, "X-Forwarded-For", "10.9.9.9, 10.2.0.1"),
        (ClientAddressSource::Forwarded, "Forwarded", "for=10.9.9.9, for=10.2.0.1;proto=http"),
    ] {
        let site = Site::with_config(|config| {
            trust(config, source);
            config.routes[0].access =
                AccessSettings { allow: vec!["10.2.0.0/16".parse().unwrap()], deny: Vec::new() };
        });
        site.manager.put(PRIVATE, Resource::new("profile"));
        let mut proxy = connect(&site, PROXY, b"").await;
        let mut stranger = connect(&site, STRANGER, b"").await;
        let asked = Request::get(PRIVATE).header(name, value);
        assert_eq!(proxy.send(&asked).await.unwrap().status, 200, "{name}");
        let seen = site.manager.requests_for(PRIVATE).pop().unwrap();
        assert!(seen.header("x-forwarded-for").unwrap().ends_with("127.0.0.9"), "{seen:?}");
        assert_eq!(stranger.send(&asked).await.unwrap().status, 403, "{name} of a stranger");
        // Each request of the connection has a client of its own.
        let other = value.replace("10.2.0.1", "10.3.0.1");
        assert_eq!(proxy.send(&Request::get(PRIVATE).header(name, &other)).await.unwrap().status, 403);
        assert_eq!(proxy.send(&Request::get(PRIVATE)).await.unwrap().status, 403, "the proxy itself");
        let malformed = Request::get(PRIVATE).header(name, "for=\"10.2.0.1");
        assert_eq!(proxy.send(&malformed).await.unwrap().status, 400);
        assert_eq!(site.metric(&refused("client-address")).await, 1.0);
        assert_eq!(proxy.send(&asked).await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mapped_address_is_its_ipv4_address() {
    let site = Site::with_config(|config| {
        trust(config, ClientAddressSource::XForwardedFor);
        config.server.access.deny = vec!["10.2.0.0/16".parse().unwrap()];
    });
    site.manager.put(PRIVATE, Resource::new("profile"));
    let mut proxy = connect(&site, PROXY, b"").await;
    for (client, status) in [
        ("10.1.0.1", 200),
        ("10.2.0.1", 403),
        ("::ffff:10.2.0.1", 403),
        ("[::ffff:a02:1]:4711", 403),
        ("10.2.0.1, ::ffff:127.0.0.9", 403),
        ("10.2.0.1, ::ffff:10.1.0.1", 200),
    ] {
        let request = Request::get(PRIVATE).header("X-Forwarded-For", client);
        assert_eq!(proxy.send(&request).await.unwrap().status, status, "{client}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_client_is_refused_before_its_request() {
    let subnets = |list: &[&str]| list.iter().map(|subnet| subnet.parse().unwrap()).collect::<Vec<_>>();
    let mut site = Site::with_config(|config| {
        trust(config, ClientAddressSource::ProxyProtocol);
        config.server.access.deny = subnets(&["127.0.0.8/32", "10.2.0.0/16"]);
    });
    site.manager.put(PRIVATE, Resource::new("profile"));
    let mut direct = connect(&site, STRANGER, b"").await;
    assert_eq!(direct.read_head().await.unwrap().status, 403);
    let mut behind = connect(&site, PROXY, &v2("10.2.0.1")).await;
    assert_eq!(behind.read_head().await.unwrap().status, 403);
    site.wait_for_metric(&refused("client-denied"), 2.0).await;
    let mut open = connect(&site, PROXY, &v2("10.1.0.1")).await;
    assert_eq!(get(&mut open, PRIVATE).await.status, 200);
    // A reload applies to new and open connections.
    site.config.server.access = AccessSettings { allow: subnets(&["127.0.0.8/32"]), deny: Vec::new() };
    let config = site.config.clone();
    site.relay_mut().reload(config).unwrap();
    assert_eq!(get(&mut open, PRIVATE).await.status, 403);
    let mut direct = connect(&site, STRANGER, b"").await;
    assert_eq!(get(&mut direct, PRIVATE).await.status, 200);
    let mut behind = connect(&site, PROXY, &v2("10.1.0.1")).await;
    assert_eq!(behind.read_head().await.unwrap().status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_one_ipv6_host_share_its_slots() {
    let site = Site::with_config(|config| {
        trust(config, ClientAddressSource::ProxyProtocol);
        config.lan.client_downloads = Some(1);
        config.lan.client_queue = 0;
    });
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 2_000_000)).stalled(500_000, &gate));
    let header = |client: &str| format!("PROXY TCP6 {client} 2001:db8:9::1 4711 2967\r\n").into_bytes();
    let mut first = connect(&site, PROXY, &header("2001:db8:0:1::1")).await;
    first.write_request(&Request::get(PAYLOAD)).await.unwrap();
    assert_eq!(first.read_head().await.unwrap().status, 200);
    for number in 2..=20 {
        let mut again = connect(&site, PROXY, &header(&format!("2001:db8:0:1::{number:x}"))).await;
        assert_eq!(get(&mut again, PAYLOAD).await.status, 503, "{number}");
    }
    let mut other = connect(&site, PROXY, &header("2001:db8:0:2::1")).await;
    other.write_request(&Request::get(PAYLOAD)).await.unwrap();
    assert_eq!(other.read_head().await.unwrap().status, 200, "another host");
    gate.open();
}
