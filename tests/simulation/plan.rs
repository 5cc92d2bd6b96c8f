//! A plan compared with its rollout in paused time: one configuration is simulated, then run by fills and limits. Time
//! that stands still while the processors work leaves only the decisions to compare.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use gupd_config::units::Rate;
use gupd_config::{Config, RateSchedule};
use gupd_net::shape::LanLimiter;
use gupd_plan::{Appearance, PlanInput, simulate};
use gupd_site::{OriginServer, Resource, bytes};
use tokio::time::Instant;

use crate::network::Net;
use crate::site::{SHORT_TICK, Site};

const FULL_PATH: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/full.zip";
const DELTA_PATH: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/xdelta261120001.dax";
/// Half of the clients take the full set, half the delta, which goes first on the line.
const CLIENTS: u8 = 20;
const FULL: usize = 2_400_000;
const DELTA: usize = 1_200_000;
const LINE: Rate = Rate(500_000);
const LAN: Rate = Rate(4_000_000);
/// Tolerated deviation for half of the clients and for all. The hold-back of a fill and the last turns of each client are
/// not in the plan: 0.3 s for half of the clients.
const OFF: f64 = 0.1;

/// Downloads an object as a client within the limits of the LAN. Returns its length and when it was complete.
async fn download(site: &Site, lan: &LanLimiter, client: IpAddr, path: &str) -> (usize, Instant) {
    let mut reader = site.open(path).await.unwrap();
    let mut throttle = lan.throttle(client, "");
    let mut length = 0;
    while let Some(piece) = reader.next().await {
        let piece = piece.unwrap();
        length += piece.len();
        let mut left = piece.len() as u64;
        while left > 0 {
            let granted = poll_fn(|cx| throttle.poll_grant(cx, left)).await;
            throttle.consume(granted);
            left -= granted;
        }
    }
    (length, Instant::now())
}

fn plan_input(site: &Site) -> PlanInput {
    PlanInput {
        clients: vec![(None, CLIENTS.into())],
        full: Some(FULL as u64),
        delta: Some(DELTA as u64),
        full_share: 0.5,
        line: None,
        lan: Rate(1 << 30),
        start: site.clock.now(),
        appearance: Appearance::always_on(),
        heartbeat: Duration::ZERO,
        horizon: Duration::from_secs(60),
    }
}

#[tokio::test(start_paused = true)]
async fn plan_equals_the_rollout_in_paused_time() {
    let net = Net::calm();
    let [full, delta] =
        [(1, FULL), (2, DELTA)].map(|(seed, len)| Resource::tagged(bytes(seed, len), "\"1\""));
    net.put(
        "manager",
        &OriginServer::computed(move |request| {
            Some(if request.target == DELTA_PATH { &delta } else { &full }.clone())
        }),
    );
    let mut config = None;
    let site = Site::with_tick(&net, &["manager"], SHORT_TICK, |settings| {
        (settings.wan.limit, settings.lan.limit) =
            (RateSchedule::from_rate(LINE), RateSchedule::from_rate(LAN));
        // The plan ignores idle time that was saved up.
        settings.wan.burst = Duration::from_millis(50);
        config = Some(settings.clone());
    });
    let config: Config = config.unwrap();
    let scenario = plan_input(&site).scenario(&config).unwrap();
    let plan = simulate(&scenario).unwrap();
    let planned = [0.5, 1.0].map(|share| plan.current_at(&scenario, share).unwrap());

    let lan = Arc::new(LanLimiter::new(&config, site.clock.clone()));
    let begun = Instant::now();
    let limits = lan.clone();
    let limiter = async move { limits.run().await };
    let clients = (1..=CLIENTS).map(|number| {
        let path = if number.is_multiple_of(2) { DELTA_PATH } else { FULL_PATH };
        download(&site, &lan, Ipv4Addr::new(10, 0, 0, number).into(), path)
    });
    let mut done = tokio::select! {
        done = futures_util::future::join_all(clients) => done,
        () = limiter => unreachable!("limits run until they are dropped"),
    };
    assert_eq!(done.iter().map(|(length, _)| length).sum::<usize>() as f64, plan.lan_bytes);
    done.sort_by_key(|(_, end)| *end);
    let half = usize::from(CLIENTS) / 2;
    let ended = [half, 2 * half].map(|count| (done[count - 1].1 - begun).as_secs_f64());
    for (planned, ended) in planned.into_iter().zip(ended) {
        assert!((planned - ended).abs() <= ended * OFF, "planned {planned} s, took {ended} s");
    }
}
