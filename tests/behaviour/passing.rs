//! Requests that a route passes to its upstreams. An upstream takes each for the relay's own, so closed paths and
//! methods must not reach it in any spelling.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use gupd_config::{AccessSettings, Class, Config, PassRules, Profiles, Rule};

use crate::support::{Gate, PAYLOAD, Request, Resource, Site, WireClient, bytes};

const CATALOG: &str = "/agent/gup/globallist.xml";
const PRIVATE: &str = "/secars/secars.dll";

/// A site with a route that passes what its profile says.
fn site(profile: &str) -> Site {
    let profile = Arc::clone(Profiles::built_in().unwrap().find(profile).unwrap());
    Site::with_config(|config| {
        config.routes[0].profile = profile;
        config.routes[0].pass = None;
    })
}

fn refused(reason: &str) -> String {
    format!("gupd_refused_total{{reason=\"{reason}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn console_of_a_manager_is_closed_in_every_spelling() {
    let site = site("auto");
    for path in [
        "/sepm/api/v1/identity/authenticate",
        "/SEPM/api",
        "/sepm",
        "/console/apps/sepm",
        "/servlet/ConsoleServlet",
        "/manager/html",
        "/server-status",
        "/server-status?auto",
        "/WEB-INF/web.xml",
        "/meta-inf/MANIFEST.MF",
        "/_vti_bin/owssvr.dll",
        "/content/web.config",
        "/.git/config",
        "/.git/",
        "/%2egit/HEAD",
        "/content/.svn/entries",
        "/.htaccess",
        "//sepm/api",
        "/sepm;x/api",
        "/sepm%2Fapi",
        "/%73epm/api",
    ] {
        for method in ["GET", "HEAD", "POST", "PROPFIND"] {
            let status = site.send(Request::new(method, path)).await.status;
            assert_eq!(status, 403, "{method} {path}");
        }
    }
    // The canonical form of a path with a dot segment would be another path.
    for path in ["/secars/..;/sepm/api", "/secars/%2e%2e/sepm/api"] {
        assert_eq!(site.get(path).await.status, 400, "{path}");
    }
    assert_eq!(site.manager.total_requests(), 0);
    assert_eq!(site.metric(&refused("closed-path")).await, 21.0 * 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn page_for_administrators_reaches_no_upstream() {
    for profile in ["sep", "liveupdate", "auto"] {
        let site = site(profile);
        for path in [
            "/admin",
            "/admin/",
            "/admin/login.jsp",
            "/ADMIN;x",
            "/administrator/index.php",
            "/phpmyadmin/",
            "/phpMyAdmin/index.php?lang=en",
            "/Reporting/login",
            "/reporting/Login/Login.php",
            "/reporting/admin/",
            "/console/",
            "/manager/html",
            "/cgi-bin/",
            "/cgi-bin/test.cgi",
            "/wp-admin/",
            "/wp-login.php",
            "/server-status",
            "/solr/",
            "/solr/admin/cores",
            "/actuator/",
            "/actuator/env",
            "/jmx-console/",
            "/jenkins/script",
            "/.env",
            "/%61dmin",
        ] {
            for method in ["GET", "HEAD", "POST"] {
                let status = site.send(Request::new(method, path)).await.status;
                assert_eq!(status, 403, "{profile}: {method} {path}");
            }
        }
        assert_eq!(site.manager.total_requests(), 0, "{profile}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn method_that_no_updater_sends_is_405_with_allow() {
    let site = site("auto");
    for path in [PAYLOAD, CATALOG, PRIVATE] {
        site.manager.put(path, Resource::new("content"));
        let allowed = if path == PRIVATE { "GET, HEAD, POST" } else { "GET, HEAD" };
        // Also once the content is in memory.
        for _ in 0..2 {
            for method in ["PUT", "DELETE", "PATCH", "PROPFIND", "MKCOL", "OPTIONS", "X-ANY"] {
                let response = site.send(Request::new(method, path).body("x")).await;
                assert_eq!(
                    (response.status, response.header("allow")),
                    (405, Some(allowed)),
                    "{method} {path}"
                );
            }
            assert_eq!(site.get(path).await.status, 200);
        }
        assert!(site.manager.requests_for(path).iter().all(|seen| seen.method == "GET"));
    }
    site.manager.put("/other", Resource::new("content"));
    for method in ["PROPFIND", "MKCOL", "LOCK", "SEARCH", "X-ANY"] {
        let response = site.send(Request::new(method, "/other").body("x")).await;
        let allowed = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";
        assert_eq!((response.status, response.header("allow")), (405, Some(allowed)), "{method}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        assert_eq!(site.send(Request::new(method, "/other").body("x")).await.status, 200, "{method}");
    }
    assert_eq!(site.metric(&refused("closed-method")).await, 3.0 * 2.0 * 7.0 + 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_reports_and_content_pass_by_default() {
    for (profile, requests) in [
        ("auto", &[("GET", "/other"), ("GET", "/minitri.flg"), ("GET", "/1369163480jtun_x.zip")][..]),
        ("sep", &[]),
        ("liveupdate", &[("GET", "/minitri.flg"), ("GET", "/1369163480jtun_x.zip"), ("GET", "/other.zip")]),
        ("generic", &[("GET", "/.well-known/x"), ("HEAD", "/console/x")]),
    ] {
        let site = site(profile);
        let of_a_manager = [
            ("GET", "/secars/secars.dll?hello,secars"),
            ("GET", "/secars/secars.dll?h=3397A86E"),
            ("POST", "/secars/secars.dll?h=3397A86E"),
            ("POST", "/reporting/x.php"),
            ("POST", "/secreg/secreg.dll"),
            ("GET", "/agent/0123456789abcdef0123456789abcdef/index2.dax"),
            ("GET", CATALOG),
            ("GET", PAYLOAD),
            ("HEAD", PAYLOAD),
        ];
        let own = if matches!(profile, "auto" | "sep") { &of_a_manager[..] } else { &[] };
        for &(method, target) in own.iter().chain(requests) {
            let path = target.split('?').next().unwrap();
            site.manager.put(path, Resource::new("content"));
            let request = Request::new(method, target);
            let request = if method == "POST" { request.body("report") } else { request };
            assert_eq!(site.send(request).await.status, 200, "{profile}: {method} {target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn route_to_a_manager_passes_no_other_paths() {
    let site = site("sep");
    for path in ["/", "/other", "/packages/agent.msi", "/portal/x", "/minitri.flg"] {
        let response = site.get(path).await;
        assert_eq!(response.status, 403, "{path}");
        assert!(String::from_utf8(response.expect_body()).unwrap().contains("this route passes no requests"));
    }
    assert_eq!(site.manager.total_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_and_pass_of_the_configuration_precede_the_profile() {
    let mut site = site("sep");
    site.manager.put("/sepm/api", Resource::new("version"));
    site.manager.put("/packages/agent.msi", Resource::new("agent").header("Cache-Control", "max-age=999"));
    assert_eq!(
        (site.get("/sepm/api").await.status, site.get("/packages/agent.msi").await.status),
        (403, 403)
    );
    site.config.rules = vec![Rule { pattern: "/sepm/**".to_owned(), class: Class::Private }];
    site.config.routes[0].pass = Some(PassRules::default());
    let config = site.config.clone();
    site.relay_mut().reload(config).unwrap();
    assert_eq!(
        (site.get("/sepm/api").await.status, site.get("/packages/agent.msi").await.status),
        (200, 200)
    );
    // A path that is closed later is closed although its content is in memory.
    site.wait_until_stored("/packages/agent.msi").await;
    site.config.routes[0].pass = None;
    let config = site.config.clone();
    site.relay_mut().reload(config).unwrap();
    assert_eq!(site.get("/packages/agent.msi").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_beyond_its_cap_is_413_and_never_whole() {
    let site = Site::with_config(|config| config.routes[0].max_upload = 100_000);
    site.manager.put(PRIVATE, Resource::echo());
    let upload = |length| Request::new("POST", PRIVATE).body(bytes(1, length));
    assert_eq!(site.send(upload(100_000)).await.status, 200);
    assert_eq!(site.send(upload(100_001)).await.status, 413);
    assert_eq!(site.manager.request_count(PRIVATE), 1, "refused before the manager hears of it");
    // Without an announced length the manager gets the beginning, and never the end.
    let mut client = WireClient::connect(site.address()).await;
    let request = Request::new("POST", PRIVATE).header("Transfer-Encoding", "chunked");
    client.write_request(&request).await.unwrap();
    for _ in 0..3 {
        client.write(format!("{:x}\r\n", 50_000).as_bytes()).await.unwrap();
        client.write(&bytes(2, 50_000)).await.unwrap();
        client.write(b"\r\n").await.unwrap();
    }
    assert_eq!(client.read_head().await.unwrap().status, 413);
    assert_eq!(site.manager.request_count(PRIVATE), 1, "a request without its end is none");
    assert_eq!(site.metric(&refused("upload-too-large")).await, 2.0);
}

/// Uploads byte by byte with a pause after each. `None` if the relay ended it.
async fn upload_slowly(site: &Site, bytes: usize) -> Option<u16> {
    let mut client = WireClient::connect(site.address()).await;
    let request = Request::new("POST", PRIVATE).header("Content-Length", &bytes.to_string());
    client.write_request(&request).await.unwrap();
    for _ in 0..bytes {
        client.write(b"x").await.ok()?;
        // A response before the end is a refusal.
        if let Ok(ended) = timeout(Duration::from_millis(50), client.read_head()).await {
            return ended.ok().map(|response| response.status).filter(|status| *status == 200);
        }
    }
    client.read_head().await.ok().map(|response| response.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_of_a_byte_at_a_time_is_ended() {
    let site = Site::with_config(|config| config.server.stall_timeout = Duration::from_millis(400));
    site.manager.put(PRIVATE, Resource::echo());
    // However late a busy machine sends the bytes, they are too few.
    assert_eq!(upload_slowly(&site, 10_000).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_cannot_take_all_connections_of_passed_requests() {
    let site = Site::with_config(|config| config.routes[0].max_pass_through = 8);
    let gate = Gate::default();
    site.manager.put("/secars/held", Resource::new("held").held(&gate));
    site.manager.put(PRIVATE, Resource::new("profile"));
    let mut greedy = Vec::new();
    for _ in 0..6 {
        let mut client = WireClient::connect(site.address()).await;
        client.write_request(&Request::get("/secars/held")).await.unwrap();
        greedy.push(client);
    }
    site.manager.wait_for_requests("/secars/held", 6).await;
    let refusal = site.get("/secars/held").await;
    assert_eq!((refusal.status, refusal.header("retry-after")), (503, Some("10")));
    let mut other = WireClient::connect_from([127, 0, 0, 2].into(), site.address()).await;
    assert_eq!(other.send(&Request::get(PRIVATE)).await.unwrap().status, 200);
    assert_eq!(site.metric(&refused("pass-through-limit")).await, 1.0);
    gate.open();
    for mut client in greedy {
        assert_eq!(client.read_head().await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn route_serves_the_clients_of_its_access_lists() {
    let subnets = |list: &[&str]| list.iter().map(|subnet| subnet.parse().unwrap()).collect::<Vec<_>>();
    let restrict = |config: &mut Config| {
        let mut other = config.routes[0].clone();
        other.name = "/content".to_owned();
        other.prefix = "/content".to_owned();
        other.access = AccessSettings { allow: subnets(&["127.0.0.2/32"]), deny: Vec::new() };
        config.routes.push(other);
        config.routes[0].access = AccessSettings { allow: Vec::new(), deny: subnets(&["127.0.0.2/32"]) };
    };
    let mut site = Site::with_config(restrict);
    site.manager.put(PAYLOAD, Resource::new("definitions"));
    site.manager.put("/other", Resource::new("other"));
    for (client, path, expected) in
        [(1, PAYLOAD, 403), (2, PAYLOAD, 200), (1, "/other", 200), (2, "/other", 403), (1, PAYLOAD, 403)]
    {
        let mut client = WireClient::connect_from([127, 0, 0, client].into(), site.address()).await;
        assert_eq!(client.send(&Request::get(path)).await.unwrap().status, expected, "{path}");
    }
    assert_eq!(site.metric(&refused("client-denied")).await, 3.0);
    // A reload applies to open connections too.
    let mut open = WireClient::connect(site.address()).await;
    assert_eq!(open.send(&Request::get("/other")).await.unwrap().status, 200);
    site.config.routes[0].access.deny = subnets(&["127.0.0.0/8"]);
    let config = site.config.clone();
    site.relay_mut().reload(config).unwrap();
    assert_eq!(open.send(&Request::get("/other")).await.unwrap().status, 403);
}
