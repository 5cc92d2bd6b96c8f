//! Authentication that binds a connection (NTLM, Negotiate, Kerberos): no client ever acts as the user of another one,
//! and nothing fetched on such a connection is stored.

use std::collections::BTreeSet;
use std::net::IpAddr;

use gupd_config::{Config, HttpProxy};

use crate::support::connection_auth::{
    ADOPTING, CLOSING, ConnectionAuthServer, PROXIED, PUBLIC, ask, log_in,
};
use crate::support::{Front, Identity, PAYLOAD, Request, Site, WireClient};

const PRIVATE: &str = "/secars/me";

/// Schemes, and the token of those that take one step.
const KINDS: [(&str, &str); 7] = [
    ("NTLM", ""),
    ("ntlm", ""),
    ("Negotiate", ""),
    ("CredSSP", ""),
    ("Negotiate", "ticket"),
    ("Kerberos", "ticket"),
    ("Negotiate", "once"),
];

async fn site() -> (ConnectionAuthServer, Site) {
    let server = ConnectionAuthServer::start().await;
    let site = Site::with_upstreams(&[server.address]);
    (server, site)
}

async fn authenticate(client: &mut WireClient, (scheme, token): (&str, &str), user: &str) {
    if token.is_empty() {
        return log_in(client, PRIVATE, scheme, user).await;
    }
    let answer = ask(client, PRIVATE, &format!("{scheme} {token}-{user}")).await;
    assert_eq!(answer, (200, format!("0 bytes for {user}")), "{scheme} {token}");
}

