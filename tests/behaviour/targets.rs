//! Request targets: data in queries, URLs that name the relay itself, and spellings of its host.

use gupd_config::{Config, Overrides};

use crate::support::{Request, Resource, Site, WireClient};

/// Paths of the classes private and generic.
const PATHS: [&str; 3] = ["/secars/secars.dll", "/reporting/x.php", "/g/q"];

#[tokio::test(flavor = "multi_thread")]
async fn encoded_octets_in_a_query_reach_the_manager_unchanged() {
    let site = Site::new();
    PATHS.iter().for_each(|path| site.manager.put(path, Resource::new("report")));
    for query in [
        "msg=line1%0D%0Aline2",
        "a=%09b",
        "k=%00",
        "k=%7F",
        "k=%1b%5B0m",
        "text=100%",
        "u=%u00e9",
        "half=%4",
        "p=C%3A%5CUsers%5Cx",
        "up=/../%2e%2e/",
    ] {
        for path in PATHS {
            let target = format!("{path}?{query}");
            assert_eq!(site.get(&target).await.status, 200, "{target}");
            let requests = site.manager.requests_for(path);
            assert_eq!(requests.last().map(|request| &*request.target), Some(&*target));
        }
    }
    // A path has no data: what a server decodes there is another file.
    for path in ["/a%0d%0ab", "/a%09b", "/a%00", "/a%7F", "/100%"] {
        assert_eq!(site.get(path).await.status, 400, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_with_and_without_a_lone_percent_are_two_objects() {
    let site = Site::new();
    for (query, body) in [("100%", "lone"), ("100%25", "encoded"), ("%41%", "a"), ("A%", "b")] {
        let target = format!("/g/q?{query}");
        site.manager.put("/g/q", Resource::new(body).header("Cache-Control", "max-age=600"));
        assert_eq!(site.get(&target).await.expect_body(), body.as_bytes());
        site.wait_until_stored(&target).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn url_that_names_the_relay_is_served_like_a_path() {
    let site = Site::with_config(|config| {
        let names = ["relay.example", "nat.example:8080", "198.51.100.7", "2001:db8::1"];
        config.server.public_names = names.iter().map(|name| name.parse().unwrap()).collect();
        config.routes = routes(
            config,
            "[[route]]\nprefix = \"/\"\n[[route]]\nprefix = \"/\"\nhost = \"updates.example\"\n",
        );
    });
    site.manager.put("/g/x", Resource::new("x").header("Cache-Control", "max-age=600"));
    let port = site.address().port();
    for authority in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        "relay.example".to_owned(),
        "RELAY.example.:2967".to_owned(),
        "nat.example:8080".to_owned(),
        "198.51.100.7:80".to_owned(),
        "[2001:db8:0::1]".to_owned(),
        "updates.example".to_owned(),
        "updates.example.:2967".to_owned(),
    ] {
        for scheme in ["http", "https"] {
            let target = format!("{scheme}://{authority}/g/x");
            let response = site.send(Request::get(&target).header("Host", "elsewhere.example")).await;
            assert_eq!(response.status, 200, "{target}");
        }
    }
    for authority in ["nat.example:81", "example", "127.0.0.1:1", "198.51.100.70"] {
        assert_eq!(site.get(&format!("http://{authority}/g/x")).await.status, 421, "{authority}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_of_a_host_selects_its_route() {
    let site = Site::with_config(|config| {
        let text = "[[route]]\nprefix = \"/\"\nhost = \"updates.example.\"\n[[route]]\nprefix = \"/\"\n\
            host = \"[2001:DB8:0::1]\"\n";
        config.routes = routes(config, text);
    });
    site.manager.put("/secars/x", Resource::new("x"));
    for (host, status) in [
        ("updates.example", 200),
        ("updates.example.", 200),
        ("Updates.Example.:2967", 200),
        ("[2001:db8::1]:2967", 200),
        ("[2001:0db8::0001]", 200),
        ("updates.example..", 404),
        ("other.example.", 404),
    ] {
        let response = site.send(Request::get("/secars/x").header("Host", host)).await;
        assert_eq!(response.status, status, "{host}");
    }
    let mut client = WireClient::connect(site.address()).await;
    client.write(b"GET http://updates.example./secars/x HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 200);
}

/// Routes of a configuration text, for the upstream of `config`.
pub(crate) fn routes(config: &Config, text: &str) -> Vec<gupd_config::RouteSettings> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gupd.toml");
    let url = &config.upstreams[0].url;
    std::fs::write(&file, format!("[[upstream]]\nurl = \"{url}\"\n{text}")).unwrap();
    Config::load(&Overrides::default(), Some(&file), std::iter::empty()).unwrap().routes
}
