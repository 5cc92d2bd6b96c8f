//! Refresh with rings: a revision has all catalogs of a source as one upstream had them at one instant, or none.
//! Catalogs that clients request and no revision has join the newest.

use std::sync::Arc;
use std::time::Duration;

use gupd_config::WeekWindows;
use gupd_proxy::background::PendingOutcome;
use gupd_refresh::RefreshReport;
use gupd_store::ObjectKey;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::support::collector::{Collector, key};
use crate::support::{Gate, Manager, PAYLOAD, Resource};

const MINITRI: &str = "/minitri.flg";
const NAMES: [&str; 4] = ["/a_livetri.zip", "/b_livetri.zip", "/c_livetri.zip", MINITRI];

fn hash(body: &str) -> Option<[u8; 32]> {
    Some(Sha256::digest(body).into())
}

fn broken() -> Resource {
    Resource::new("broken").without("ETag").status(500)
}

/// A version of every catalog.
pub(crate) fn publish(manager: &Manager, version: u32) {
    for name in NAMES {
        manager.put(name, Resource::new(format!("{version} of {name}")));
    }
}

fn requests(manager: &Manager) -> [usize; 4] {
    NAMES.map(|name| manager.request_count(name))
}

pub(crate) async fn collector(managers: &[&Manager]) -> Collector {
    let urls: Vec<String> = managers.iter().map(|manager| manager.url()).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let listed = |config: &mut gupd_config::Config| {
        config.refresh.catalogs = NAMES.iter().map(|name| name.parse().unwrap()).collect();
    };
    Collector::start(&urls, listed).await
}

