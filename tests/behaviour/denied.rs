//! Content policy over sockets: a client that is denied content gets the configured negative response. The relay
//! fetches nothing for it, but fetches the content for permitted clients, unless the route denies it to all.

use gupd_config::{ContentMatch, ContentType, GroupSettings};
use http::StatusCode;

use crate::refresh::{ask, with_token};
use crate::support::{PAYLOAD, Request, Resource, Site, WireClient, bytes};

const PATCH: &str = "/patches/14.3/patch.zip";
const DEFINITIONS: &str = "virus-definitions-32";

fn deny_patches(config: &mut gupd_config::Config) {
    let matches = ContentMatch::Pattern("/patches/**".to_owned());
    config.content_types.push(ContentType { name: "client-patches".to_owned(), matches });
}

fn with_content(site: Site) -> Site {
    for path in [PATCH, PAYLOAD, "/patches/index2.dax", "/minitri.flg"] {
        site.manager.put(path, Resource::new(bytes(1, 10_000)));
    }
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn client_patches_need_group_permission() {
    let unknown = with_content(Site::new());
    assert_eq!(unknown.get(PATCH).await.status, 200);
    let site = with_content(Site::with_config(|config| {
        deny_patches(config);
        config.groups = vec![GroupSettings {
            subnets: vec!["127.0.0.2/32".parse().unwrap()],
            allow: vec!["client-patches".to_owned()],
            ..GroupSettings::catch_all("pilot")
        }];
    }));
    let denied = site.get(PATCH).await;
    assert_eq!((denied.status, denied.header("cache-control")), (404, Some("no-store")));
    assert_eq!(site.manager.request_count(PATCH), 0);
    let mut pilot = WireClient::connect_from("127.0.0.2".parse().unwrap(), site.address()).await;
    assert_eq!(pilot.send(&Request::get(PATCH)).await.unwrap().expect_body(), bytes(1, 10_000));
    site.wait_for_fills().await;
    // Stored content is denied for any method and range.
    for request in [Request::get(PATCH), Request::head(PATCH), Request::get(PATCH).range("5-9")] {
        assert_eq!(site.send(request).await.status, 404);
    }
    assert_eq!(site.get(&PATCH.replace("patches", "%50ATCHES")).await.status, 404);
    assert_eq!(site.get(PAYLOAD).await.status, 200);
    let series = "{content_type=\"client-patches\",group=\"default\"}";
    assert_eq!(site.metric(&format!("gupd_denied_total{series}")).await, 5.0);
    assert_eq!(site.metric("gupd_denied_total{content_type=\"client-patches\",group=\"pilot\"}").await, 0.0);
    let counted = "gupd_requests_total{cache=\"denied\",class=\"generic\"}";
    assert_eq!(site.metric(counted).await, 5.0, "a denial is neither a refusal nor a failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_payload_gets_set_status_and_catalog_404() {
    let mut site = with_content(Site::with_config(|config| {
        deny_patches(config);
        config.denials.status = StatusCode::GONE;
        let deny = vec![DEFINITIONS.to_owned(), "catalog".to_owned()];
        config.groups = vec![GroupSettings { deny, ..GroupSettings::catch_all("all") }];
    }));
    for (path, status) in
        [(PATCH, 410), (PAYLOAD, 410), ("/patches/index2.dax", 404), ("/minitri.flg", 404), ("/other", 404)]
    {
        assert_eq!(site.get(path).await.status, status, "{path}");
    }
    let mut config = site.config.clone();
    config.groups.clear();
    config.content_types.clear();
    site.relay_mut().reload(config).unwrap();
    for path in [PATCH, PAYLOAD, "/patches/index2.dax", "/minitri.flg"] {
        assert_eq!(site.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_route_content_is_never_fetched() {
    let change = |config: &mut gupd_config::Config| {
        deny_patches(config);
        with_token(config);
        config.refresh.catalogs = vec!["/patches/index2.dax".parse().unwrap()];
        config.prefetch.paths = vec![PATCH.parse().unwrap()];
    };
    let site = with_content(Site::with_config(change));
    assert_eq!(ask(&site, "s3cret-of-the-site").await.status, 200);
    site.wait_for_metric_at_least("gupd_prefetched_bytes_total", 10_000.0).await;
    assert_eq!(
        (site.manager.request_count("/patches/index2.dax"), site.manager.request_count(PATCH)),
        (1, 1)
    );
    assert_eq!(site.get(PATCH).await.status, 404, "stored content of a denied route is not served");

    let site = with_content(Site::with_config(|config| {
        change(config);
        config.prefetch.paths.push(PAYLOAD.parse().unwrap());
        config.routes[0].deny_download = vec!["client-patches".to_owned()];
        config.groups = vec![GroupSettings {
            allow: vec!["client-patches".to_owned()],
            ..GroupSettings::catch_all("all")
        }];
    }));
    assert_eq!(ask(&site, "s3cret-of-the-site").await.status, 200);
    site.wait_for_metric_at_least("gupd_prefetched_bytes_total", 10_000.0).await;
    assert_eq!(site.get(PATCH).await.status, 404);
    assert_eq!(
        (site.manager.request_count("/patches/index2.dax"), site.manager.request_count(PATCH)),
        (0, 0)
    );
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}
