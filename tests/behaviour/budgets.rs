//! What one client may cost the line and the store in a time. In each test one client exceeds a budget; another one is
//! served as if nothing had happened.

use std::net::{IpAddr, Ipv4Addr};

use gupd_config::ClientSettings;
use gupd_site::{OriginServer, RecordedRequest};

use crate::support::{Manager, PAYLOAD, Request, Resource, Response, Site, WireClient, bytes};

const GREEDY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
const CATALOG: &str = "/minitri.flg";

/// A site with these budgets, one stored payload, and a manager that has every name without `absent`.
async fn site_with_budgets(change: impl FnOnce(&mut ClientSettings)) -> Site {
    let respond = |request: &RecordedRequest| {
        let is_absent = request.target.contains("absent");
        (!is_absent).then(|| Resource::new(request.target.clone().into_bytes()))
    };
    let manager = Manager::with_origin(OriginServer::computed(respond)).unwrap();
    let site = Site::for_manager(manager, |config| change(&mut config.clients));
    for path in [PAYLOAD, CATALOG] {
        site.wait_until_stored(path).await;
    }
    site
}

async fn ask(client: IpAddr, site: &Site, request: Request) -> Response {
    WireClient::connect_from(client, site.address()).await.send(&request).await.unwrap()
}

/// Asserts that the greedy client gets stored content, and another client new content too.
async fn assert_others_are_served(site: &Site, description: &str) {
    assert_eq!(ask(GREEDY, site, Request::get(PAYLOAD)).await.status, 200, "{description}");
    for target in [PAYLOAD, CATALOG, "/content/1/new.dax", "/files/new.msi", "/secars/secars.dll?h=1"] {
        assert_eq!(ask(OTHER, site, Request::get(target)).await.status, 200, "{description} {target}");
    }
    let report = Request::new("POST", "/secars/secars.dll").body(b"log".to_vec());
    assert_eq!(ask(OTHER, site, report).await.status, 200, "{description}");
}

