//! Real download programs: resumed and parallel downloads of cold and of stored content.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{Relay, serve};
use crate::support::{Manager, Request, Resource, WireClient, bytes};

/// A path without braces, which these programs expand or encode.
const PAYLOAD: &str = "/content/%7B535CB6A4-441F-4e8a-A897-804CD859100E%7D/261121001/full.zip";

const LENGTH: usize = 20_000_000;
const HAS_ALREADY: usize = 7_654_321;

/// Downloads twice with `command`, cold and hot, into a file that has the first `already` bytes.
async fn download(program: &str, already: usize, command: impl Fn(&mut Command, &str, &Path)) {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let body = bytes(1, LENGTH);
    // Limited like a line, not at the speed of loopback.
    manager.put(PAYLOAD, Resource::new(body.clone()).rate(50 << 20));
    let relay = Relay::start(&mut serve(&manager, &folder.path().join("store")));
    let url = format!("http://{}{PAYLOAD}", relay.address);
    for temperature in ["cold", "hot"] {
        let file = folder.path().join(temperature);
        if already > 0 {
            fs::write(&file, &body[..already]).unwrap();
        }
        let mut client = Command::new(program);
        command(&mut client, &url, &file);
        let ended = client.output().unwrap_or_else(|error| panic!("{program}: {error}; apt-get install it"));
        assert!(ended.status.success(), "{temperature}: {ended:#?}");
        assert!(fs::read(&file).unwrap() == body, "{program}, {temperature}: not the manager's bytes");
        relay.wait_until_stored(PAYLOAD).await;
    }
    // aria2c closes connections in the middle of a range. What the manager had written to their sockets by then was sent
    // in vain, as much as the system buffers; what the relay took in is below.
    if program != "aria2c" {
        assert!(manager.body_bytes() <= LENGTH as u64, "every byte crossed once");
    }
    assert_taken_in(&relay, LENGTH).await;
}

/// Asserts that the relay took in the bytes of the body once.
async fn assert_taken_in(relay: &Relay, length: usize) {
    let received = relay.metrics().await;
    let received =
        received.lines().find_map(|line| line.strip_prefix("gupd_upstream_received_bytes_total{")).unwrap();
    let received: u64 = received.split_once(' ').unwrap().1.parse().unwrap();
    assert!(received <= length as u64 * 102 / 100, "{received} bytes were taken in");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_resumes_a_download() {
    download("curl", HAS_ALREADY, |curl, url, file| {
        curl.args(["-sS", "--fail", "-C", "-", url, "-o"]).arg(file);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wget_resumes_a_download() {
    download("wget", HAS_ALREADY, |wget, url, file| {
        wget.args(["-nv", "-c", url, "-O"]).arg(file);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aria2_downloads_in_parallel_parts() {
    download("aria2c", 0, |aria2, url, file| {
        let options = ["-q", "-x16", "-s16", "-k1M", "--no-conf", "--file-allocation=none", url];
        aria2.args(options).arg("-d").arg(file.parent().unwrap()).arg("-o").arg(file.file_name().unwrap());
    })
    .await;
}

/// BITS asks for the length first, then for ranges in order, each with the validator of the first response. It wants
/// `206` with exactly the range, and the same length and validator throughout.
#[tokio::test(flavor = "multi_thread")]
async fn bits_sequence_gets_ranges_of_one_version() {
    let (manager, folder) = (Manager::start(), tempfile::tempdir().unwrap());
    let body = bytes(2, 3_000_001);
    let modified = "Mon, 05 Jan 2026 10:00:00 GMT";
    manager.put(PAYLOAD, Resource::new(body.clone()).header("Last-Modified", modified));
    let relay = Relay::start(&mut serve(&manager, &folder.path().join("store")));
    for temperature in ["cold", "hot"] {
        let mut client = WireClient::connect(relay.address).await;
        let head = client.send(&bits(Request::head(PAYLOAD))).await.unwrap();
        assert_eq!((head.status, head.length()), (200, Some(body.len() as u64)), "{temperature}");
        let etag = head.header("ETag").unwrap().to_owned();
        let mut received = Vec::new();
        // A job starts with small ranges, and grows them as the line allows.
        let mut size = 2_048;
        while received.len() < body.len() {
            let last = (received.len() + size).min(body.len()) - 1;
            let range = format!("bytes={}-{last}", received.len());
            let request =
                bits(Request::get(PAYLOAD)).header("Range", &range).header("If-Unmodified-Since", modified);
            let response = client.send(&request).await.unwrap();
            assert_eq!(response.status, 206, "{temperature}, {range}");
            let expected = format!("bytes {}-{last}/{}", received.len(), body.len());
            assert_eq!(response.header("Content-Range"), Some(&*expected), "{temperature}");
            assert_eq!(response.header("ETag"), Some(&*etag), "{temperature}, {range}");
            received.extend(response.expect_body());
            size *= 3;
        }
        assert!(received == body, "{temperature}: not the manager's bytes");
        relay.wait_until_stored(PAYLOAD).await;
    }
    assert!(manager.body_bytes() <= body.len() as u64, "every byte crossed once");
}

/// Adds the fields of a BITS job.
fn bits(request: Request) -> Request {
    request
        .header("User-Agent", "Microsoft BITS/7.8")
        .header("Accept-Encoding", "identity")
        .header("Accept", "*/*")
}
