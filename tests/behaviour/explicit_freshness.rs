//! Freshness that responses state, on the wire: targeted fields, dates in every form, status codes, partial responses, and
//! the two settings for origins that break the rules.

use std::time::{Duration, UNIX_EPOCH};

use gupd_config::FinishPolicy;

use crate::support::{Request, Resource, Site, bytes};

const FILE: &str = "/files/setup.msi";
const HIT: &str = "gupd; hit";

/// Returns true if the response to a second request comes from the store.
async fn is_reused(site: &Site, path: &str, resource: Resource) -> bool {
    site.manager.put(path, resource);
    let first = site.get(path).await;
    site.wait_for_fills().await;
    let second = site.get(path).await;
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    second.cache_status() == HIT
}

fn http_date(site: &Site, seconds: i64) -> String {
    let at = u64::try_from(site.clock.now() / 1000 + seconds).unwrap();
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at))
}

#[tokio::test(flavor = "multi_thread")]
async fn targeted_field_decides_in_place_of_cache_control() {
    let site = Site::new();
    let expires = http_date(&site, 100);
    for (index, (targeted, plain, reused)) in [
        ("max-age=60", "", true),
        ("max-age=60", "no-store", true),
        ("max-age=60", "private", true),
        ("max-age=60", "max-age=0", true),
        ("max-age=60, unknown=1;a", "", true),
        ("max-age=0", "max-age=60", false),
        ("no-cache", "max-age=60", false),
        ("no-store", "max-age=60", false),
        ("private", "max-age=60", false),
        ("must-revalidate", "", false),
        ("max-age=\"60\"", "max-age=60", false),
        ("max-age=60, &", "max-age=60", true),
        ("max-age=60, &", "no-store", false),
        ("", "max-age=60", true),
    ]
    .into_iter()
    .enumerate()
    {
        let fields = [("CDN-Cache-Control", targeted), ("Cache-Control", plain)];
        let resource = fields.iter().filter(|(_, value)| !value.is_empty());
        let resource =
            resource.fold(Resource::new("x"), |resource, (name, value)| resource.header(name, value));
        // `Expires` does not count beside a targeted field.
        let resource = if plain.is_empty() { resource.header("Expires", &expires) } else { resource };
        let path = format!("/files/{index}.msi");
        assert_eq!(is_reused(&site, &path, resource).await, reused, "{targeted} | {plain}");
    }
    let passed_on = site.get("/files/0.msi").await;
    assert_eq!(passed_on.header("cdn-cache-control"), Some("max-age=60"));
}

