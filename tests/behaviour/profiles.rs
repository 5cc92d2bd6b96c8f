//! Profiles over sockets: origin servers that the query names, keys by a part of the query, and lifetimes of rules.

use std::sync::Arc;
use std::time::Duration;

use gupd_config::{Config, Profile};

use crate::support::{Manager, Request, Resource, Site, bytes};
use gupd_site::OriginServer;

const FILE: &str = "/filestreamingservice/files/0a1b2c3d-0123-4567-89ab-0123456789ab";
const ORIGIN: &str = "dl.delivery.mp.microsoft.com";

fn profile(config: &Config, name: &str) -> Arc<Profile> {
    Arc::clone(config.profiles.find(name).unwrap())
}

/// A site with a route without host to its own manager, one for `ORIGIN` to another, and one of another profile.
fn delivery_site(origin: &Manager) -> Site {
    Site::with_config(|config| {
        let mut upstream = config.upstreams[0].clone();
        (upstream.name, upstream.url) = ("origin".to_owned(), origin.url().parse().unwrap());
        config.upstreams.push(upstream);
        config.routes[0].profile = profile(config, "microsoft-do");
        let mut named = config.routes[0].clone();
        (named.name, named.host, named.upstreams) = (ORIGIN.to_owned(), Some(ORIGIN.to_owned()), vec![1]);
        let mut other = named.clone();
        other.profile = profile(config, "generic");
        (other.name, other.host) = ("other".to_owned(), Some("other.windowsupdate.com".to_owned()));
        config.routes.extend([named, other]);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn origin_in_the_query_selects_its_route_and_one_object() {
    let origin = Manager::start();
    let site = delivery_site(&origin);
    let body = bytes(1, 100_000);
    let target = |signature: u32| format!("{FILE}?P1={signature}&P4=x%2f&cacheHostOrigin={ORIGIN}");
    origin.put(FILE, Resource::new(body.clone()));
    assert!(site.get(&target(1)).await.expect_body() == body);
    // Another signature is another query, which the origin would refuse: the stored object serves it.
    for signature in 2..7 {
        let response = site.get(&target(signature)).await;
        assert_eq!(response.status, 200, "{signature}");
        assert!(response.expect_body() == body, "{signature}");
    }
    // The host that the client connects to, and spelling, make no difference.
    let spelled = target(9).replace(ORIGIN, &ORIGIN.to_uppercase());
    assert_eq!(site.get(&spelled).await.status, 200);
    let by_host = Request::get(&format!("{FILE}?P1=8")).header("Host", ORIGIN);
    assert_eq!(site.send(by_host).await.status, 200);
    assert_eq!(origin.total_requests(), 1);
    assert_eq!(site.manager.total_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn origin_outside_of_list_and_routes_is_refused() {
    let origin = Manager::start();
    let site = delivery_site(&origin);
    for query in [
        "cacheHostOrigin=evil.example",
        "cacheHostOrigin=",
        "cacheHostOrigin",
        "cacheHostOrigin=127.0.0.1",
        "cacheHostOrigin=localhost",
        // Listed, but without a route.
        "cacheHostOrigin=unrouted.windowsupdate.com",
        // Listed, with a route of another profile.
        "cacheHostOrigin=other.windowsupdate.com",
        &format!("cacheHostOrigin={ORIGIN}:8080"),
        &format!("cacheHostOrigin=user@{ORIGIN}"),
        &format!("cacheHostOrigin={ORIGIN}&cacheHostOrigin=evil.example"),
        &format!("cacheHostOrigin=evil.example&cacheHostOrigin={ORIGIN}"),
        &format!("cacheHostOrigin={ORIGIN}.evil.example"),
    ] {
        let response = site.get(&format!("{FILE}?{query}")).await;
        assert_eq!(response.status, 421, "{query}");
    }
    assert_eq!(origin.total_requests() + site.manager.total_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn query_without_an_origin_goes_to_the_route_of_the_host() {
    let origin = Manager::start();
    let site = delivery_site(&origin);
    for target in [FILE.to_owned(), format!("{FILE}x?P1=1"), "/list?cachehostorigin=evil.example".to_owned()]
    {
        site.manager.put(target.split('?').next().unwrap(), Resource::new("content"));
        assert_eq!(site.get(&target).await.status, 200, "{target}");
    }
    assert_eq!(origin.total_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_sets_the_lifetime_of_its_negative_response() {
    let site = Site::with_config(|config| {
        let mut clamav = (*profile(config, "clamav")).clone();
        let of = |pattern: &str| clamav.paths.iter().position(|rule| rule.pattern.glob().contains(pattern));
        let (deltas, databases) = (of("cdiff").unwrap(), of("{cvd").unwrap());
        clamav.paths[deltas].negative = Some(Duration::from_secs(3600));
        clamav.paths[databases].negative = Some(Duration::from_secs(10));
        config.routes[0].profile = Arc::new(clamav);
    });
    // By class, a missing payload lives for 5 s, a catalog for 60 s, other content for 10 s.
    for (path, requests) in [("/daily-27000.cdiff", 1), ("/daily.cvd", 2), ("/own.ndb", 1), ("/other", 2)] {
        let before = site.manager.total_requests();
        for _ in 0..2 {
            assert_eq!(site.get(path).await.status, 404, "{path}");
        }
        site.wait_for_fills().await;
        site.clock.set_forward(Duration::from_secs(30));
        assert_eq!(site.get(path).await.status, 404, "{path}");
        assert_eq!(site.manager.total_requests() - before, requests, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_field_of_a_rule_selects_the_object() {
    let origin = OriginServer::computed(|request| {
        let agent = request.header("User-Agent").unwrap_or("none").to_owned();
        Some(Resource::new(agent).header("Cache-Control", "max-age=1000"))
    });
    let site = Site::for_manager(Manager::with_origin(origin).unwrap(), |config| {
        config.routes[0].profile = profile(config, "eset");
    });
    for _ in 0..3 {
        for agent in ["ESET 11 (release)", "ESET 11 (pre-release)", "ESET 10"] {
            let request = Request::get("/eset_upd/update.ver").header("User-Agent", agent);
            assert_eq!(site.send(request).await.expect_body(), agent.as_bytes());
            site.wait_for_fills().await;
        }
        assert_eq!(site.get("/eset_upd/update.ver").await.expect_body(), b"none");
        site.wait_for_fills().await;
    }
    assert_eq!(site.manager.request_count("/eset_upd/update.ver"), 4, "each channel crosses once");
}