/// Whether the newest revision is this version, of all of the catalogs.
pub(crate) fn is_version(collector: &Collector, version: u32) -> bool {
    let (_, catalogs) = collector.newest();
    NAMES.iter().all(|name| {
        let found = catalogs[*name].map(|blob| blob == hash(&format!("{version} of {name}")).unwrap().into());
        found == Some(true)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_equal_collects_publish_and_one_detects_no_change() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    let report = collector.refresh().await;
    assert_eq!(report, RefreshReport { asked: 4, changed: 4, failed: 0, revision: Some(1.into()) });
    assert!(is_version(&collector, 1));
    assert_eq!(requests(&manager), [2; 4]);
    assert_eq!(collector.refresh().await, RefreshReport { asked: 4, ..RefreshReport::default() });
    assert_eq!(requests(&manager), [3; 4]);
    assert!(manager.requests_for(MINITRI)[2].header("if-none-match").is_some());
    publish(&manager, 2);
    let report = collector.refresh().await;
    assert_eq!(report, RefreshReport { asked: 4, changed: 4, failed: 0, revision: Some(2.into()) });
    assert!(is_version(&collector, 2));
    assert_eq!(requests(&manager), [5; 4]);
    assert_eq!(collector.stored(&collector.view()).await.len(), 4);
    assert_eq!((collector.refresh_count("changed"), collector.refresh_count("unchanged")), (8, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn publication_during_collect_is_not_mixed() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = Arc::new(collector(&[&manager]).await);
    collector.refresh().await;
    publish(&manager, 2);
    let gate = Gate::default();
    manager.put(MINITRI, Resource::new(format!("2 of {MINITRI}")).held(&gate));
    let before = manager.request_count(MINITRI);
    let refreshing = tokio::spawn({
        let collector = collector.clone();
        async move { collector.refresh().await }
    });
    manager.wait_for_requests(MINITRI, before + 1).await;
    for name in &NAMES[..3] {
        manager.wait_for_requests(name, before + 1).await;
    }
    // Two of version 2 were read; now there is version 3.
    publish(&manager, 3);
    gate.open();
    assert_eq!(refreshing.await.unwrap().revision, Some(2.into()));
    assert!(is_version(&collector, 3), "{:?}", collector.newest());
}

#[tokio::test(flavor = "multi_thread")]
async fn unsettled_source_is_not_published_nor_collected_forever() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = Arc::new(collector(&[&manager]).await);
    collector.refresh().await;
    let held = |version: u32| {
        let gate = Gate::default();
        for name in NAMES {
            manager.put(name, Resource::new(format!("{version} of {name}")).held(&gate));
        }
        gate
    };
    let mut gate = held(2);
    let refreshing = tokio::spawn({
        let collector = collector.clone();
        async move { collector.refresh().await }
    });
    for (version, requests) in (3..7).zip(3..) {
        for name in NAMES {
            manager.wait_for_requests(name, requests).await;
        }
        // All of one version are on their way; the next collect finds another one.
        let next = held(version);
        gate.open();
        gate = next;
    }
    let report = refreshing.await.unwrap();
    assert_eq!(report, RefreshReport { asked: 4, changed: 0, failed: 4, revision: None });
    assert_eq!(requests(&manager), [6; 4]);
    assert!(is_version(&collector, 1));
    gate.open();
    assert_eq!(collector.refresh().await.revision, Some(2.into()));
    assert!(is_version(&collector, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_in_the_middle_is_not_mixed_with_the_next() {
    let (first, second) = (Manager::start(), Manager::start());
    publish(&first, 1);
    publish(&second, 7);
    let collector = collector(&[&first, &second]).await;
    collector.refresh().await;
    assert!(is_version(&collector, 1));
    assert_eq!(requests(&second), [0; 4]);
    publish(&first, 2);
    first.put(MINITRI, broken());
    let report = collector.refresh().await;
    assert_eq!((report.failed, report.revision), (0, Some(2.into())));
    assert!(is_version(&collector, 7), "{:?}", collector.newest());
    second.put(MINITRI, broken());
    publish(&first, 3);
    first.put(NAMES[0], broken());
    assert_eq!(collector.refresh().await, RefreshReport { asked: 4, changed: 0, failed: 4, revision: None });
    assert!(is_version(&collector, 7), "{:?}", collector.newest());
    publish(&first, 3);
    assert_eq!(collector.refresh().await.revision, Some(3.into()));
    assert!(is_version(&collector, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_date_of_another_upstream_proves_nothing() {
    let (first, second) = (Manager::start(), Manager::start());
    let dated = |body: &str| {
        Resource::new(body).without("ETag").header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
    };
    NAMES.iter().for_each(|name| first.put(name, dated("new")));
    NAMES.iter().for_each(|name| second.put(name, dated("old")));
    let collector = collector(&[&first, &second]).await;
    collector.refresh().await;
    NAMES.iter().for_each(|name| first.put(name, broken()));
    assert_eq!(collector.refresh().await.revision, Some(2.into()));
    assert!(second.requests_for(MINITRI)[0].header("if-modified-since").is_none());
    assert!(collector.newest().1.values().all(|blob| *blob == hash("old").map(Into::into)));
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_catalog_leaves_and_returns_by_revision() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    collector.refresh().await;
    manager.remove(MINITRI);
    assert_eq!(collector.refresh().await.revision, Some(2.into()));
    assert_eq!(collector.newest().1[MINITRI], None);
    assert!(collector.views().revisions().last().unwrap().catalogs[&key(MINITRI)].blob().is_some());
    assert_eq!(collector.refresh().await.revision, None);
    assert_eq!(collector.refresh_count("missing"), 1);
    publish(&manager, 1);
    assert_eq!(collector.refresh().await.revision, Some(3.into()));
    assert!(is_version(&collector, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_catalog_joins_unchanged_newest_revision() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    collector.refresh().await;
    manager.put("/new_livetri.zip", Resource::new("new"));
    assert_eq!(collector.wait_for_catalog("/new_livetri.zip").await, PendingOutcome::Published);
    let (number, catalogs) = collector.newest();
    assert_eq!((number, catalogs.len()), (1, 5));
    assert_eq!(catalogs["/new_livetri.zip"], hash("new").map(Into::into));
    assert_eq!((requests(&manager), manager.request_count("/new_livetri.zip")), ([3; 4], 1));
    assert_eq!(collector.stored(&collector.view()).await.len(), 5);
    // A late client is answered without a request.
    assert_eq!(collector.wait_for_catalog("/new_livetri.zip").await, PendingOutcome::Published);
    assert_eq!((requests(&manager), manager.request_count("/new_livetri.zip")), ([3; 4], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_catalog_starts_revision_after_change() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    collector.refresh().await;
    publish(&manager, 2);
    manager.put("/new_livetri.zip", Resource::new("2"));
    assert_eq!(collector.wait_for_catalog("/new_livetri.zip").await, PendingOutcome::Published);
    let (number, catalogs) = collector.newest();
    assert_eq!((number, catalogs.len()), (2, 5));
    assert!(is_version(&collector, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_requested_catalogs_are_of_one_instant() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    collector.refresh().await;
    let gate = Gate::default();
    let [x, y] = ["/x_livetri.zip", "/y_livetri.zip"];
    manager.put(x, Resource::new("1").held(&gate));
    let waiting = collector.proxy.background().pending_catalogs().wait_for(&key(x));
    manager.wait_for_requests(x, 1).await;
    // The first has its answer already; for the second there is none yet.
    manager.put(x, Resource::new("2"));
    manager.put(y, Resource::new("2"));
    let also = collector.proxy.background().pending_catalogs().wait_for(&key(y));
    gate.open();
    assert_eq!(tokio::join!(waiting, also), (PendingOutcome::Published, PendingOutcome::Published));
    let (_, catalogs) = collector.newest();
    assert_eq!([x, y].map(|path| catalogs[path]), [hash("2").map(Into::into); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn collect_of_one_upstream_proves_nothing_for_another() {
    let (first, second) = (Manager::start(), Manager::start());
    publish(&first, 1);
    publish(&second, 1);
    second.put(MINITRI, Resource::new("before"));
    let collector = collector(&[&first, &second]).await;
    collector.refresh().await;
    let (gate, new) = (Gate::default(), "/new_livetri.zip");
    NAMES.iter().chain([&new]).for_each(|name| first.put(name, broken()));
    second.put(new, Resource::new("before").held(&gate));
    let waiting = collector.proxy.background().pending_catalogs().wait_for(&key(new));
    second.wait_for_requests(new, 1).await;
    // Now it has what the first one had.
    publish(&second, 1);
    second.put(new, Resource::new("1"));
    gate.open();
    assert_eq!(waiting.await, PendingOutcome::Published);
    assert!(is_version(&collector, 1));
    assert_eq!(collector.newest().1[new], hash("1").map(Into::into));
}

#[tokio::test(flavor = "multi_thread")]
async fn requested_catalog_starts_first_revision_with_all_known() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    manager.put("/new_livetri.zip", Resource::new("new"));
    assert_eq!(collector.wait_for_catalog("/new_livetri.zip").await, PendingOutcome::Published);
    let (number, catalogs) = collector.newest();
    assert_eq!((number, catalogs.len()), (1, 5));
    assert!(is_version(&collector, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_at_once_cost_one_collect() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = Arc::new(collector(&[&manager]).await);
    collector.refresh().await;
    let gate = Gate::default();
    let path = |at: usize| format!("/{}_livetri.zip", at % 40);
    for at in 0..40 {
        manager.put(&path(at), Resource::new(at.to_string()).held(&gate));
    }
    let mut clients = JoinSet::new();
    for at in 0..50 {
        // All of them wait before the first has its answer.
        let waiting = collector.proxy.background().pending_catalogs().wait_for(&key(&path(at)));
        clients.spawn(waiting);
    }
    gate.open();
    assert_eq!(clients.join_all().await, vec![PendingOutcome::Published; 50]);
    assert_eq!(requests(&manager), [3; 4]);
    let (number, catalogs) = collector.newest();
    assert_eq!((number, catalogs.len()), (1, 44));
    assert!(
        (0..40).all(|at| manager.request_count(&path(at)) <= 2),
        "each once, and again beside the others"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_names_cost_a_request_each_and_no_collect() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    collector.refresh().await;
    let path = |at: usize| format!("/{at}_livetri.zip");
    for (names, expected) in [(0..1_000, PendingOutcome::Published), (1_000..1_005, PendingOutcome::Absent)] {
        let waiting =
            names.clone().map(|at| collector.proxy.background().pending_catalogs().wait_for(&key(&path(at))));
        let waiting: JoinSet<PendingOutcome> = waiting.collect();
        assert!(waiting.join_all().await.iter().all(|arrived| *arrived == expected));
        assert!(names.into_iter().all(|at| manager.request_count(&path(at)) == 1));
    }
    assert_eq!((requests(&manager), collector.newest().0), ([2; 4], 1));
    assert_eq!(collector.wait_for_catalog("/1004_livetri.zip").await, PendingOutcome::Absent);
    assert_eq!(manager.request_count("/1004_livetri.zip"), 1, "known to be none for a moment");
    // Of those, the ones that clients ask for are asked for again.
    collector.clock.advance(Duration::from_secs(60));
    collector
        .proxy
        .background()
        .missing_catalogs()
        .record_request(&key("/7_livetri.zip"), collector.clock.now());
    assert_eq!(collector.refresh().await.asked, 504);
    publish(&manager, 2);
    assert_eq!(collector.refresh().await.revision, Some(2.into()));
    let (_, catalogs) = collector.newest();
    assert_eq!((catalogs.len(), catalogs.contains_key("/7_livetri.zip")), (504, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_queries_are_refused_when_there_are_too_many() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    collector.refresh().await;
    let mut waiting = JoinSet::new();
    for at in 0..300 {
        let key = ObjectKey::from(format!("{}?{at}", key(MINITRI)));
        waiting.spawn(collector.proxy.background().pending_catalogs().wait_for(&key));
    }
    let answers = waiting.join_all().await;
    let refused = answers.iter().filter(|arrived| **arrived == PendingOutcome::Refused).count();
    let published = answers.iter().filter(|arrived| **arrived == PendingOutcome::Published).count();
    assert_eq!((published, refused), (256, 44));
    // The next refresh requests four of them, and the next revision has these.
    assert_eq!(collector.refresh().await.asked, 4 + NAMES.len() as u64);
    publish(&manager, 2);
    assert_eq!(collector.refresh().await.revision, Some(2.into()));
    assert_eq!(collector.newest().1.len(), 4 + NAMES.len());
    let payload = ObjectKey::from(key(MINITRI).replace(MINITRI, PAYLOAD));
    assert_eq!(
        collector.proxy.background().pending_catalogs().wait_for(&payload).await,
        PendingOutcome::Refused
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_collected_is_left_alone_for_a_while() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    collector.refresh().await;
    manager.put(MINITRI, broken());
    for name in ["/1_livetri.zip", "/2_livetri.zip"] {
        manager.put(name, Resource::new("there"));
        assert_eq!(collector.wait_for_catalog(name).await, PendingOutcome::Unpublished);
    }
    assert_eq!((manager.request_count("/1_livetri.zip"), manager.request_count("/2_livetri.zip")), (1, 0));
    assert_eq!(collector.newest().1.len(), 4);
    publish(&manager, 1);
    collector.clock.advance(Duration::from_secs(30));
    assert_eq!(collector.wait_for_catalog("/2_livetri.zip").await, PendingOutcome::Published);
    assert_eq!(collector.newest().1.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_catalog_blocks_no_other_client() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = collector(&[&manager]).await;
    collector.refresh().await;
    manager.put("/odd_livetri.zip", broken());
    assert_eq!(collector.wait_for_catalog("/odd_livetri.zip").await, PendingOutcome::Unpublished);
    manager.put("/new_livetri.zip", Resource::new("new"));
    let both = tokio::join!(
        collector.wait_for_catalog("/odd_livetri.zip"),
        collector.wait_for_catalog("/new_livetri.zip")
    );
    assert_eq!(both, (PendingOutcome::Unpublished, PendingOutcome::Published));
    assert_eq!(collector.refresh().await.failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_catalog_is_not_in_next_revision() {
    let manager = Manager::start();
    publish(&manager, 1);
    let collector = Collector::start(&[&manager.url()], |config| {
        config.refresh.catalogs = vec![MINITRI.parse().unwrap()];
    })
    .await;
    let month = Duration::from_secs(31 * 86_400);
    assert_eq!(collector.wait_for_catalog(NAMES[0]).await, PendingOutcome::Published);
    assert_eq!(collector.newest().1.len(), 2);
    collector.clock.advance(3 * month);
    // The store's upkeep does this.
    for name in [NAMES[0], MINITRI] {
        collector.store.remove(&key(name)).await.unwrap();
    }
    assert_eq!(collector.refresh().await.revision, None, "that is no news");
    assert_eq!(collector.newest().1.len(), 2);
    publish(&manager, 2);
    assert_eq!(collector.refresh().await.revision, Some(2.into()));
    assert_eq!(collector.newest().1.into_keys().collect::<Vec<_>>(), [MINITRI]);
}

#[tokio::test(flavor = "multi_thread")]
async fn catalog_waiter_skips_windows_and_prefetch() {
    let manager = Manager::start();
    publish(&manager, 1);
    let gate = Gate::default();
    manager.put(PAYLOAD, Resource::new("ahead").held(&gate));
    let collector = Collector::start(&[&manager.url()], |config| {
        config.refresh.catalogs = vec![MINITRI.parse().unwrap()];
        config.prefetch.paths = vec![PAYLOAD.parse().unwrap()];
    })
    .await;
    collector.refresh().await;
    manager.wait_for_requests(PAYLOAD, 1).await;
    assert_eq!(collector.wait_for_catalog(NAMES[0]).await, PendingOutcome::Published);
    gate.open();
    let closed = Collector::start(&[&manager.url()], |config| {
        config.wan.windows = WeekWindows::constant(false);
    })
    .await;
    assert_eq!(closed.wait_for_catalog(NAMES[0]).await, PendingOutcome::Published);
}
