use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::*;
use gupd_config::clock::Clock;
use gupd_config::{Config, Overrides};

fn config(settings: &[(&str, &str)]) -> Config {
    let always = [("GUPD_UPSTREAM", "http://manager"), ("GUPD_SITE_TIME_ZONE", "UTC")];
    let env = always.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(&Overrides::default(), None, env).unwrap()
}

#[tokio::test(start_paused = true)]
async fn reloaded_limits_end_at_their_time() {
    let clock = Clock::manual(0);
    let lan = Arc::new(LanLimiter::new(&config(&[]), clock.clone()));
    let wan = Arc::new(WanLimiter::new(&config(&[]), clock.clone()));
    let (lan_task, wan_task) = (lan.clone(), wan.clone());
    tokio::spawn(async move { tokio::join!(lan_task.run(), wan_task.run()) });
    sleep(Duration::from_secs(5)).await;
    let day = "1KiB/s 00:00-07:00";
    let limited = config(&[("GUPD_LAN_LIMIT", day), ("GUPD_WAN_LIMIT", day)]);
    lan.reconfigure(&limited);
    wan.reconfigure(&limited);
    let mut transfers = [lan.throttle(IpAddr::from([10, 0, 0, 1]), "default"), wan.throttle("", None, None)]
        .map(|mut pace| {
            let mut left = 1 << 20;
            Box::pin(poll_fn(move |cx| {
                while left > 0 {
                    let bytes = std::task::ready!(pace.poll_grant(cx, left));
                    pace.consume(bytes);
                    left -= bytes;
                }
                std::task::Poll::Ready(())
            }))
        });
    for transfer in &mut transfers {
        assert!(timeout(Duration::from_secs(60), transfer).await.is_err());
    }
    clock.advance(Duration::from_secs(7 * 3_600));
    for transfer in transfers {
        timeout(Duration::from_secs(60), transfer).await.expect("the limit has ended");
    }
}

#[tokio::test(start_paused = true)]
async fn unlimited_wan_needs_no_task() {
    let config = config(&[("GUPD_WAN_LIMIT", "1KiB/s"), ("GUPD_WAN_YIELD_TO_OTHERS", "true")]);
    let wan = WanLimiter::unlimited(&config, Clock::manual(0));
    assert!(!wan.is_limited() && wan.window(None).is_none());
    let mut pace = wan.throttle("", None, None);
    for _ in 0..100 {
        let passes = poll_fn(|cx| pace.poll_grant(cx, 1 << 20));
        let bytes = timeout(Duration::from_secs(60), passes).await.expect("nobody gives turns");
        pace.consume(bytes);
    }
}
