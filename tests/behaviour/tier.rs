//! The shared tier: what one relay got from a manager, another one takes from a folder that both know. Damage and
//! absence of the tier fail no client, and only payloads are in it.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::{TempDir, tempdir};

use crate::support::connection_auth::{ConnectionAuthServer, ask, log_in};
use crate::support::{Manager, PAYLOAD, RefusingPort, Request, Resource, Site, WireClient, bytes};

const CATALOG: &str = "/minitri.flg";
const SERVED: &str = "gupd_tier_requests_total{outcome=\"served\"}";

fn publications(outcome: &str) -> String {
    format!("gupd_tier_publications_total{{outcome=\"{outcome}\"}}")
}

const OUTCOMES: [&str; 6] = ["published", "present", "repaired", "conflict", "failed", "dropped"];

/// Asserts that no object was offered for publication so far.
async fn assert_nothing_offered(site: &Site, case: &str) {
    site.wait_for_fills().await;
    assert_eq!(site.metric("gupd_tier_publications_pending").await, 0.0, "{case}");
    for outcome in OUTCOMES {
        assert_eq!(site.metric(&publications(outcome)).await, 0.0, "{case}: {outcome}");
    }
}

/// A tier with one payload that a relay has published.
async fn published(body: &[u8]) -> (TempDir, Manager) {
    let (folder, manager) = (tempdir().unwrap(), Manager::start());
    manager.put(PAYLOAD, Resource::tagged(body, "\"one\""));
    let site = Site::with_tier(manager.address(), folder.path(), |_| {});
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_for_metric(&publications("published"), 1.0).await;
    (folder, manager)
}