#[tokio::test(flavor = "multi_thread")]
async fn targeted_fields_are_those_of_the_configuration() {
    let resource = || {
        Resource::new("x")
            .header("CDN-Cache-Control", "no-store")
            .header("Site-Control", "max-age=60, private=?0")
    };
    for (fields, reused) in [
        (&["site-control"][..], true),
        (&["site-control", "cdn-cache-control"], true),
        (&["cdn-cache-control", "site-control"], false),
        (&[], false),
    ] {
        let site = Site::with_config(|config| {
            config.cache.targeted_fields = fields.iter().map(|name| name.parse().unwrap()).collect();
        });
        assert_eq!(is_reused(&site, FILE, resource()).await, reused, "{fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expires_is_read_in_every_form_of_a_date() {
    let site = Site::new();
    for (index, (expires, reused)) in [
        ("Thu, 18 Aug 2050 02:01:18 GMT", true),
        ("Thursday, 18-Aug-50 02:01:18 GMT", true),
        ("Thu Aug  8 02:01:18 2050", true),
        ("THU, 18 Aug 2050 02:01:18 GMT", true),
        ("Thu, 18 AUG 2050 02:01:18 gmt", true),
        ("Thursday, 18-Aug-94 02:01:18 GMT", false),
        ("Thu, 18 Aug 2050 02:01:18 UTC", false),
        ("Thu, 18 Aug 50 02:01:18 GMT", false),
        ("0", false),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/files/{index}.msi");
        assert_eq!(
            is_reused(&site, &path, Resource::new("x").header("Expires", expires)).await,
            reused,
            "{expires}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn date_replaces_a_missing_last_modified_in_conditions() {
    let site = Site::new();
    let before = Resource::new("x").without("ETag").header("Cache-Control", "max-age=1000");
    for (path, resource) in [
        ("/files/dated.msi", before.clone()),
        ("/files/undated.msi", before.clone().undated()),
        ("/files/invalid.msi", before.clone().header("Date", "yesterday")),
        ("/files/zero.msi", before.header("Date", "0")),
    ] {
        site.manager.put(path, resource);
        site.wait_until_stored(path).await;
        let date = site.get(path).await.header("date").unwrap().to_owned();
        assert_eq!(date, http_date(&site, 0), "{path}");
        for (since, status) in [
            (date.clone(), 304),
            (date.to_uppercase(), 304),
            (http_date(&site, 10), 304),
            (http_date(&site, -10), 200),
            ("Sunday, 06-Nov-94 08:49:37 GMT".to_owned(), 200),
            ("soon".to_owned(), 200),
        ] {
            let response = site.send(Request::get(path).header("If-Modified-Since", &since)).await;
            assert_eq!((response.status, response.cache_status()), (status, HIT), "{path} {since}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_final_status_is_reused_while_explicitly_fresh() {
    let site = Site::new();
    for status in
        [200, 203, 226, 299, 301, 302, 303, 308, 400, 403, 404, 410, 451, 499, 500, 502, 503, 504, 599]
    {
        let resource = Resource::new("x").status(status).header("Cache-Control", "max-age=60");
        let path = format!("/files/{status}.msi");
        assert!(is_reused(&site, &path, resource).await, "{status}");
        let unfresh = Resource::new("x").status(status).header("Cache-Control", "max-age=0");
        assert!(!is_reused(&site, &format!("/files/unfresh/{status}.msi"), unfresh).await, "{status}");
    }
    site.clock.advance(Duration::from_secs(61));
    for status in [400, 499, 500, 503, 599] {
        let path = format!("/files/{status}.msi");
        site.manager.put(&path, Resource::new("new"));
        assert_eq!(site.get(&path).await.expect_body(), b"new", "{status}");
    }
    for status in [401, 407, 412, 417, 421, 428, 429, 431, 511] {
        let resource = Resource::new("x").status(status).header("Cache-Control", "max-age=60");
        assert!(!is_reused(&site, &format!("/files/{status}.msi"), resource).await, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_error_of_a_payload_is_never_stored() {
    let site = Site::new();
    for (index, status) in [500, 502, 503, 504, 599].into_iter().enumerate() {
        let resource = Resource::new("sorry").status(status).header("Cache-Control", "max-age=60");
        for path in [format!("/{index}/minitri.flg"), format!("/136916348{index}jtun_a.zip")] {
            assert!(!is_reused(&site, &path, resource.clone()).await, "{path} {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn epoch_as_last_modified_gives_no_freshness() {
    let site = Site::new();
    for (index, (modified, reused)) in [
        ("Thu, 01 Jan 1970 00:00:00 GMT", false),
        ("Thu, 01 Jan 1970 00:00:01 GMT", false),
        ("Thu, 01 Jan 1970 12:00:00 GMT", false),
        ("Thu Jan  1 00:00:00 1970", false),
        ("Wed, 31 Dec 1969 23:59:59 GMT", false),
        ("Sun, 06 Nov 1994 08:49:37 GMT", true),
        ("Sunday, 06-Nov-94 08:49:37 GMT", true),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/files/{index}.msi");
        let resource = Resource::new("x").header("Last-Modified", modified);
        assert_eq!(is_reused(&site, &path, resource).await, reused, "{modified}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_response_is_completed_with_its_validator() {
    const MIB: usize = 1 << 20;
    // The client of the second part leaves its chunk unread. What is on its way then crosses again: a chunk at most. Of less
    // than a block (64 KiB), nothing is kept.
    let parts = [("0-1048575", 4), ("0-99999", 5), ("1000000-1048575", 4), ("3145728-", 4), ("-1048576", 4)];
    for (range, most) in parts {
        let site = Site::with_config(|config| config.fill.finish = FinishPolicy::Never);
        let body = bytes(1, 4 * MIB);
        site.manager.put(FILE, Resource::new(body.clone()).header("Cache-Control", "max-age=60"));
        assert_eq!(site.send(Request::get(FILE).range(range)).await.status, 206);
        site.wait_for_fills().await;
        assert!(site.get(FILE).await.expect_body() == body);
        let requests = site.manager.requests_for(FILE);
        let completing = requests.iter().skip(1).find(|request| request.header("range").is_some());
        let ranges: Vec<_> = requests.iter().map(|request| request.header("range")).collect();
        assert!(
            completing.is_some_and(|request| request.header("if-range").is_some()),
            "{range}: {ranges:?}"
        );
        assert!(
            site.manager.body_bytes() <= (most * MIB) as u64,
            "{range}: {} bytes",
            site.manager.body_bytes()
        );
        site.wait_until_stored(FILE).await;
        let part = site.send(Request::get(FILE).range("5-9")).await;
        assert_eq!((part.cache_status(), part.body.as_slice()), (HIT, &body[5..10]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn origin_with_wrong_content_md5_can_be_believed() {
    let wrong = || {
        let resource = Resource::new("x").header("Cache-Control", "max-age=60");
        resource.header("Content-MD5", "N7UdGUp1E+RbVvZSTy1R8g==")
    };
    for (verifies, path, reused) in [
        (true, FILE, false),
        (false, FILE, true),
        (false, "/minitri.flg", true),
        (false, "/1369163480jtun_a.zip", true),
    ] {
        let site = Site::with_config(|config| config.cache.verify_content_md5 = verifies);
        assert_eq!(is_reused(&site, path, wrong()).await, reused, "{verifies} {path}");
    }
    let site = Site::with_config(|config| config.cache.verify_content_md5 = false);
    let wrong_sha = wrong().header("Repr-Digest", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:");
    assert!(!is_reused(&site, FILE, wrong_sha).await, "other digests are compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn languages_select_by_meaning_and_first_choice() {
    let site = Site::new();
    let resource = Resource::new("x").header("Cache-Control", "max-age=60").header("Vary", "Accept-Language");
    for (index, (first, language, second, reused)) in [
        ("en, de", "", "de, en", true),
        ("en, de", "", "eN, De", true),
        ("en, de", "", " en ,  de", true),
        ("en, de;q=0.5", "", "de;q=0.50,en;q=1", true),
        ("en, de", "de", "fr;q=0.5, de;q=1.0", true),
        ("en, de", "de", "de", true),
        ("en, de", "", "en, de;q=0.5", false),
        ("en, de", "de", "fr, de;q=0.5", false),
        ("en, de", "de, en", "de", false),
        ("en, de", "", "", false),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/files/{index}.msi");
        let resource = if language.is_empty() {
            resource.clone()
        } else {
            resource.clone().header("Content-Language", language)
        };
        site.manager.put(&path, resource);
        site.send(Request::get(&path).header("Accept-Language", first)).await;
        site.wait_for_fills().await;
        let later = Request::get(&path);
        let later = if second.is_empty() { later } else { later.header("Accept-Language", second) };
        assert_eq!(site.send(later).await.cache_status() == HIT, reused, "{first} | {language} | {second}");
    }
}
