//! What 50,000 clients cost in memory, as the system counts it for this process: everything is in it, the tables' spare
//! room, the allocator's, and what was let go and not given back. A binary of its own, since its one test must be alone.

#![allow(clippy::unwrap_used, reason = "steps of tests: what fails here fails the test")]

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use gupd::clock::Clock;
use gupd::rollout::clients::{
    Clients, Identity, Outcome, Rows, Settings, Sighting, Sought, Thresholds, Tracker,
};
use gupd::rollout::metrics::RolloutMetrics;
use tokio_util::sync::CancellationToken;

const CLIENTS: usize = 50_000;
const MOST: u64 = 64 << 20;
const T0: i64 = 1_780_000_000_000;
const DAY: i64 = 24 * 3_600_000;

/// Fewer than the queue has room for.
const AT_ONCE: usize = 4_096;

/// Takes what it is given, and has nothing.
struct Nowhere;

impl Rows for Nowhere {
    type Error = std::io::Error;

    async fn page(&self, _after: &str) -> Result<Vec<(String, Vec<u8>)>, std::io::Error> {
        Ok(Vec::new())
    }

    async fn save(&self, _rows: Vec<(String, Option<Vec<u8>>)>) -> Result<(), std::io::Error> {
        Ok(())
    }
}

/// Bytes of anonymous memory that the process has, and has ever had in all.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
    };
    (of("RssAnon:"), of("VmHWM:"))
}

/// Tells of clients, and has them taken in before the queue is full.
async fn tell(clients: &Clients, sightings: impl Iterator<Item = Sighting>) {
    let nobody: Identity = "nobody".parse().unwrap();
    for (at, sighting) in sightings.enumerate() {
        clients.sighted(sighting);
        if at % AT_ONCE == 0 {
            assert!(!clients.forget(nobody.clone()).await.unwrap());
        }
    }
    assert!(!clients.forget(nobody).await.unwrap());
}

fn sighting(client: Identity, address: IpAddr, at: i64, object: u64) -> Sighting {
    let sought = Sought::Payload { object, full: true };
    Sighting {
        client,
        address,
        group: "branch".into(),
        at,
        sees: Some(1),
        sought,
        bytes: 1,
        end: Outcome::Given,
    }
}

/// Every client takes nine objects, on two days.
fn fleet() -> impl Iterator<Item = Sighting> {
    (0..9).flat_map(|object| {
        (0..CLIENTS).map(move |number| {
            let name = format!("{number:064}.example");
            let address = Ipv6Addr::from_bits(1 << 120 | number as u128).into();
            sighting(name[8..].parse().unwrap(), address, T0 + (object % 2) * DAY, object as u64)
        })
    })
}

fn made_up(count: u128) -> impl Iterator<Item = Sighting> {
    (0..count).map(|number| {
        let address = IpAddr::V6(Ipv6Addr::from_bits(number << 40));
        sighting(Identity::of(address, &[]), address, T0 + DAY, 0)
    })
}

#[tokio::test]
async fn fifty_thousand_clients_take_less_than_64_mib_whoever_makes_up_more() {
    let settings = Settings {
        max_clients: CLIENTS,
        thresholds: Thresholds {
            behind: Duration::from_secs(86_400),
            unseen: Duration::from_secs(7 * 86_400),
            failing: Thresholds::FAILING,
            repeats: 3,
        },
    };
    let metrics = Arc::new(RolloutMetrics::register(&prometheus::Registry::new()).unwrap());
    let clock = Clock::manual(T0 + 2 * DAY);
    let (before, peak_before) = resident();
    let (clients, tracker) = Tracker::new(settings, Arc::new(|_, _| None), metrics.clone(), clock);
    let stop = CancellationToken::new();
    let task = tokio::spawn(tracker.run(Nowhere, stop.clone().cancelled_owned()));

    tell(&clients, fleet()).await;
    let full = resident().0 - before;
    assert_eq!(clients.summary().await.unwrap().all.clients, CLIENTS as u64);

    tell(&clients, made_up(500_000)).await;
    let flooded = resident().0 - before;
    let known = clients.list(Default::default(), CLIENTS).await.unwrap();
    assert_eq!(known.len(), CLIENTS);
    let made_up = known.iter().filter(|report| report.client.to_string().contains(':')).count();
    assert_eq!(made_up, CLIENTS / 8);
    drop(known);

    stop.cancel();
    task.await.unwrap();
    assert_eq!(metrics.sightings_lost.get(), 0);
    let peak = resident().1 - peak_before;
    println!("full: {full}, flooded: {flooded}, peak with a list of all: {peak} bytes");
    // Fewer bytes than the names have would mean that nothing was measured.
    assert!((64 * CLIENTS as u64..MOST).contains(&full), "{full}");
    assert!(flooded < MOST, "{flooded}");
}
