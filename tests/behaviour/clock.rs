//! The system clock is set back by a day: stored objects stay valid, nothing is fetched twice, and no deadline moves a
//! day away.

use std::time::Duration;

use gupd_config::{Clock, Config};

use crate::support::site::read_clock;
use crate::support::{Gate, Manager, PAYLOAD, RefusingPort, Resource, Site, bytes, get};

const FILE: &str = "/files/setup.msi";
const CATALOG: &str = "/minitri.flg";
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn age(site: &Site, path: &str) -> u64 {
    site.get(path).await.header("age").unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_set_back_a_day_costs_one_revalidation() {
    let mut site = Site::new();
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 100_000)));
    site.manager.put(CATALOG, Resource::new("catalog"));
    site.manager.put(FILE, Resource::new("installer").header("Cache-Control", "max-age=100"));
    for path in [PAYLOAD, CATALOG, FILE] {
        site.wait_until_stored(path).await;
    }
    // The manager's clock either stays correct or moves with the relay's.
    for managers_clock in [Clock::manual(site.clock.now()), site.clock.clone()] {
        site.manager.set_clock(read_clock(&managers_clock));
        let asked = [PAYLOAD, CATALOG, FILE].map(|path| site.manager.request_count(path));
        let bytes_before = site.manager.body_bytes();
        site.clock.set_back(DAY);
        for path in [CATALOG, FILE] {
            assert_eq!(site.get(path).await.cache_status(), "gupd; fwd=stale; fwd-status=304", "{path}");
        }
        for _ in 0..3 {
            for path in [PAYLOAD, CATALOG, FILE] {
                assert_eq!(site.get(path).await.cache_status(), "gupd; hit", "{path}");
                assert!(age(&site, path).await < 10, "{path}");
            }
        }
        // The same after a restart, which reads the times from the index.
        site.restart();
        assert_eq!(site.get(PAYLOAD).await.expect_body(), bytes(1, 100_000));
        assert_eq!(site.get(FILE).await.cache_status(), "gupd; hit");
        assert_eq!(site.metric("gupd_store_objects").await, 3.0, "nothing expires");
        let now = [PAYLOAD, CATALOG, FILE].map(|path| site.manager.request_count(path));
        assert_eq!(now, [asked[0], asked[1] + 1, asked[2] + 1]);
        assert_eq!(site.manager.body_bytes(), bytes_before);
        // Time passes as before.
        site.clock.advance(Duration::from_secs(90));
        assert!((90..100).contains(&age(&site, FILE).await));
        site.clock.advance(Duration::from_secs(20));
        assert_eq!(site.get(FILE).await.cache_status(), "gupd; fwd=stale; fwd-status=304");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_during_clock_change_is_stored_once() {
    let site = Site::new();
    let gate = Gate::default();
    site.manager.put(PAYLOAD, Resource::new(bytes(1, 3 << 20)).stalled(1 << 20, &gate));
    let address = site.address();
    let client = tokio::spawn(async move { get(address, PAYLOAD).await });
    site.manager.wait_for_requests(PAYLOAD, 1).await;
    site.clock.set_back(DAY);
    gate.open();
    assert!(client.await.unwrap().expect_body() == bytes(1, 3 << 20));
    site.wait_until_stored(PAYLOAD).await;
    assert!(age(&site, PAYLOAD).await < 10);
    assert_eq!(site.manager.request_count(PAYLOAD), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_circuit_closes_after_clock_is_set_back() {
    let first = RefusingPort::new();
    let second = Manager::start();
    let both = Config::for_upstreams(&[&first.url(), &second.url()]).unwrap();
    let site = Site::for_manager(second, |config| {
        config.upstreams = both.upstreams;
        config.routes = both.routes;
    });
    site.manager.put("/secars/x", Resource::new("x"));
    assert_eq!(site.get("/secars/x").await.expect_body(), b"x");
    let first = first.listen();
    site.clock.set_back(DAY);
    let address = site.address();
    let client = tokio::spawn(async move { get(address, "/secars/x").await });
    tokio::select! {
        connection = first.accept() => drop(connection.unwrap()),
        answer = client => panic!("the circuit is still open: {:?}", answer.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_survive_a_clock_that_jumps() {
    let site = Site::new();
    let mut received = 0;
    // Set back within the history, set forward beyond it, and set back to before it.
    for (jump, leap) in [(0, DAY), (-1, DAY / 2), (1, 3 * DAY), (-1, 40 * DAY)] {
        match jump {
            1 => site.clock.set_forward(leap),
            -1 => site.clock.set_back(leap),
            _ => {}
        }
        received += 100_000;
        let path = PAYLOAD.replace("261121001", &received.to_string());
        site.manager.put(&path, Resource::new(bytes(1, 100_000)));
        site.wait_until_stored(&path).await;
        for page in ["/", "/clients", "/content", "/rollout", "/line", "/line?since=30d", "/events"] {
            let response = get(site.relay().admin(), page).await;
            assert_eq!(response.status, 200, "{page}");
            let text = String::from_utf8(response.expect_body()).unwrap();
            // Attributes of a broken chart.
            for broken in ["=\"-", "NaN", "inf\""] {
                assert!(!text.contains(broken), "{broken} in {page}: {text}");
            }
            assert!(text.ends_with("</html>"), "{page}: {text}");
        }
        let report = get(site.relay().admin(), "/api/v1/traffic?since=365d&top=1000").await.expect_body();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["wan"]["received"], received, "nothing is lost: {report:#}");
    }
}
