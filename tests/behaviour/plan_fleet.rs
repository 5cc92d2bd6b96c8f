//! The plan of a fleet compared with its rollout: relays with lines of their own get a payload over the line of one
//! manager, over real sockets. Thin lines limit some sites, the manager's line the others.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use gupd_config::RateSchedule;
use gupd_config::units::Rate;
use gupd_plan::{Appearance, Bottleneck, PlanFleet, PlanInput, PlanTier, SiteClass};
use gupd_site::{Line, Wan};
use tokio::task::JoinSet;

use crate::support::{Manager, PAYLOAD, Request, Resource, Site, WireClient, bytes};

/// Size of the payload. Buffers of sockets take some MB for each thin site over the manager's line in advance, in the
/// time of other sites: of 400 MB they are a few percent.
const FULL: usize = 20_000_000;
/// Lines of sites. The first two sites have the thin one.
const THIN: Rate = Rate(1_250_000);
const WIDE: Rate = Rate(100_000_000);
const THIN_SITES: usize = 2;
/// Share of the manager's line that each wide site gets. Thin sites take twice as long.
const SHARE: u64 = 2_500_000;
/// Clients of a site: each object still crosses the lines once for each site.
const CLIENTS: u8 = 3;
/// Tolerated deviation of each site's end.
const OFF: f64 = 0.1;
/// On a machine that runs other tests the relays themselves may be late.
const ATTEMPTS: usize = 3;

fn line(site: usize) -> Rate {
    if site < THIN_SITES { THIN } else { WIDE }
}

/// Capacity of the manager's line, bytes a second.
fn manager_line(sites: usize) -> u64 {
    THIN_SITES as u64 * THIN.0 + (sites - THIN_SITES) as u64 * SHARE
}

fn start_sites(count: usize, wan: SocketAddr) -> Vec<Site> {
    let start = |number: usize| {
        let mut site = Site::with_config(|config| {
            config.server.workers = 1;
            config.wan.limit = RateSchedule::from_rate(line(number));
            config.wan.burst = Duration::from_millis(500);
        });
        site.set_upstreams(&[wan]);
        site
    };
    (0..count).map(start).collect()
}

/// Returns the planned end of each site.
fn plan(sites: &[Site]) -> Vec<f64> {
    let class = |site: &Site| {
        let input = PlanInput {
            clients: vec![(None, CLIENTS.into())],
            full: Some(FULL as u64),
            delta: None,
            full_share: 1.0,
            line: None,
            lan: Rate(1 << 30),
            start: site.clock.now(),
            appearance: Appearance::always_on(),
            heartbeat: Duration::ZERO,
            horizon: Duration::from_secs(600),
        };
        SiteClass { scenario: input.scenario(&site.config).unwrap(), region: None, sites: 1 }
    };
    let fleet = PlanFleet {
        horizon: 600.0,
        manager_line: manager_line(sites.len()) as f64,
        regions: Vec::new(),
        classes: sites.iter().map(class).collect(),
    };
    let planned = fleet.simulate(&fleet.share_lines(PlanTier::None)).unwrap();
    assert_eq!(planned.sites[0].bottleneck, Bottleneck::Line);
    assert_eq!(planned.sites[THIN_SITES].bottleneck, Bottleneck::Manager);
    planned.sites.iter().map(|site| site.finished_at.unwrap()).collect()
}

/// Returns the time at which the last client of each site was done.
async fn run_rollout(sites: &[Site]) -> Vec<f64> {
    let mut clients = Vec::new();
    for (number, site) in sites.iter().enumerate() {
        for _ in 0..CLIENTS {
            clients.push((number, WireClient::connect(site.address()).await));
        }
    }
    let (begun, mut downloads) = (Instant::now(), JoinSet::new());
    for (number, mut client) in clients {
        downloads.spawn(async move {
            let length = client.send(&Request::get(PAYLOAD)).await.unwrap().expect_body().len();
            assert_eq!(length, FULL);
            (number, begun.elapsed().as_secs_f64())
        });
    }
    let mut ends = vec![0.0_f64; sites.len()];
    for (number, end) in downloads.join_all().await {
        ends[number] = ends[number].max(end);
    }
    ends
}

/// Compares the end of every site, and the bytes of the manager. Returns the largest deviation.
async fn compare(count: usize) -> f64 {
    let mut attempts = Vec::new();
    for _ in 0..ATTEMPTS {
        let manager = Manager::start();
        manager.put(PAYLOAD, Resource::new(bytes(1, FULL)));
        let line = Line {
            bits_per_second: manager_line(count) * 8,
            one_way: Duration::from_millis(1),
            buffer: 16 << 10,
        };
        let wan = Wan::start(manager.address(), line).unwrap();
        let sites = start_sites(count, wan.address());
        let planned = plan(&sites);
        let ended = run_rollout(&sites).await;
        let sent = wan.sent_down() as f64 / (count * FULL) as f64;
        assert!((1.0..1.01).contains(&sent), "the manager sent {sent} times the payload of each site");
        let deviations: Vec<f64> =
            planned.iter().zip(&ended).map(|(planned, ended)| (planned - ended).abs() / ended).collect();
        let most = deviations.iter().copied().fold(0.0, f64::max);
        if most <= OFF {
            return most;
        }
        attempts.push((planned, ended));
    }
    panic!("the rollout deviated from the plan: {attempts:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it needs an idle machine for a minute"]
async fn plan_of_twenty_relays_is_within_a_tenth() {
    println!("off by {:.1} % at most", compare(20).await * 100.0);
}