/// Asserts that a client without credentials is nobody to the server, for each class of content.
async fn assert_unknown(client: &mut WireClient, case: &str) {
    for path in [PRIVATE, PAYLOAD, "/minitri.flg", "/generic", "/secars/other"] {
        assert_eq!(ask(client, path, "").await.0, 401, "{case}: {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_client_acts_as_an_authenticated_user() {
    for kind in KINDS {
        let case = format!("{kind:?}");
        let (server, site) = site().await;
        let mut alice = WireClient::connect(site.address()).await;
        authenticate(&mut alice, kind, "alice").await;
        let mut other = WireClient::connect(site.address()).await;
        assert_unknown(&mut other, &case).await;
        if kind.1 != "once" {
            assert_eq!(ask(&mut alice, PRIVATE, "").await, (200, "0 bytes for alice".to_owned()), "{case}");
        }
        let hers = server.connections_for(PRIVATE)[0];
        drop(alice);
        assert_unknown(&mut other, &case).await;
        server.wait_until_closed(hers).await;
        assert_unknown(&mut WireClient::connect(site.address()).await, &case).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn response_on_an_authenticated_connection_is_not_stored() {
    for kind in KINDS {
        let case = format!("{kind:?}");
        let (server, site) = site().await;
        let mut alice = WireClient::connect(site.address()).await;
        authenticate(&mut alice, kind, "alice").await;
        let hers = server.connections_for(PRIVATE)[0];
        for path in [PAYLOAD, "/minitri.flg", "/generic", PUBLIC, PUBLIC] {
            let response = alice.send(&Request::get(path)).await.unwrap();
            let expected = "gupd; fwd=uri-miss; detail=connection-auth";
            assert_eq!(response.cache_status(), expected, "{case}: {path}");
        }
        let head = alice.send(&Request::head(PUBLIC)).await.unwrap();
        assert_eq!((head.status, head.cache_status()), (200, "gupd; fwd=uri-miss; detail=connection-auth"));
        assert_eq!(site.metric("gupd_store_objects").await, 0.0, "{case}");
        assert_eq!(site.get(PUBLIC).await.expect_body(), b"0 bytes for anyone", "{case}");
        assert!(server.connections_for(PAYLOAD).iter().all(|number| hers == *number), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_content_is_still_a_hit_for_authenticated_client() {
    let (server, site) = site().await;
    site.wait_until_stored(PUBLIC).await;
    let mut alice = WireClient::connect(site.address()).await;
    log_in(&mut alice, PRIVATE, "NTLM", "alice").await;
    for credentials in ["", "NTLM begin"] {
        assert_eq!(ask(&mut alice, PUBLIC, credentials).await, (200, "0 bytes for anyone".to_owned()));
    }
    // Stale content is not revalidated by her, and stays for the others.
    site.clock.advance(std::time::Duration::from_secs(100));
    assert_eq!(ask(&mut alice, PUBLIC, "").await, (200, "0 bytes for alice".to_owned()));
    assert_eq!(site.get(PUBLIC).await.expect_body(), b"0 bytes for anyone");
    assert_eq!(server.connections_for(PRIVATE).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_authenticate_at_once_are_kept_apart() {
    let (server, site) = site().await;
    let users: Vec<String> = (0..8).map(|number| format!("user{number}")).collect();
    let mut clients = Vec::new();
    for user in &users {
        let mut client = WireClient::connect(site.address()).await;
        assert_eq!(ask(&mut client, PRIVATE, "NTLM begin").await.0, 401);
        clients.push((client, user));
    }
    for (client, user) in clients.iter_mut().rev() {
        assert_eq!(ask(client, PRIVATE, &format!("NTLM finish-{user}")).await.0, 200);
    }
    for (client, user) in &mut clients {
        for path in [PRIVATE, PAYLOAD] {
            assert_eq!(ask(client, path, "").await, (200, format!("0 bytes for {user}")));
        }
    }
    assert_eq!(server.open(), users.len());
    drop(clients);
    server.wait_for_open(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_can_change_on_its_own_connection() {
    let (server, site) = site().await;
    let mut client = WireClient::connect(site.address()).await;
    log_in(&mut client, PRIVATE, "NTLM", "alice").await;
    log_in(&mut client, PRIVATE, "Negotiate", "bob").await;
    assert_eq!(ask(&mut client, PRIVATE, "").await.1, "0 bytes for bob");
    assert_eq!(server.connections_for(PRIVATE), [0; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_client_authenticates_if_it_keeps_its_connection() {
    let (server, site) = site().await;
    let request = |credentials: &str| {
        Request::get(PRIVATE).http10().header("Connection", "keep-alive").header("Authorization", credentials)
    };
    let mut kept = WireClient::connect(site.address()).await;
    assert_eq!(kept.send(&request("NTLM begin")).await.unwrap().status, 401);
    assert_eq!(kept.send(&request("NTLM finish-alice")).await.unwrap().status, 200);
    drop(kept);
    server.wait_for_open(0).await;
    // The second step on another connection is nobody's.
    let begin = Request::get(PRIVATE).http10().header("Authorization", "NTLM begin");
    assert_eq!(site.send(begin).await.status, 401);
    let finish = Request::get(PRIVATE).http10().header("Authorization", "NTLM finish-alice");
    assert_eq!(site.send(finish).await.status, 401);
    server.wait_for_open(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_authenticated_client_go_on_its_connection() {
    let (server, site) = site().await;
    let mut alice = WireClient::connect(site.address()).await;
    let post = |credentials: &str, length: usize| {
        let request = Request::new("POST", PRIVATE).body(vec![b'x'; length]);
        if credentials.is_empty() { request } else { request.header("Authorization", credentials) }
    };
    assert_eq!(alice.send(&post("NTLM begin", 0)).await.unwrap().status, 401);
    for (credentials, length) in [("NTLM finish-alice", 100_000), ("", 3), ("", 1_000_000), ("", 0)] {
        let response = alice.send(&post(credentials, length)).await.unwrap();
        assert_eq!(String::from_utf8(response.expect_body()).unwrap(), format!("{length} bytes for alice"));
    }
    assert_eq!(server.connections_for(PRIVATE), [0; 5]);
    assert_eq!(site.send(post("", 3)).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_keeps_the_connection_of_an_authenticated_client() {
    let (server, mut site) = site().await;
    let address = site.address();
    let mut alice = WireClient::connect(address).await;
    log_in(&mut alice, PRIVATE, "NTLM", "alice").await;
    site.set_upstreams(&[server.address]);
    assert_eq!(ask(&mut alice, PRIVATE, "").await, (200, "0 bytes for alice".to_owned()));
    assert_unknown(&mut WireClient::connect(address).await, "reload").await;
    // An upstream that is removed gets nothing more, from whomever.
    let second = ConnectionAuthServer::start().await;
    site.set_upstreams(&[second.address]);
    assert_eq!(ask(&mut alice, PRIVATE, "").await.0, 401);
    server.wait_for_open(0).await;
    log_in(&mut alice, PRIVATE, "NTLM", "alice").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_closed_by_upstream_starts_authentication_anew() {
    for method in ["GET", "HEAD", "POST"] {
        let (server, site) = site().await;
        let mut alice = WireClient::connect(site.address()).await;
        log_in(&mut alice, PRIVATE, "NTLM", "alice").await;
        assert_eq!(ask(&mut alice, CLOSING, "").await, (200, "0 bytes for alice".to_owned()));
        server.wait_for_open(0).await;
        let request = Request::new(method, PRIVATE);
        let request = if method == "POST" { request.body("report") } else { request };
        let next = alice.send(&request).await.unwrap();
        assert_eq!(next.status, 401, "{method}");
        log_in(&mut alice, PRIVATE, "NTLM", "alice").await;
        assert_eq!(ask(&mut alice, PRIVATE, "").await.1, "0 bytes for alice");
        assert_unknown(&mut WireClient::connect(site.address()).await, method).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authenticated_client_stays_with_its_upstream() {
    let (first, second) = (ConnectionAuthServer::start().await, ConnectionAuthServer::start().await);
    let equal = |config: &mut Config| {
        let urls = [first.address, second.address].map(|address| format!("http://{address}"));
        let given = Config::for_upstreams(&urls.each_ref().map(String::as_str)).unwrap();
        (config.upstreams, config.routes) = (given.upstreams, given.routes);
        config.upstreams.iter_mut().for_each(|upstream| upstream.priority = Some(1));
    };
    let site = Site::with_config(equal);
    let mut clients = Vec::new();
    for (last, user) in (2..6).zip(["alice", "bob", "carol", "dave"]) {
        let mut client = WireClient::connect_from(IpAddr::from([127, 0, 0, last]), site.address()).await;
        log_in(&mut client, PRIVATE, "NTLM", user).await;
        clients.push((client, user));
    }
    assert!(first.open() > 0 && second.open() > 0, "equal upstreams take turns");
    for _ in 0..3 {
        for (client, user) in &mut clients {
            assert_eq!(ask(client, PRIVATE, "").await.1, format!("0 bytes for {user}"));
        }
    }
    assert_eq!(first.open() + second.open(), clients.len());
    // Without its upstream, each client is unknown to the other one.
    first.stop().await;
    for (client, user) in &mut clients {
        if ask(client, PRIVATE, "").await.0 == 401 {
            log_in(client, PRIVATE, "NTLM", user).await;
        }
        assert_eq!(ask(client, PRIVATE, "").await.1, format!("0 bytes for {user}"));
    }
    second.wait_for_open(clients.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_authenticated_without_request_is_not_reused() {
    let (server, site) = site().await;
    for _ in 0..3 {
        assert_eq!(site.get(ADOPTING).await.expect_body(), b"0 bytes for anyone");
        assert_eq!(site.get(PRIVATE).await.status, 401);
    }
    let connections = server.connections_for(ADOPTING);
    assert_eq!(connections.iter().collect::<BTreeSet<_>>().len(), 3, "{connections:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_is_pinned_through_tls_and_through_a_proxy() {
    let server = ConnectionAuthServer::start().await;
    let identity = Identity::self_signed();
    let pins = vec![identity.pin()];
    let front = Front::start(server.address, identity).await;
    let proxied = HttpProxy { url: format!("http://{}", server.address).parse().unwrap(), auth_file: None };
    for (case, url, proxy) in
        [("TLS", front.url(), None), ("proxy", "http://manager.example".to_owned(), Some(proxied))]
    {
        let site = Site::with_config(|config| {
            config.upstreams = Config::for_upstreams(&[&url]).unwrap().upstreams;
            config.upstreams[0].trust.pins.clone_from(&pins);
            config.upstreams[0].proxy = proxy;
        });
        let mut alice = WireClient::connect(site.address()).await;
        log_in(&mut alice, PRIVATE, "NTLM", "alice").await;
        assert_unknown(&mut WireClient::connect(site.address()).await, case).await;
        assert_eq!(ask(&mut alice, PRIVATE, "").await.1, "0 bytes for alice", "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_of_a_proxy_is_told_that_it_may_authenticate() {
    let (server, site) = site().await;
    let absolute = format!("http://{}{PRIVATE}", server.address);
    for (target, expected) in [(absolute.as_str(), Some("Session-Based-Authentication")), (PRIVATE, None)] {
        let mut client = WireClient::connect(site.address()).await;
        for request in [Request::get(target), Request::get(target).header("Authorization", "NTLM begin")] {
            let challenged = client.send(&request).await.unwrap();
            assert_eq!((challenged.status, challenged.header("proxy-support")), (401, expected), "{target}");
            assert_eq!(challenged.header("connection"), expected.map(|_| "Proxy-Support"), "{target}");
        }
        assert_eq!(
            ask(&mut client, target, "NTLM finish-alice").await,
            (200, "0 bytes for alice".to_owned())
        );
        assert_eq!(ask(&mut client, PRIVATE, "").await.1, "0 bytes for alice", "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn challenge_of_a_proxy_is_never_passed_on() {
    let (_server, site) = site().await;
    let mut alice = WireClient::connect(site.address()).await;
    for credentials in ["", "NTLM begin"] {
        if !credentials.is_empty() {
            log_in(&mut alice, PRIVATE, "NTLM", "alice").await;
        }
        let response = alice.send(&Request::get(PROXIED)).await.unwrap();
        assert_eq!((response.status, response.header("proxy-authenticate")), (502, None));
    }
    assert_eq!(ask(&mut alice, PRIVATE, "").await.1, "0 bytes for alice");
}
