//! Running fills for administrators: progress, waiting requests and rate, in the API and on the Content page.

use std::time::Instant;

use serde_json::Value;

use crate::support::{Gate, PATIENCE, Resource, Site, bytes, get};

const FULL: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/240601003/full.zip";
const LENGTH: usize = 3 << 20;

async fn fills(site: &Site) -> Value {
    serde_json::from_slice(&get(site.relay().admin(), "/api/v1/fills").await.expect_body()).unwrap()
}

async fn wait_for(site: &Site, fits: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let report = fills(site).await;
        if fits(&report) {
            return report;
        }
        assert!(Instant::now() < deadline, "{report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_fill_shows_progress_and_waiting_requests() {
    let (site, gate) = (Site::new(), Gate::default());
    assert_eq!(fills(&site).await, serde_json::json!({"running": 0, "fills": []}));
    site.manager.put(FULL, Resource::new(bytes(1, LENGTH)).stalled(LENGTH / 3, &gate));
    let target = format!("{FULL}?token=secret");
    let mut followers = Vec::new();
    for expected in 1..=3 {
        followers.push(site.start_download(&target, 1_000).await);
        wait_for(&site, |report| report["fills"][0]["waiters"] == expected).await;
    }
    let report = wait_for(&site, |report| report["fills"][0]["arrived"] == LENGTH / 3).await;
    let fill = &report["fills"][0];
    assert_eq!((&report["running"], &fill["length"]), (&1.into(), &LENGTH.into()));
    let object = fill["object"].as_str().unwrap();
    assert!(object.ends_with("/full.zip") && !object.contains("secret"), "{fill}");
    assert!(fill["upstream"].is_string() && fill["bytes_per_second"].as_u64().unwrap() > 0, "{fill}");
    assert!(fill["seconds_left"].is_u64(), "{fill}");
    let page = String::from_utf8(get(site.relay().admin(), "/content").await.expect_body()).unwrap();
    assert!(page.contains("33 %") && page.contains("1.00 MiB of 3.00 MiB"), "{page}");
    drop(followers.pop());
    wait_for(&site, |report| report["fills"][0]["waiters"] == 2).await;
    gate.open();
    wait_for(&site, |report| report["fills"].as_array().unwrap().is_empty()).await;
}