fn only_file(folder: &Path) -> PathBuf {
    let mut files = fs::read_dir(folder).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn second_relay_takes_object_while_manager_is_down() {
    for length in [1_000, 3 << 20] {
        let body = bytes(1, length);
        let (folder, manager) = published(&body).await;
        let down = RefusingPort::new();
        let site = Site::with_tier(down.address(), folder.path(), |_| {});
        let part = site.send(Request::get(PAYLOAD).range("500-509")).await;
        assert!(part.status == 206 && part.expect_body() == body[500..510]);
        assert!(site.get(PAYLOAD).await.expect_body() == body);
        site.wait_until_stored(PAYLOAD).await;
        assert!(site.metric(SERVED).await >= 1.0);
        assert_eq!(manager.request_count(PAYLOAD), 1, "only the first relay asked");
        let received = site.metric("gupd_tier_received_bytes_total").await;
        assert!(received >= length as f64, "{received} of {length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn object_of_the_tier_is_not_published_again() {
    let body = bytes(2, 100_000);
    let (folder, manager) = published(&body).await;
    let site = Site::with_tier(manager.address(), folder.path(), |_| {});
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_until_stored(PAYLOAD).await;
    assert_nothing_offered(&site, "present").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_object_comes_from_manager_and_is_repaired() {
    type Damage = fn(&Path, &[u8]);
    let damages: [(&str, Damage); 4] = [
        ("first block", |folder, _| flip(&only_file(&folder.join("blobs")), 10)),
        ("last block", |folder, body| flip(&only_file(&folder.join("blobs")), body.len() - 10)),
        ("truncated", |folder, body| {
            fs::write(only_file(&folder.join("blobs")), &body[..body.len() / 2]).unwrap();
        }),
        ("record", |folder, _| flip(&only_file(&folder.join("objects")), 30)),
    ];
    for (name, damage) in damages {
        let body = bytes(3, 5 << 20);
        let (folder, manager) = published(&body).await;
        damage(folder.path(), &body);
        let site = Site::with_tier(manager.address(), folder.path(), |_| {});
        assert!(site.get(PAYLOAD).await.expect_body() == body, "{name}");
        site.wait_for_metric(&publications("repaired"), 1.0).await;
        assert_eq!(site.metric("gupd_tier_damaged_total").await, 1.0, "{name}");
        // The next relay needs no manager.
        let next = Site::with_tier(RefusingPort::new().address(), folder.path(), |_| {});
        assert!(next.get(PAYLOAD).await.expect_body() == body, "{name}");
    }
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_shareable_payloads_are_published() {
    let (folder, manager) = (tempdir().unwrap(), Manager::start());
    let site = Site::with_tier(manager.address(), folder.path(), |tier| tier.max_object = 100_000);
    let file = |name: &str| PAYLOAD.replace("full.zip", name);
    let body = bytes(4, 50_000);
    let resource = || Resource::tagged(body.clone(), "\"one\"");
    let cases = [
        (CATALOG.to_owned(), resource()),
        ("/generic/file".to_owned(), resource().header("Cache-Control", "max-age=600")),
        (file("1.dax"), resource().header("Vary", "Accept-Language")),
        (file("2.dax"), resource().header("Cache-Control", "private")),
        (file("3.dax"), resource().header("Content-Encoding", "gzip")),
        (file("4.dax"), Resource::tagged(bytes(5, 100_001), "\"two\"")),
        (file("5.dax"), Resource::empty(404)),
    ];
    for (path, resource) in cases {
        manager.put(&path, resource);
        site.get(&path).await;
    }
    // Publications are in the order of offers.
    manager.put(PAYLOAD, resource().header("Vary", "accept-encoding"));
    site.get(PAYLOAD).await;
    site.wait_for_metric(&publications("published"), 1.0).await;
    only_file(&folder.path().join("objects"));
    assert_eq!(site.metric("gupd_tier_publications_pending").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_for_one_client_are_never_published() {
    let (folder, manager) = (tempdir().unwrap(), Manager::start());
    let site = Site::with_tier(manager.address(), folder.path(), |_| {});
    let resource = || Resource::tagged(bytes(6, 50_000), "\"one\"");
    for (at, (case, resource, field)) in [
        ("private fields", resource().header("Cache-Control", "private=\"set-cookie\""), None),
        ("no-store", resource().header("Cache-Control", "no-store"), None),
        ("credentials", resource(), Some(("Authorization", "Basic YWxpY2U6eA=="))),
        ("no-store of the client", resource(), Some(("Cache-Control", "no-store"))),
        ("any Vary", resource().header("Vary", "*"), None),
    ]
    .into_iter()
    .enumerate()
    {
        let path = PAYLOAD.replace("full.zip", &format!("{at}.dax"));
        manager.put(&path, resource);
        let request =
            field.iter().fold(Request::get(&path), |request, (name, value)| request.header(name, value));
        assert!(site.send(request).await.expect_body() == bytes(6, 50_000), "{case}");
        assert_nothing_offered(&site, case).await;
    }
}

/// A payload is the same for every client, so its cookie is not stored, and others get it without.
#[tokio::test(flavor = "multi_thread")]
async fn payload_is_published_without_its_cookie() {
    let (folder, manager) = (tempdir().unwrap(), Manager::start());
    let site = Site::with_tier(manager.address(), folder.path(), |_| {});
    let resource = Resource::tagged(bytes(7, 50_000), "\"one\"");
    manager
        .put(PAYLOAD, resource.header("Set-Cookie", "session=alice").header("Set-Cookie2", "session=alice"));
    site.get(PAYLOAD).await.expect_body();
    site.wait_for_metric(&publications("published"), 1.0).await;
    let record = fs::read(only_file(&folder.path().join("objects"))).unwrap();
    let text = String::from_utf8_lossy(&record).to_lowercase();
    assert!(!text.contains("cookie") && !text.contains("alice"), "{text}");
    let next = Site::with_tier(RefusingPort::new().address(), folder.path(), |_| {});
    assert_eq!(next.get(PAYLOAD).await.header("Set-Cookie"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn response_of_an_authenticated_connection_is_never_published() {
    let (folder, server) = (tempdir().unwrap(), ConnectionAuthServer::start().await);
    let site = Site::with_tier(server.address, folder.path(), |_| {});
    let mut alice = WireClient::connect(site.address()).await;
    log_in(&mut alice, "/secars/me", "NTLM", "alice").await;
    assert_eq!(ask(&mut alice, PAYLOAD, "").await.0, 200);
    assert_nothing_offered(&site, "NTLM").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn catalog_is_never_taken_from_the_tier() {
    let body = bytes(6, 100_000);
    let (folder, manager) = published(&body).await;
    let site = Site::with_tier(manager.address(), folder.path(), |_| {});
    manager.put(CATALOG, Resource::new("one"));
    site.get(CATALOG).await;
    for outcome in ["served", "absent", "failed", "late"] {
        let name = format!("gupd_tier_requests_total{{outcome=\"{outcome}\"}}");
        assert_eq!(site.metric(&name).await, 0.0, "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_serves_while_the_folder_of_its_tier_is_absent() {
    let (folder, manager) = (tempdir().unwrap(), Manager::start());
    let share = folder.path().join("share");
    let site = Site::with_tier(manager.address(), &share, |_| {});
    for at in 0..6 {
        let path = PAYLOAD.replace("full.zip", &format!("{at}.dax"));
        manager.put(&path, Resource::tagged(bytes(at, 1_000), "\"one\""));
        assert!(site.get(&path).await.expect_body() == bytes(at, 1_000));
    }
    // The breaker opens after three failures.
    assert_eq!(site.metric("gupd_tier_requests_total{outcome=\"failed\"}").await, 3.0);
    assert_eq!(site.metric("gupd_tier_healthy").await, 0.0);
    assert!(!share.exists());
}
