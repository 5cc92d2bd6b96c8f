//! Digests: the relay's `Repr-Digest`, and verification against digests of the origin and of catalogs.

use std::io::{Cursor, Write};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256, Sha512};

use crate::support::{Ending, Gate, PAYLOAD, Request, Resource, Site, WireClient, bytes};

pub(crate) fn sha256(body: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(body)))
}

fn sha512(body: &[u8]) -> String {
    format!("sha-512=:{}:", BASE64_STANDARD.encode(Sha512::digest(body)))
}

fn md5(body: &[u8]) -> String {
    BASE64_STANDARD.encode(md5::Md5::digest(body))
}

#[tokio::test(flavor = "multi_thread")]
async fn want_repr_digest_returns_digest_of_whole() {
    let site = Site::new();
    let body = bytes(1, 3_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    site.wait_until_stored(PAYLOAD).await;
    let wanting = |request: Request| request.header("Want-Repr-Digest", "sha-512=3, sha-256=1");
    for (request, status) in [
        (Request::get(PAYLOAD), 200),
        (Request::head(PAYLOAD), 200),
        (Request::get(PAYLOAD).range("0-9"), 206),
        (Request::get(PAYLOAD).range("0-9,90-99"), 206),
    ] {
        let response = site.send(wanting(request.clone())).await;
        assert_eq!((response.status, response.header("Repr-Digest")), (status, Some(&*sha256(&body))));
        assert_eq!(site.send(request).await.header("Repr-Digest"), None);
    }
    let gone = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/gone.dax";
    site.manager.put(gone, Resource::new("gone").status(404));
    site.wait_until_stored(gone).await;
    assert_eq!(site.send(wanting(Request::get(gone))).await.header("Repr-Digest"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn origin_digest_is_forwarded_once_and_not_for_parts() {
    let site = Site::new();
    let body = bytes(2, 3_000);
    let resource = Resource::new(body.clone())
        .header("Repr-Digest", &sha512(&body))
        .header("Content-Digest", &sha256(&body))
        .header("Content-MD5", &md5(&body));
    site.manager.put(PAYLOAD, resource);
    site.wait_until_stored(PAYLOAD).await;
    let request = Request::get(PAYLOAD).header("Want-Repr-Digest", "sha-256=1");
    for (request, status) in [
        (request.clone(), 200),
        (request.clone().range("0-2999"), 206),
        (request.clone().range("5-9"), 206),
        (request.range("0-9,90-99"), 206),
    ] {
        let response = site.send(request).await;
        assert_eq!(response.status, status);
        let own: Vec<_> =
            response.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Repr-Digest")).collect();
        assert_eq!(own.len(), 1);
        assert_eq!(own[0].1, sha512(&body));
        assert_eq!(response.header("Content-Digest").is_some(), status == 200);
        assert_eq!(response.header("Content-MD5").is_some(), status == 200);
    }
}

const STORED: &str = "gupd; fwd=uri-miss; stored";
const DOUBTED: &str = "gupd; fwd=uri-miss; detail=digest-mismatch";
const CATALOG: &str = "/clu/sesc$20defs_14.3_symalllanguages_livetri.zip";
const LISTED: &str = "/clu/1369163480jtun_a.zip";

/// All fields that announce a digest.
pub(crate) fn fields(body: &[u8]) -> [(&'static str, String); 7] {
    let older = BASE64_STANDARD.encode(Sha256::digest(body));
    [
        ("Repr-Digest", sha256(body)),
        ("Repr-Digest", sha512(body)),
        ("Content-Digest", sha256(body)),
        ("Content-Digest", sha512(body)),
        ("Digest", format!("SHA-256={older}")),
        ("Digest", format!("MD5={}", md5(body))),
        ("Content-MD5", md5(body)),
    ]
}

pub(crate) async fn mismatches(site: &Site, by: &str) -> (f64, f64) {
    let count = async |then: &str| {
        site.metric(&format!("gupd_digest_mismatches_total{{by=\"{by}\",then=\"{then}\"}}")).await
    };
    (count("fetched-again").await, count("passed-on").await)
}

fn catalog(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub(crate) fn listing(path: &str, body: &[u8]) -> Vec<u8> {
    let hash: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02X}")).collect();
    let name = path.rsplit('/').next().unwrap();
    let list = format!("[GuardHeader]\r\n[File-{name}]\r\nSHA1=00\r\nSHA256={hash}\r\n");
    catalog(&[("liveupdt.tri", b"[TriHeader]\r\n"), ("v.grd", list.as_bytes()), ("v.sig", b"")])
}

#[tokio::test(flavor = "multi_thread")]
async fn content_matching_origin_digest_is_stored() {
    for (name, value) in fields(&bytes(3, 200_000)) {
        let site = Site::new();
        let body = bytes(3, 200_000);
        for (path, resource) in [
            (PAYLOAD, Resource::new(body.clone())),
            (
                "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/x.dax",
                Resource::new(body.clone()).chunked(),
            ),
        ] {
            site.manager.put(path, resource.header(name, &value));
            let response = site.get(path).await;
            assert_eq!(response.cache_status(), STORED);
            assert!(response.expect_body() == body, "{name}: {value}");
            site.wait_until_stored(path).await;
            assert_eq!(site.manager.request_count(path), 1, "{name}: {value}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_wrong_once_is_refetched_unseen() {
    let right = bytes(4, 50_000);
    for (name, value) in fields(&right) {
        let site = Site::new();
        let gate = Gate::default();
        site.manager.put(PAYLOAD, Resource::new(bytes(5, 50_000)).header(name, &value).held(&gate));
        let address = site.address();
        let asking = tokio::spawn(async move { Request::get(PAYLOAD).send(address).await });
        site.manager.wait_for_requests(PAYLOAD, 1).await;
        site.manager.put(PAYLOAD, Resource::new(right.clone()).header(name, &value));
        gate.open();
        assert!(asking.await.unwrap().expect_body() == right, "{name}: {value}");
        site.wait_until_stored(PAYLOAD).await;
        assert_eq!(site.manager.request_count(PAYLOAD), 2, "{name}: {value}");
        assert_eq!(mismatches(&site, &name.to_ascii_lowercase()).await, (1.0, 0.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_never_ends_cleanly() {
    for framed in [|resource| resource, Resource::chunked as fn(Resource) -> Resource] {
        let site = Site::new();
        let (right, wrong) = (bytes(6, 1_000_000), bytes(7, 1_000_000));
        let gate = Gate::default();
        let announced = |body: &[u8]| framed(Resource::new(body)).header("Repr-Digest", &sha256(&right));
        site.manager.put(PAYLOAD, announced(&wrong).stalled(500_000, &gate));
        let mut client = WireClient::connect(site.address()).await;
        client.write_request(&Request::get(PAYLOAD)).await.unwrap();
        let mut response = client.read_head().await.unwrap();
        site.manager.put(PAYLOAD, announced(&right));
        gate.open();
        client.read_rest("GET", &mut response).await;
        assert_eq!(response.ending, Ending::Broken);
        assert!(response.body.len() <= wrong.len() - (64 << 10));
        assert!(wrong.starts_with(&response.body), "bytes of two fetches never mix");
        assert!(site.get(PAYLOAD).await.expect_body() == right);
        site.wait_until_stored(PAYLOAD).await;
        assert_eq!(site.manager.request_count(PAYLOAD), 2);
        assert_eq!(mismatches(&site, "repr-digest").await, (1.0, 0.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_passed_uncached_with_alarm() {
    let site = Site::new();
    let body = bytes(8, 300_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()).header("Content-MD5", &md5(b"other")));
    // The first client has the beginning and is cut off, or comes late enough to follow the second fetch.
    drop(site.get(PAYLOAD).await);
    site.wait_for_fills().await;
    let tries = site.manager.request_count(PAYLOAD);
    assert_eq!(mismatches(&site, "content-md5").await, (1.0, tries as f64 - 1.0));
    for requests in tries + 1..=tries + 2 {
        let response = site.get(PAYLOAD).await;
        assert_eq!(response.cache_status(), DOUBTED);
        assert!(response.expect_body() == body);
        site.wait_for_fills().await;
        assert_eq!(site.manager.request_count(PAYLOAD), requests);
        assert_eq!(mismatches(&site, "content-md5").await, (1.0, requests as f64 - 1.0));
    }
    site.manager.put(PAYLOAD, Resource::new(body.clone()).header("Content-MD5", &md5(&body)));
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_until_stored(PAYLOAD).await;
    assert_eq!(site.manager.request_count(PAYLOAD), tries + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_doubted_content_share_one_transfer() {
    let site = Site::new();
    let body = bytes(9, 300_000);
    let announced = || Resource::new(body.clone()).header("Repr-Digest", &sha256(b"other"));
    site.manager.put(PAYLOAD, announced());
    drop(site.get(PAYLOAD).await);
    site.wait_for_fills().await;
    let gate = Gate::default();
    site.manager.put(PAYLOAD, announced().stalled(100_000, &gate));
    let tries = site.manager.request_count(PAYLOAD);
    let mut clients = Vec::new();
    for number in 0..20 {
        let mut client = WireClient::connect(site.address()).await;
        client.write_request(&Request::get(PAYLOAD)).await.unwrap();
        let head = client.read_head().await.unwrap();
        assert_eq!(head.cache_status(), if number == 0 { DOUBTED } else { "gupd; fwd=uri-miss; collapsed" });
        clients.push((client, head));
    }
    gate.open();
    for (mut client, mut response) in clients {
        client.read_rest("GET", &mut response).await;
        assert!(response.expect_body() == body);
    }
    assert_eq!(site.manager.request_count(PAYLOAD), tries + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn contradicting_digests_are_never_right() {
    let site = Site::new();
    let body = bytes(10, 1_000);
    let resource = Resource::new(body.clone())
        .header("Repr-Digest", &sha256(&body))
        .header("Content-Digest", &sha256(b"other"));
    site.manager.put(PAYLOAD, resource);
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    site.wait_for_fills().await;
    assert_eq!(site.get(PAYLOAD).await.cache_status(), DOUBTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn digest_of_resumed_part_is_not_digest_of_whole() {
    let site = Site::new();
    let body = bytes(11, 400_000);
    let gate = Gate::default();
    let whole = Resource::new(body.clone()).header("Content-Digest", &sha256(&body));
    site.manager.put(PAYLOAD, whole.stalled(200_000, &gate).cut(300_000, 1));
    let address = site.address();
    let asking = tokio::spawn(async move { Request::get(PAYLOAD).send(address).await });
    site.manager.wait_for_requests(PAYLOAD, 1).await;
    let rest = Resource::new(body.clone()).header("Content-Digest", &sha256(&body[300_000..]));
    site.manager.put(PAYLOAD, rest.header("Content-MD5", &md5(&body[300_000..])));
    gate.open();
    assert!(asking.await.unwrap().expect_body() == body);
    site.wait_until_stored(PAYLOAD).await;
    assert_eq!(site.manager.requests_for(PAYLOAD)[1].header("range"), Some("bytes=300000-"));
    assert_eq!(site.manager.request_count(PAYLOAD), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_does_not_replace_stored_object() {
    let site = Site::new();
    let catalog = "/clu/minitri.flg";
    site.manager.put(catalog, Resource::new(" "));
    site.wait_until_stored(catalog).await;
    site.manager.put(catalog, Resource::new("x").header("Repr-Digest", &sha256(b" ")));
    site.clock.advance(Duration::from_secs(3600));
    assert_eq!(site.get(catalog).await.expect_body(), b"x");
    site.wait_for_fills().await;
    site.manager.put(catalog, Resource::new("").status(503));
    assert_eq!(site.get(catalog).await.expect_body(), b" ", "stale, but unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_must_match_catalog_digest() {
    let mut site = Site::new();
    let body = bytes(12, 20_000);
    site.manager.put(CATALOG, Resource::new(listing(LISTED, &body)));
    site.manager.put(LISTED, Resource::new(body.clone()));
    assert_eq!(site.get(CATALOG).await.expect_body(), listing(LISTED, &body));
    assert!(site.get(LISTED).await.expect_body() == body);
    site.wait_until_stored(LISTED).await;
    assert_eq!((site.manager.request_count(LISTED), mismatches(&site, "catalog").await), (1, (0.0, 0.0)));

    // The catalog now comes from the store, and another payload of it from the manager.
    let other = "/clu/1369163481jtun_b.zip";
    let listed = listing(other, &body);
    site.manager.put(CATALOG, Resource::new(listed.clone()));
    site.clock.advance(Duration::from_secs(3600));
    site.wait_until_stored_as(CATALOG, &listed).await;
    site.restart();
    let hit = site.get(CATALOG).await;
    assert_eq!(hit.cache_status(), "gupd; hit");
    let wrong = bytes(13, 20_000);
    site.manager.put(other, Resource::new(wrong.clone()));
    assert!(
        site.get(other).await.expect_body() == wrong,
        "whoever has the wrong file must be able to see it"
    );
    site.wait_for_fills().await;
    assert_eq!(mismatches(&site, "catalog").await, (1.0, site.manager.request_count(other) as f64 - 1.0));
    assert_eq!(site.get(other).await.cache_status(), DOUBTED);
    site.wait_for_fills().await;
    site.manager.put(other, Resource::new(body.clone()));
    assert!(site.get(other).await.expect_body() == body);
    site.wait_until_stored(other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_payload_unlike_its_catalog_is_removed() {
    let mut site = Site::new();
    let (right, wrong) = (bytes(16, 20_000), bytes(17, 20_000));
    let cold = "/clu/1369163481jtun_b.zip";
    for path in [LISTED, cold] {
        site.manager.put(path, Resource::new(wrong.clone()));
        site.wait_until_stored(path).await;
    }
    site.restart();
    assert_eq!(site.get(LISTED).await.cache_status(), "gupd; hit");
    for path in [LISTED, cold] {
        site.manager.put(path, Resource::new(right.clone()));
        let folder_catalog = CATALOG.replace("defs", if path == cold { "cold" } else { "hot" });
        site.manager.put(&folder_catalog, Resource::new(listing(path, &right)));
        site.get(&folder_catalog).await.expect_body();
        assert!(site.get(path).await.expect_body() == right, "{path}");
        site.wait_until_stored(path).await;
        assert_eq!(site.manager.request_count(path), 2, "{path}");
    }
    let forgotten = "gupd_digest_mismatches_total{by=\"catalog\",then=\"forgotten\"}";
    assert_eq!(site.metric(forgotten).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_catalog_is_served_unchanged_and_ignored() {
    for hostile in [
        catalog(&[("v.grd", &vec![b'a'; 64 << 20])]),
        listing(LISTED, b"other")[..200].to_vec(),
        bytes(14, 5_000),
    ] {
        let site = Site::new();
        let body = bytes(15, 1_000);
        site.manager.put(CATALOG, Resource::new(hostile.clone()));
        site.manager.put(LISTED, Resource::new(body.clone()));
        assert!(site.get(CATALOG).await.expect_body() == hostile);
        site.wait_until_stored(CATALOG).await;
        assert!(site.get(LISTED).await.expect_body() == body);
        site.wait_until_stored(LISTED).await;
        assert_eq!((site.manager.request_count(CATALOG), site.manager.request_count(LISTED)), (1, 1));
    }
}
