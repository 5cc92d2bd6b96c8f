//! Ranges of stored content, of arriving content, and of content from an origin that serves no ranges.

use std::ops::Range;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::support::{Gate, PAYLOAD, Request, Resource, Response, Site, WireClient, bytes};

const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

#[tokio::test(flavor = "multi_thread")]
async fn stored_object_is_served_in_any_range() {
    let (site, body) = stored(Resource::new(bytes(1, 3_000_000))).await;
    for (range, part, content_range) in [
        ("0-0", 0..1, "bytes 0-0/3000000"),
        ("1000-1999", 1000..2000, "bytes 1000-1999/3000000"),
        // Across a chunk boundary.
        ("1048570-1048585", 1_048_570..1_048_586, "bytes 1048570-1048585/3000000"),
        ("2999999-", 2_999_999..3_000_000, "bytes 2999999-2999999/3000000"),
        ("-500", 2_999_500..3_000_000, "bytes 2999500-2999999/3000000"),
        ("0-9999999", 0..3_000_000, "bytes 0-2999999/3000000"),
        ("-9999999", 0..3_000_000, "bytes 0-2999999/3000000"),
    ] {
        let response = site.send(Request::get(PAYLOAD).range(range)).await;
        assert_eq!((response.status, response.cache_status()), (206, "gupd; hit"), "{range}");
        assert_eq!(response.header("content-range"), Some(content_range));
        assert_eq!(response.header("content-length"), Some(part.len().to_string().as_str()));
        assert!(response.header("etag").is_some());
        assert!(response.expect_body() == body[part], "{range}");
    }
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_come_in_one_multipart_response() {
    let resource = Resource::new(bytes(2, 3_000_000)).header("Content-Type", "application/zip");
    let (site, body) = stored(resource).await;
    let response = site.send(Request::get(PAYLOAD).range("0-9, 1048570-1048585,-5")).await;
    assert_eq!((response.status, response.header("content-range")), (206, None));
    let parts = parts(response);
    assert!(parts.iter().all(|(head, _)| head.contains("application/zip")));
    assert!(parts[1].0.contains("bytes 1048570-1048585/3000000"));
    let got: Vec<_> = parts.iter().map(|(_, part)| part.as_slice()).collect();
    assert_eq!(got, [&body[..10], &body[1_048_570..1_048_586], &body[2_999_995..]]);
}

/// `count` ranges of `length` bytes, `step` bytes apart.
fn ascending(count: usize, length: usize, step: usize) -> Vec<Range<usize>> {
    (0..count).map(|at| at * step..at * step + length).collect()
}

fn range_list(ranges: &[Range<usize>]) -> String {
    let specs: Vec<_> = ranges.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
    specs.join(",")
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_ascending_ranges_are_served() {
    for is_cold in [false, true] {
        let (site, body) = stored(Resource::new(bytes(20, 3_000_000))).await;
        for (index, ranges) in [
            ascending(33, 1, 2_000),
            ascending(100, 2_000, 30_000),
            ascending(500, 5_000, 6_000),
            ascending(500, 6_000, 6_000),
            ascending(499, 10, 100).into_iter().chain(std::iter::once(2_999_000..3_000_000)).collect(),
        ]
        .into_iter()
        .enumerate()
        {
            let path =
                if is_cold { PAYLOAD.replace("full.zip", &format!("{index}.dax")) } else { PAYLOAD.into() };
            site.manager.put(&path, Resource::new(body.clone()));
            let response = site.send(Request::get(&path).range(&range_list(&ranges))).await;
            assert_eq!(response.status, 206, "{index}");
            let parts = parts(response);
            assert_eq!(parts.len(), ranges.len());
            for ((head, part), range) in parts.iter().zip(&ranges) {
                assert!(head.contains(&format!("bytes {}-{}/3000000", range.start, range.end - 1)));
                assert!(part[..] == body[range.clone()], "{index}: {range:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_multiply_bytes_get_the_whole() {
    let (site, body) =
        stored(Resource::new(bytes(21, 30_000)).header("Content-Type", "application/zip")).await;
    let overlapping: Vec<_> = (0..40).map(|at| at..20_000 + at).collect();
    let reversed: Vec<_> = ascending(40, 10, 20).into_iter().rev().collect();
    let repeated: Vec<_> = ascending(40, 10, 20).into_iter().chain(std::iter::once(780..790)).collect();
    for (name, ranges) in [
        ("501 ranges", ascending(501, 1, 2)),
        ("heads longer than the content", ascending(500, 1, 2)),
        ("overlapping", overlapping),
        ("reversed", reversed),
        ("repeated", repeated),
        ("few overlapping", vec![0..10, 9..20]),
    ] {
        let response = site.send(Request::get(PAYLOAD).range(&range_list(&ranges))).await;
        assert_eq!(response.status, 200, "{name}");
        assert!(response.expect_body() == body, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unsatisfiable_range_is_416_and_invalid_range_is_ignored() {
    let (site, body) = stored(Resource::new(bytes(3, 1000))).await;
    for range in ["1000-", "5000-6000", "-0", "1000-1001,2000-"] {
        let response = site.send(Request::get(PAYLOAD).range(range)).await;
        assert_eq!(
            (response.status, response.header("content-range")),
            (416, Some("bytes */1000")),
            "{range}"
        );
    }
    for range in ["bytes=5-1", "bytes=a-b", "lines=0-1", "bytes=", "bytes=0-9,5-14"] {
        let response = site.send(Request::get(PAYLOAD).header("Range", range)).await;
        assert_eq!((response.status, response.expect_body().len()), (200, body.len()), "{range}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_range_gives_part_only_of_matching_content() {
    let resource = Resource::new(bytes(4, 1000)).etag("\"v1\"").header("Last-Modified", MODIFIED);
    let (site, body) = stored(resource).await;
    for (validator, status) in [
        ("\"v1\"", 206),
        ("\"v0\"", 200),
        ("W/\"v1\"", 200),
        (MODIFIED, 206),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 200),
        ("nonsense", 200),
    ] {
        let request = Request::get(PAYLOAD).range("10-19").header("If-Range", validator);
        let response = site.send(request).await;
        assert_eq!(response.status, status, "{validator}");
        let part = if status == 206 { &body[10..20] } else { &body };
        assert!(response.expect_body() == part, "{validator}");
    }
    // Order of RFC 9110 §13.2.2: a failed precondition goes before the range.
    let request = Request::get(PAYLOAD).range("10-19").header("If-None-Match", "\"v1\"");
    assert_eq!(site.send(request).await.status, 304);
    let request = Request::get(PAYLOAD).range("10-19").header("If-Match", "\"v0\"");
    assert_eq!(site.send(request).await.status, 412);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_request_ignores_range() {
    let (site, _) = stored(Resource::new(bytes(5, 1000))).await;
    let head = site.send(Request::head(PAYLOAD).range("0-9")).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
    assert_eq!(head.header("content-range"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn range_of_cold_object_is_fetched_first() {
    let site = Site::with_config(|config| config.fill.finish = gupd_config::FinishPolicy::Always);
    let body = bytes(6, 2_000_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()));
    let response = site.send(Request::get(PAYLOAD).range("1500000-1500099")).await;
    assert_eq!(
        (response.status, response.header("content-range")),
        (206, Some("bytes 1500000-1500099/2000000"))
    );
    assert!(response.expect_body() == body[1_500_000..1_500_100]);
    site.wait_until_stored(PAYLOAD).await;
    assert!(site.get(PAYLOAD).await.expect_body() == body);
    let seen = site.manager.requests_for(PAYLOAD);
    let ranges: Vec<_> = seen.iter().map(|seen| seen.header("range").unwrap()).collect();
    assert_eq!(ranges, ["bytes=1048576-2097151", "bytes=0-1048575"]);
    assert!(seen[1].header("if-range").is_some(), "the rest belongs to the same content");
    assert_eq!(site.manager.body_bytes(), 2_000_000, "every byte crossed once");
}

#[tokio::test(flavor = "multi_thread")]
async fn range_on_running_fill_streams_as_bytes_arrive() {
    let site = Site::new();
    let body = bytes(7, 3_000_000);
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(body.clone()).stalled(1_500_000, &gate));
    let (mut filling, mut whole) = site.start_download(PAYLOAD, 1_500_000).await;
    for (range, part) in [
        ("0-99", 0..100),
        ("1048570-1048585", 1_048_570..1_048_586),
        ("1499990-1499999", 1_499_990..1_500_000),
    ] {
        let response = site.send(Request::get(PAYLOAD).range(range)).await;
        assert_eq!(
            (response.status, response.cache_status()),
            (206, "gupd; fwd=uri-miss; collapsed"),
            "{range}"
        );
        assert!(response.expect_body() == body[part], "{range}");
    }
    let beyond = site.send(Request::get(PAYLOAD).range("3000000-")).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */3000000")));
    // Across the end of the available bytes, after it, at the end of the content, and in several parts.
    let mut waiting = Vec::new();
    for range in ["1400000-1600000", "2000000-2000099", "-100", "0-9,2999990-"] {
        let mut client = WireClient::connect(site.address()).await;
        client.write_request(&Request::get(PAYLOAD).range(range)).await.unwrap();
        waiting.push(client);
    }
    let mut head = waiting[0].read_head().await.unwrap();
    head.body = waiting[0].read_bytes(100_000).await.unwrap();
    gate.open();
    waiting[0].read_rest("GET", &mut head).await;
    assert!(head.expect_body() == body[1_400_000..=1_600_000]);
    for (client, part) in waiting[1..3].iter_mut().zip([2_000_000..2_000_100, 2_999_900..3_000_000]) {
        let mut response = client.read_head().await.unwrap();
        client.read_rest("GET", &mut response).await;
        assert!(response.expect_body() == body[part]);
    }
    let mut several = waiting[3].read_head().await.unwrap();
    waiting[3].read_rest("GET", &mut several).await;
    let several = parts(several);
    assert!(several[0].1 == body[..10] && several[1].1 == body[2_999_990..]);
    filling.read_rest("GET", &mut whole).await;
    assert!(whole.expect_body() == body);
    assert!(
        site.upstream_bytes().await <= body.len() as f64 + 131_072.0,
        "except for the end of a transfer that was cut short"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn content_without_length_is_served_in_ranges_from_one_fill() {
    // The fill asks for everything, and goes on between the clients.
    let site = Site::with_config(|config| config.fill.finish = gupd_config::FinishPolicy::Always);
    let body = bytes(8, 600_000);
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(body.clone()).chunked().stalled(300_000, &gate));
    // The arrived bytes suffice, although the complete length is unknown.
    let first = site.send(Request::get(PAYLOAD).range("100000-100099")).await;
    assert_eq!((first.status, first.header("content-range")), (206, Some("bytes 100000-100099/*")));
    assert!(first.expect_body() == body[100_000..100_100]);
    // A range with a failed condition does not wait.
    let mut other = WireClient::connect(site.address()).await;
    other.write_request(&Request::get(PAYLOAD).range("-100").header("If-Range", "\"v0\"")).await.unwrap();
    assert_eq!(other.read_head().await.unwrap().status, 200);
    let mut suffix = WireClient::connect(site.address()).await;
    suffix.write_request(&Request::get(PAYLOAD).range("-100")).await.unwrap();
    let mut beyond = WireClient::connect(site.address()).await;
    beyond.write_request(&Request::get(PAYLOAD).range("700000-700001")).await.unwrap();
    gate.open();
    let mut response = suffix.read_head().await.unwrap();
    suffix.read_rest("GET", &mut response).await;
    assert_eq!(response.header("content-range"), Some("bytes 599900-599999/600000"));
    assert!(response.expect_body() == body[599_900..]);
    assert_eq!(beyond.read_head().await.unwrap().status, 416);
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_serves_ranges_for_origin_without_them() {
    let site = Site::with_config(|config| config.fill.finish = gupd_config::FinishPolicy::Always);
    let body = bytes(9, 1_200_000);
    site.manager.put(PAYLOAD, Resource::new(body.clone()).without_ranges().without("ETag"));
    for range in ["0-99", "1100000-1100099", "-10"] {
        let response = site.send(Request::get(PAYLOAD).range(range)).await;
        assert_eq!(response.status, 206, "{range}");
    }
    // No validator identifies the content of a part, so everything is sent.
    let request = Request::get(PAYLOAD).range("0-99").header("If-Range", "\"v1\"");
    assert_eq!(site.send(request).await.status, 200);
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn range_of_private_content_is_passed_through() {
    let site = Site::new();
    let path = "/secars/file";
    site.manager.put(path, Resource::new("0123456789"));
    let response = site.send(Request::get(path).range("2-4")).await;
    assert_eq!((response.status, response.header("content-range")), (206, Some("bytes 2-4/10")));
    assert_eq!(response.expect_body(), b"234");
    assert_eq!(site.manager.requests_for(path)[0].header("range"), Some("bytes=2-4"));
}

#[test]
fn random_ranges_of_stored_object_are_exact_slices() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let length = 2_500_000;
    let (site, body) = runtime.block_on(stored(Resource::new(bytes(10, length))));
    // Mostly near chunk boundaries, where mistakes are likely.
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&prop::collection::vec(spec(length), 1..4), |specs| {
            runtime.block_on(async {
                let mut client = WireClient::connect(site.address()).await;
                check(&mut client, &body, &specs).await;
            });
            Ok(())
        })
        .unwrap();
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[test]
fn ranges_of_running_fill_are_exact_slices() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let length = 1_200_000;
    // In each case the manager pauses somewhere while the ranges are requested, with and without a length.
    let case =
        (any::<bool>(), 0..length, prop::collection::vec(prop::collection::vec(spec(length), 1..3), 1..6));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&case, |(chunked, stall, requests)| {
            runtime.block_on(async {
                let site = Site::new();
                let body = bytes(11, length);
                let gate = Gate::default();
                let resource = Resource::new(body.clone()).stalled(stall, &gate);
                site.manager.put(PAYLOAD, if chunked { resource.chunked() } else { resource });
                let asking = requests.iter().map(async |specs| {
                    let mut client = WireClient::connect(site.address()).await;
                    check(&mut client, &body, specs).await;
                });
                let opening = async {
                    site.manager.wait_for_requests(PAYLOAD, 1).await;
                    gate.open();
                };
                futures_util::future::join(futures_util::future::join_all(asking), opening).await;
                site.wait_for_fills().await;
                let cut_short = 131_072.0 * site.manager.request_count(PAYLOAD) as f64;
                assert!(site.upstream_bytes().await <= length as f64 + cut_short, "every byte crossed once");
            });
            Ok(())
        })
        .unwrap();
}

/// First and last position, or a suffix.
#[derive(Clone, Copy, Debug)]
enum Spec {
    FromTo(usize, usize),
    From(usize),
    Suffix(usize),
}

fn spec(length: usize) -> impl Strategy<Value = Spec> {
    let place = prop_oneof![
        0..length + 1000,
        (0..=length >> 16, 0..20_usize).prop_map(|(block, off)| (block << 16).saturating_sub(10) + off),
    ];
    prop_oneof![
        (place.clone(), place.clone()).prop_map(|(a, b)| Spec::FromTo(a.min(b), a.max(b))),
        (place.clone(), 0..20_usize).prop_map(|(first, more)| Spec::FromTo(first, first + more)),
        place.clone().prop_map(Spec::From),
        place.prop_map(Spec::Suffix),
    ]
}

/// Requests the ranges and compares the responses with the slices.
async fn check(client: &mut WireClient, body: &[u8], specs: &[Spec]) {
    let length = body.len();
    let text: Vec<_> = specs
        .iter()
        .map(|spec| match spec {
            Spec::FromTo(first, last) => format!("{first}-{last}"),
            Spec::From(first) => format!("{first}-"),
            Spec::Suffix(count) => format!("-{count}"),
        })
        .collect();
    let slices: Vec<&[u8]> = specs
        .iter()
        .map(|spec| match *spec {
            Spec::FromTo(first, last) => &body[first.min(length)..(last + 1).min(length)],
            Spec::From(first) => &body[first.min(length)..],
            Spec::Suffix(count) => &body[length - count.min(length)..],
        })
        .filter(|slice| !slice.is_empty())
        .collect();
    let response = client.send(&Request::get(PAYLOAD).range(&text.join(","))).await.unwrap();
    let text = text.join(",");
    match (response.status, slices.as_slice()) {
        (416, []) => assert_eq!(response.header("content-range"), Some(format!("bytes */{length}").as_str())),
        (206, [only]) => assert!(response.expect_body() == *only, "{text}"),
        (206, several) => {
            let parts = parts(response);
            assert_eq!(parts.len(), several.len(), "{text}");
            assert!(parts.iter().zip(several).all(|((_, part), slice)| part == slice), "{text}");
        }
        // Overlapping ranges get the complete content.
        (200, [_, _, ..]) => assert!(response.expect_body() == body, "{text}"),
        (status, _) => panic!("{status} for {text}"),
    }
}

/// Site that has stored the resource, and the resource's content.
async fn stored(resource: Resource) -> (Site, Vec<u8>) {
    let site = Site::new();
    site.manager.put(PAYLOAD, resource);
    site.wait_until_stored(PAYLOAD).await;
    let body = site.get(PAYLOAD).await.expect_body();
    (site, body)
}

/// Parts of a `multipart/byteranges` response, each with its head.
fn parts(response: Response) -> Vec<(String, Vec<u8>)> {
    let content_type = response.header("content-type").unwrap().to_owned();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap().trim_matches('"');
    let body = response.expect_body();
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let mut rest: &[u8] = &body;
    let mut parts = Vec::new();
    // The first delimiter may lack a line break before it.
    rest = rest.strip_prefix(&delimiter[..]).or_else(|| rest.strip_prefix(&delimiter[2..])).unwrap();
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let head_end = find(part, b"\r\n\r\n").unwrap();
        let head = String::from_utf8(part[..head_end].to_vec()).unwrap();
        let content = &part[head_end + 4..];
        let end = find(content, &delimiter).unwrap();
        parts.push((head, content[..end].to_vec()));
        rest = &content[end + delimiter.len()..];
    }
    assert!(rest.starts_with(b"--"));
    parts
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