/// Asserts that a request is refused for this reason.
async fn assert_refused(site: &Site, request: Request, reason: &str) {
    let refused = ask(GREEDY, site, request).await;
    assert_eq!((refused.status, refused.header("cache-status")), (503, None), "{reason}");
    assert!(refused.header("retry-after").is_some_and(|after| after.parse::<u32>().unwrap() >= 1));
    assert!(site.metric(&format!("gupd_refused_total{{reason=\"{reason}\"}}")).await >= 1.0, "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_names_of_one_client_are_bounded() {
    let name = |kind: &str, number: u32| match kind {
        "query of a catalog" => format!("{CATALOG}?x={number}"),
        "query of a payload" => format!("{PAYLOAD}?x={number}"),
        "payload" => format!("/content/1/{number}.dax"),
        "file without a class" => format!("/files/{number}.msi"),
        _ => format!("/content/1/absent{number}.dax"),
    };
    let kinds =
        ["query of a catalog", "query of a payload", "payload", "file without a class", "absent name"];
    for kind in kinds {
        let site = site_with_budgets(|clients| clients.new_names = Some(20)).await;
        let before = site.manager.total_requests();
        for number in 0..20 {
            assert_ne!(
                ask(GREEDY, &site, Request::get(&name(kind, number))).await.status,
                503,
                "{kind} {number}"
            );
        }
        for number in 20..30 {
            assert_refused(&site, Request::get(&name(kind, number)), "too-many-new-names").await;
        }
        assert_eq!(site.manager.total_requests() - before, 20, "{kind}");
        assert_others_are_served(&site, kind).await;
        // What others have asked for is no new name.
        assert_eq!(ask(GREEDY, &site, Request::get("/content/1/new.dax")).await.status, 200, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_names_of_one_client_are_bounded() {
    let site = site_with_budgets(|clients| clients.absent_names = Some(10)).await;
    for number in 0..10 {
        let target = format!("/content/1/absent{number}.dax");
        assert_eq!(ask(GREEDY, &site, Request::get(&target)).await.status, 404);
    }
    assert_refused(&site, Request::get("/content/1/absent10.dax"), "too-many-absent-names").await;
    assert_eq!(ask(OTHER, &site, Request::get("/content/1/absent10.dax")).await.status, 404);
    assert_others_are_served(&site, "absent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_cannot_evict_the_content_of_the_site() {
    // Equal content would be stored once.
    let seed = |target: &str| {
        target.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)))
    };
    let respond = move |request: &RecordedRequest| Some(Resource::new(bytes(seed(&request.target), 2 << 20)));
    let manager = Manager::with_origin(OriginServer::computed(respond)).unwrap();
    let site = Site::for_manager(manager, |config| {
        config.store.quota = 64 << 20;
        config.clients.new_bytes = Some(16 << 20);
    });
    let used: Vec<_> = (0..16).map(|number| PAYLOAD.replace("full.zip", &format!("{number}.dax"))).collect();
    for (number, target) in (1..).zip(&used) {
        let client = Ipv4Addr::new(127, 0, 1, number).into();
        assert_eq!(ask(client, &site, Request::get(target)).await.status, 200);
        site.wait_for_fills().await;
    }
    let mut refused = 0;
    for number in 0..60 {
        let request = Request::get(&PAYLOAD.replace("full.zip", &format!("cold{number}.dax")));
        let status = ask(GREEDY, &site, request).await.status;
        refused += u32::from(status == 503);
        site.wait_for_fills().await;
    }
    // The budget may be exceeded once.
    assert!((51..=53).contains(&refused), "{refused}");
    for target in &used {
        let response = ask(OTHER, &site, Request::get(target)).await;
        assert!(response.cache_status().starts_with("gupd; hit"), "{target}: {}", response.cache_status());
    }
    assert_eq!(ask(OTHER, &site, Request::get(&PAYLOAD.replace("full.zip", "cold59.dax"))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_requests_of_one_client_are_bounded() {
    for (method, target) in
        [("POST", "/secars/secars.dll"), ("GET", "/secars/secars.dll?h=2"), ("HEAD", "/files/cold.msi")]
    {
        let site = site_with_budgets(|clients| clients.upstream_requests = Some(5)).await;
        let mut client = WireClient::connect_from(GREEDY, site.address()).await;
        let mut statuses = Vec::new();
        while statuses.iter().filter(|status| **status == 503).count() < 3 {
            statuses.push(client.send(&Request::new(method, target)).await.unwrap().status);
            assert!(statuses.len() < 100, "{method} {statuses:?}");
        }
        let reason = "gupd_refused_total{reason=\"too-many-upstream-requests\"}";
        assert!(site.metric(reason).await >= 3.0, "{method}");
        assert_eq!(client.send(&Request::get(PAYLOAD)).await.unwrap().status, 200, "{method}");
        assert_eq!(ask(OTHER, &site, Request::get("/content/1/new.dax")).await.status, 200, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_one_client_are_bounded() {
    let site = site_with_budgets(|clients| clients.uploads = Some(1 << 20)).await;
    let report = || Request::new("POST", "/secars/secars.dll").body(bytes(2, 3 << 20));
    assert_eq!(ask(GREEDY, &site, report()).await.status, 200, "the budget is checked at the start");
    assert_refused(&site, report(), "too-many-uploads").await;
    let with_body = Request::get("/files/a.msi").body(b"body".to_vec());
    assert_refused(&site, with_body, "too-many-uploads").await;
    assert_others_are_served(&site, "uploads").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn body_of_a_get_does_not_lead_past_the_store() {
    let site = site_with_budgets(|_| {}).await;
    let before = site.manager.total_requests();
    for method in ["GET", "HEAD"] {
        for target in [PAYLOAD, CATALOG] {
            let request = Request::new(method, target).body(b"anything".to_vec());
            let response = ask(GREEDY, &site, request).await;
            assert_eq!(response.cache_status().split(';').nth(1), Some(" hit"), "{method} {target}");
        }
    }
    assert_eq!(site.manager.total_requests(), before);
    // The next request on the connection is not mistaken for the body, or the body for it.
    let mut client = WireClient::connect_from(GREEDY, site.address()).await;
    let smuggled = b"GET /content/1/smuggled.dax HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    let response = client.send(&Request::get(PAYLOAD).body(smuggled)).await.unwrap();
    assert_eq!(response.expect_body(), PAYLOAD.as_bytes());
    assert_eq!(site.manager.request_count("/content/1/smuggled.dax"), 0);
}

/// Sends these requests of the greedy client, each when the fill before has ended, and returns their statuses.
async fn ask_each(site: &Site, requests: impl IntoIterator<Item = Request>) -> Vec<u16> {
    let mut statuses = Vec::new();
    for request in requests {
        statuses.push(ask(GREEDY, site, request).await.status);
        site.wait_for_fills().await;
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn validations_of_one_client_are_bounded() {
    let generic = |target: &str| Request::get(target).header("Cache-Control", "max-age=0");
    for (content, request, answer) in [
        ("no-cache", Request::get("/files/a.msi"), 503),
        ("max-age=0, must-revalidate", Request::get("/files/a.msi"), 503),
        ("max-age=60", generic("/files/a.msi"), 200),
        ("max-age=60", Request::get("/files/a.msi").header("Pragma", "no-cache"), 200),
    ] {
        let site = Site::with_config(|config| config.clients.upstream_requests = Some(5));
        let resource = Resource::tagged("content", "\"1\"").header("Cache-Control", content);
        site.manager.put("/files/a.msi", resource);
        assert_eq!(ask(OTHER, &site, Request::get("/files/a.msi")).await.status, 200);
        site.wait_for_fills().await;
        let begun = std::time::Instant::now();
        let statuses = ask_each(&site, std::iter::repeat_n(request, 60)).await;
        let most = 1 + 5 * (2 + usize::try_from(begun.elapsed().as_secs()).unwrap());
        let sent = site.manager.request_count("/files/a.msi");
        assert!(sent <= most, "{content}: {sent} requests");
        // A stale response is better than a refusal, where it may be used.
        assert!(statuses.iter().all(|status| [200, answer].contains(status)), "{content}: {statuses:?}");
        assert_eq!(ask(OTHER, &site, Request::get("/files/a.msi")).await.status, 200, "{content}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_of_one_client_count_as_new_content() {
    let respond = |request: &RecordedRequest| {
        let agent = request.header("user-agent").unwrap_or_default();
        let seed = agent.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let content = Resource::new(bytes(seed, 1 << 20)).header("Vary", "User-Agent");
        Some(content.header("Cache-Control", "max-age=600"))
    };
    let manager = Manager::with_origin(OriginServer::computed(respond)).unwrap();
    let site = Site::for_manager(manager, |config| config.clients.new_bytes = Some(4 << 20));
    let request = |agent: &str| Request::get("/files/a.msi").header("User-Agent", agent);
    let statuses = ask_each(&site, (0..20).map(|number| request(&format!("agent{number}")))).await;
    // The budget may be exceeded once.
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!((4..=5).contains(&served), "{statuses:?}");
    assert!(site.manager.body_bytes() <= 5 << 20);
    assert_eq!(ask(OTHER, &site, request("updater")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_content_of_one_client_counts_as_new_bytes() {
    const CHUNK: usize = 1 << 20;
    let site = Site::with_config(|config| config.clients.new_bytes = Some(8 << 20));
    let mut requests = Vec::new();
    for number in 0..3 {
        let path = PAYLOAD.replace("full.zip", &format!("{number}.zip"));
        site.manager.put(&path, Resource::new(bytes(number, 20 * CHUNK)));
        let byte = |chunk: usize| Request::get(&path).range(&format!("{0}-{0}", chunk * CHUNK));
        requests.extend((0..9).map(byte));
    }
    let statuses = ask_each(&site, requests).await;
    let served = statuses.iter().filter(|status| **status == 206).count();
    assert!((8..=9).contains(&served), "{statuses:?}");
    assert!(site.upstream_bytes().await <= 10.0 * CHUNK as f64);
    let other = Request::get(&PAYLOAD.replace("full.zip", "2.zip")).range("0-0");
    assert_eq!(ask(OTHER, &site, other).await.status, 206);
}

/// A site whose manager selects `/files/a.msi` by language, and has other content under each other name.
fn site_with_languages(change: impl FnOnce(&mut ClientSettings)) -> Site {
    let respond = |request: &RecordedRequest| {
        let language = request.header("accept-language").unwrap_or_default();
        let content = Resource::new(format!("{} {language}", request.target).into_bytes());
        Some(content.header("Vary", "Accept-Language").header("Cache-Control", "max-age=600"))
    };
    let manager = Manager::with_origin(OriginServer::computed(respond)).unwrap();
    Site::for_manager(manager, |config| change(&mut config.clients))
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_variants_leave_those_that_others_use() {
    let site = site_with_languages(|_| {});
    let request = |language: &str| Request::get("/files/a.msi").header("Accept-Language", language);
    let used = ["en", "de", "fr"];
    for language in used {
        assert_eq!(ask(OTHER, &site, request(language)).await.status, 200);
        site.wait_for_fills().await;
    }
    for number in 0..20 {
        let language = format!("x-{number}");
        let response = ask(GREEDY, &site, request(&language)).await;
        let is_passed = response.cache_status().ends_with("detail=client-variants");
        assert_eq!(is_passed, number >= 3, "{number}: {}", response.cache_status());
        assert_eq!(response.expect_body(), format!("/files/a.msi {language}").as_bytes());
        site.wait_for_fills().await;
    }
    for language in used {
        let response = ask(OTHER, &site, request(language)).await;
        assert!(response.cache_status().starts_with("gupd; hit"), "{language}: {}", response.cache_status());
    }
    // Another client brings its own, and every client has what others have brought.
    for client in [OTHER, GREEDY] {
        let response = ask(client, &site, request("sv")).await;
        assert!(!response.cache_status().contains("detail"), "{}", response.cache_status());
        site.wait_for_fills().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_made_up_at_once_are_bounded_too() {
    let site = site_with_languages(|_| {});
    let request = |language: &str| Request::get("/files/a.msi").header("Accept-Language", language);
    assert_eq!(ask(OTHER, &site, request("en")).await.status, 200);
    site.wait_for_fills().await;
    let languages: Vec<_> = (0..20).map(|number| format!("x-{number}")).collect();
    let responses = futures_util::future::join_all(
        languages.iter().map(|language| ask(GREEDY, &site, request(language))),
    );
    assert!(responses.await.iter().all(|response| response.status == 200));
    site.wait_for_fills().await;
    let response = ask(OTHER, &site, request("en")).await;
    assert!(response.cache_status().starts_with("gupd; hit"), "{}", response.cache_status());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_kept_out_of_the_store_by_a_client_are_bounded() {
    const LENGTH: usize = 1 << 20;
    let large = "v".repeat(9_000);
    for (field, value) in [
        ("Cache-Control", "no-store"),
        ("Cache-Control", "max-age=0, No-Store"),
        ("Authorization", "Basic YTpi"),
        ("User-Agent", &*large),
    ] {
        for target in [PAYLOAD, "/files/a.msi"] {
            let site = Site::with_config(|config| config.clients.new_bytes = Some(4 << 20));
            site.manager.put(target, Resource::new(bytes(7, LENGTH)));
            let request = Request::get(target).header(field, value);
            let statuses = ask_each(&site, std::iter::repeat_n(request, 20)).await;
            assert!(
                statuses.iter().all(|status| [200, 503].contains(status)),
                "{field} {target}: {statuses:?}"
            );
            // The budget may be exceeded once.
            let sent = site.manager.body_bytes();
            assert!(sent <= 5 << 20, "{field}: {value:.20} {target}: {sent} bytes");
            let other = ask(OTHER, &site, Request::get(target)).await;
            assert_eq!(other.expect_body(), bytes(7, LENGTH), "{field} {target}");
        }
    }
}
