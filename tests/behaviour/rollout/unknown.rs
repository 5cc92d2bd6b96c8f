//! Catalogs that no revision has yet: answers to clients while the manager is slow, down, or does not have them.

use super::{
    BRANCH, CATALOGS, Crowd, DAY, OTHER, PILOT, STAGED, all, catalog, get, hold, order, pass, promote,
    publish, publish_and_refresh, refresh, send, site, version_of,
};
use crate::support::{Gate, RefusingPort, Request, WireClient};

const NEW: &str = "/c_1.0_english_livetri.zip";

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_share_first_revision_of_slow_manager() {
    let (site, gate) = (site(STAGED), Gate::default());
    for path in CATALOGS {
        site.manager.put(path, catalog(path, 1).held(&gate));
    }
    let asks = (0..50_u8).map(|at| {
        let client = [PILOT, BRANCH, OTHER][usize::from(at % 3)];
        let (path, address) = (CATALOGS[usize::from(at % 3)], site.address());
        async move {
            (path, WireClient::connect_from(client, address).await.send(&Request::get(path)).await.unwrap())
        }
    });
    let opens = async {
        site.wait_for_metric("gupd_connections", 50.0).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(asks), opens);
    for (path, answer) in answers {
        assert_eq!(version_of(path, answer), 1);
    }
    for path in CATALOGS {
        assert!(site.manager.request_count(path) <= 4, "{}", site.manager.request_count(path));
    }
    let mut crowd = Crowd::of(&site, [5, 5, 5]).await;
    assert_eq!(crowd.count(1).await, [5, 5, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_manager_serves_known_catalogs_and_defers_unknown() {
    let mut site = site(STAGED);
    assert_eq!(all(&site).await, [1, 1, 1]);
    publish_and_refresh(&site, 2).await;
    let nobody = RefusingPort::new();
    site.set_upstreams(&[nobody.address()]);
    for client in [PILOT, BRANCH] {
        let answer = get(&site, client, NEW).await;
        assert!([503, 504].contains(&answer.status), "{}", answer.status);
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(all(&site).await, [2, 1, 1]);
    assert!(site.relay().refresher().refresh().await.unwrap().failed > 0);
    site.restart();
    assert_eq!(all(&site).await, [2, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_catalog_joins_new_revision_and_follows_rings() {
    let site = site(STAGED);
    assert_eq!(all(&site).await, [1, 1, 1]);
    assert_eq!(get(&site, OTHER, NEW).await.status, 404);
    publish(&site.manager, 2);
    site.manager.put(NEW, catalog(NEW, 2));
    assert_eq!(get(&site, PILOT, NEW).await.status, 404, "its absence was published");
    refresh(&site).await;
    assert_eq!(version_of(NEW, get(&site, PILOT, NEW).await), 2);
    for client in [BRANCH, OTHER] {
        assert_eq!(get(&site, client, NEW).await.status, 404);
    }
    assert_eq!(all(&site).await, [2, 1, 1]);
    order(&site, promote("second")).await;
    order(&site, promote("last")).await;
    pass(&site, 4 * super::HOUR).await;
    assert_eq!(version_of(NEW, get(&site, OTHER, NEW).await), 2);
    // And what goes, goes in rings too.
    site.manager.remove(NEW);
    refresh(&site).await;
    assert_eq!((get(&site, PILOT, NEW).await.status, get(&site, OTHER, NEW).await.status), (404, 200));
    let head = send(&site, OTHER, &Request::head(NEW)).await;
    assert_eq!((head.status, head.header("etag")), (200, Some("\"2\"")));
}

#[tokio::test(flavor = "multi_thread")]
async fn varying_catalog_is_same_for_every_client() {
    let site = site(STAGED);
    for path in CATALOGS {
        site.manager.put(path, catalog(path, 1).header("Vary", "Accept-Encoding"));
    }
    for asked in [Request::get(CATALOGS[0]), Request::get(CATALOGS[0]).header("Accept-Encoding", "gzip")] {
        let answer = send(&site, PILOT, &asked).await;
        assert_eq!((answer.status, answer.header("vary")), (200, Some("Accept-Encoding")));
        assert_eq!(version_of(CATALOGS[0], answer), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn held_client_finds_unused_catalog_while_manager_is_offline() {
    let mut site = site(STAGED);
    site.manager.put(NEW, catalog(NEW, 1));
    assert_eq!(all(&site).await, [1, 1, 1]);
    assert_eq!(version_of(NEW, get(&site, OTHER, NEW).await), 1);
    order(&site, hold("default", "1")).await;
    for days in [20, 20] {
        pass(&site, days * DAY).await;
        assert_eq!(all(&site).await[0], 1);
    }
    // The store's upkeep drops what was fetched for the refresh, at the start.
    site.restart();
    let has_it = || {
        let newest = site.relay().rollouts().snapshot().state.newest().cloned().unwrap();
        newest.catalogs.keys().any(|key| key.ends_with(NEW))
    };
    for version in 2.. {
        publish_and_refresh(&site, version).await;
        if !has_it() {
            break;
        }
        assert!(version < 1_000, "it is never left out");
    }
    let nobody = RefusingPort::new();
    site.set_upstreams(&[nobody.address()]);
    assert_eq!(version_of(NEW, get(&site, OTHER, NEW).await), 1);
}
