//! URLs of an upstream in `Location`, `Content-Location` and `Refresh` of its responses.

use crate::support::{PAYLOAD, Request, Resource, Site, WireClient};
use crate::targets::routes;

/// Paths of the classes payload, generic and private, and the fields of their responses.
const PATHS: [&str; 3] = [PAYLOAD, "/g/directory", "/secars/secars.dll"];

#[tokio::test(flavor = "multi_thread")]
async fn own_url_of_an_upstream_leads_to_the_relay() {
    let site = Site::with_config(|config| {
        config.upstreams[0].public_url = Some("https://manager.example".parse().unwrap());
    });
    let relay = format!("http://{}", site.address());
    let port = site.manager.address().port();
    for (location, expected) in [
        (format!("http://127.0.0.1:{port}/content/new.zip"), format!("{relay}/content/new.zip")),
        (format!("HTTP://127.0.0.1:{port}/a?b=c%20d#e"), format!("{relay}/a?b=c%20d#e")),
        (format!("http://127.0.0.1:{port}"), relay.clone()),
        (format!("//127.0.0.1:{port}/a"), format!("{relay}/a")),
        ("https://manager.example/a".to_owned(), format!("{relay}/a")),
        ("https://Manager.example.:443/a/".to_owned(), format!("{relay}/a/")),
        ("/a/b".to_owned(), "/a/b".to_owned()),
        ("../b".to_owned(), "../b".to_owned()),
        ("http://elsewhere.example/a".to_owned(), "http://elsewhere.example/a".to_owned()),
        (format!("http://127.0.0.1:{port}/a/../b"), format!("http://127.0.0.1:{port}/a/../b")),
        (format!("ftp://127.0.0.1:{port}/a"), format!("ftp://127.0.0.1:{port}/a")),
    ] {
        for path in PATHS {
            for name in ["Location", "Content-Location"] {
                site.manager.put(path, Resource::new("moved").status(302).header(name, &location));
                let response = site.get(path).await;
                assert_eq!(response.header(name), Some(&*expected), "{path} {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_field_leads_to_the_relay() {
    let site = Site::new();
    let (relay, manager) = (site.address(), site.manager.address());
    for (field, expected) in [
        (format!("5; url=http://{manager}/x"), format!("5; url=http://{relay}/x")),
        (format!("0;URL=\"http://{manager}/x\""), format!("0;URL=\"http://{relay}/x\"")),
        (format!("1, url='http://{manager}/x'"), format!("1, url='http://{relay}/x'")),
        (format!("0,http://{manager}/x"), format!("0,http://{relay}/x")),
        (format!("0;HTTP://{manager}/x?url=1"), format!("0;http://{relay}/x?url=1")),
        (format!("3 , \"http://{manager}/x\""), format!("3 , \"http://{relay}/x\"")),
        (format!("0.5 http://{manager}/x"), format!("0.5 http://{relay}/x")),
        (format!("0; URL = 'http://{manager}/x'"), format!("0; URL = 'http://{relay}/x'")),
        (format!("0,//{manager}/x"), format!("0,http://{relay}/x")),
        ("0,http://elsewhere.example/x".to_owned(), "0,http://elsewhere.example/x".to_owned()),
        ("5".to_owned(), "5".to_owned()),
        ("5; url=/x".to_owned(), "5; url=/x".to_owned()),
    ] {
        site.manager.put("/secars/x", Resource::new("").header("Refresh", &field));
        assert_eq!(site.get("/secars/x").await.header("refresh"), Some(&*expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_location_follows_the_address_of_each_client() {
    let site = Site::with_config(|config| {
        config.server.public_names = vec!["relay.example".parse().unwrap()];
    });
    let location = format!("{}/g/new", site.manager.url());
    let moved = || Resource::new("moved").header("Cache-Control", "max-age=600");
    site.manager.put("/g/old", moved().status(301).header("Location", &location));
    site.manager.put("/g/file", moved().header("Content-Location", &location));
    for path in ["/g/old", "/g/file"] {
        site.get(path).await;
        site.wait_until_stored(path).await;
        let name = if path == "/g/old" { "location" } else { "content-location" };
        for host in ["relay.example", "10.1.2.3:2967", "[::1]:2967"] {
            let response = site.send(Request::get(path).header("Host", host)).await;
            assert_eq!(response.header(name), Some(&*format!("http://{host}/g/new")));
        }
        let named = site.send(Request::get(&format!("http://relay.example{path}"))).await;
        assert_eq!(named.header(name), Some("http://relay.example/g/new"));
        let mut client = WireClient::connect(site.address()).await;
        client.write(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let old = client.read_head().await.unwrap();
        assert_eq!(old.header(name), Some(&*format!("http://{}/g/new", site.address())));
        // A client that uses the relay as its proxy reaches the manager's URL through it.
        let proxied = site.send(Request::get(&format!("{}{path}", site.manager.url()))).await;
        assert_eq!(proxied.header(name), Some(&*location));
    }
    assert_eq!(site.manager.request_count("/g/old"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn url_is_kept_if_the_relay_would_ask_another_upstream() {
    let other = crate::support::Manager::start();
    let site = Site::with_config(|config| {
        let mut second = config.upstreams[0].clone();
        (second.name, second.url) = ("second".to_owned(), other.url().parse().unwrap());
        config.upstreams.push(second);
        let mut routes = routes(config, "[[route]]\nprefix = \"/\"\n[[route]]\nprefix = \"/second\"\n");
        routes[1].upstreams = vec![1];
        config.routes = routes;
    });
    let relay = format!("http://{}", site.address());
    for (path, is_relocated) in [("/second/x", true), ("/first/x", false)] {
        let location = format!("{}{path}", other.url());
        site.manager.put("/secars/x", Resource::empty(307).header("Location", &location));
        let expected = if is_relocated { format!("{relay}{path}") } else { location };
        assert_eq!(site.get("/secars/x").await.header("location"), Some(&*expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn own_url_in_an_unsafe_response_invalidates_its_path() {
    let site = Site::new();
    let cached = || Resource::new("x").header("Cache-Control", "max-age=600");
    for (name, path) in [("Location", "/g/a"), ("Content-Location", "/g/b")] {
        site.manager.put(path, cached());
        site.get(path).await;
        site.wait_until_stored(path).await;
        let url = format!("{}{path}", site.manager.url());
        site.manager.put("/secars/x", Resource::new("").status(201).header(name, &url));
        assert_eq!(site.send(Request::new("POST", "/secars/x")).await.status, 201);
        assert_eq!(site.get(path).await.cache_status(), "gupd; fwd=uri-miss; stored", "{path}");
    }
}
