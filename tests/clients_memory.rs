//! Memory of 50,000 tracked clients, as the system counts it for this process: including spare capacity, the
//! allocator's overhead, and freed memory that is not returned. The test needs a process of its own.

#![allow(clippy::unwrap_used, reason = "steps of tests: what fails here fails the test")]

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use gupd_config::clock::Clock;
use gupd_rollout::clients::{
    ClientFilter, ClientId, ClientStore, ClientTracker, Observation, RequestKind, RequestOutcome,
    TrackerSettings,
};
use gupd_rollout::metrics::RolloutMetrics;
use tokio_util::sync::CancellationToken;

const CLIENTS: usize = 50_000;
const MOST: u64 = 64 << 20;
const T0: i64 = 1_780_000_000_000;
const DAY: i64 = 24 * 3_600_000;

/// Fewer observations than the queue holds.
const AT_ONCE: usize = 4_096;

/// A sink that accepts everything and stores nothing.
struct Nowhere;

impl ClientStore for Nowhere {
    type Error = std::io::Error;

    async fn page(&self, _after: &str) -> Result<Vec<(String, Vec<u8>)>, std::io::Error> {
        Ok(Vec::new())
    }

    async fn save(&self, _rows: Vec<(String, Option<Vec<u8>>)>) -> Result<(), std::io::Error> {
        Ok(())
    }
}

/// Current and peak anonymous memory of the process, in bytes.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
    };
    (of("RssAnon:"), of("VmHWM:"))
}

/// Records observations, and drains the queue with a query before it is full.
async fn record(tracker: &ClientTracker, observations: impl Iterator<Item = Observation>) {
    for (at, observation) in observations.enumerate() {
        tracker.record(observation);
        if at % AT_ONCE == 0 {
            tracker.trouble(0.into(), &[]).await;
        }
    }
    tracker.trouble(0.into(), &[]).await;
}

fn observation(client: ClientId, address: IpAddr, at: i64, hash: u64) -> Observation {
    Observation {
        client,
        address,
        group: "branch".into(),
        at,
        revision: Some(1.into()),
        request: RequestKind::Payload { hash, is_full_set: true },
        outcome: RequestOutcome::Delivered,
        bytes: 1,
    }
}

/// Each client downloads nine objects, on two days.
fn fleet() -> impl Iterator<Item = Observation> {
    (0..9).flat_map(|object| {
        (0..CLIENTS).map(move |number| {
            let name = format!("{number:064}.example");
            let address = Ipv6Addr::from_bits(1 << 120 | number as u128).into();
            observation(name[8..].parse().unwrap(), address, T0 + (object % 2) * DAY, object as u64)
        })
    })
}

fn invented(count: u128) -> impl Iterator<Item = Observation> {
    (0..count).map(|number| {
        let address = IpAddr::V6(Ipv6Addr::from_bits(number << 64));
        observation(ClientId::of(address, &[]), address, T0 + DAY, 0)
    })
}

#[tokio::test]
async fn fifty_thousand_clients_fit_64_mib_despite_a_flood() {
    let settings = TrackerSettings {
        max_clients: CLIENTS,
        behind: Duration::from_secs(86_400),
        unseen: Duration::from_secs(7 * 86_400),
        repeats: 3,
    };
    let metrics = Arc::new(RolloutMetrics::register(&prometheus::Registry::new()).unwrap());
    let clock = Clock::manual(T0 + 2 * DAY);
    let (before, peak_before) = resident();
    let tracker = ClientTracker::new(settings, Box::new(|_, _| None), metrics.clone(), clock);
    let stop = CancellationToken::new();
    let task = tokio::spawn(tracker.clone().run(Nowhere, stop.clone().cancelled_owned()));

    record(&tracker, fleet()).await;
    let full = resident().0 - before;
    assert_eq!(tracker.summary().await["branch"].known, CLIENTS as u64);

    record(&tracker, invented(500_000)).await;
    let flooded = resident().0 - before;
    let known = tracker.list(&ClientFilter::default(), CLIENTS).await;
    assert_eq!(known.len(), CLIENTS);
    let invented = known.iter().filter(|report| report.client.to_string().contains(':')).count();
    assert_eq!(invented, CLIENTS / 8);
    drop(known);

    stop.cancel();
    task.await.unwrap();
    assert_eq!(metrics.observations_lost.get(), 0);
    let peak = resident().1 - peak_before;
    println!("full: {full}, flooded: {flooded}, peak with a list of all: {peak} bytes");
    // Less memory than the names take would show that nothing was measured.
    assert!((64 * CLIENTS as u64..MOST).contains(&full), "{full}");
    assert!(flooded < MOST, "{flooded}");
}
