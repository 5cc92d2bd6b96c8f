//! Waiting in the runtime's time: who is woken, who is told to come again, and who has left.

use std::net::Ipv4Addr;

use super::*;

const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

fn places(change: impl FnOnce(&mut Config)) -> (Config, Arc<SlotLimiter>) {
    let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
    config.lan.max_downloads = Some(1);
    change(&mut config);
    let places = Arc::new(SlotLimiter::new(&config));
    (config, places)
}

/// Polls once.
async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[tokio::test(start_paused = true)]
async fn a_place_that_comes_free_goes_to_who_waits() {
    let (_, places) = places(|_| {});
    let place = places.try_acquire(ONE, "default").unwrap();
    assert!(places.try_acquire(OTHER, "default").is_none());
    let mut waits = Box::pin(places.acquire(OTHER, "default"));
    assert!(is_pending(&mut waits).await);
    drop(place);
    let place = waits.await.unwrap();
    assert!(places.try_acquire(ONE, "default").is_none());
    drop(place);
    assert!(places.try_acquire(ONE, "default").is_some());
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_how_long_it_takes() {
    let (_, places) = places(|_| {});
    // Two places came free, after 10 s each.
    for _ in 0..2 {
        let place = places.try_acquire(ONE, "default").unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(place);
    }
    let _place = places.try_acquire(ONE, "default").unwrap();
    let (mut first, mut second) =
        (Box::pin(places.acquire(ONE, "default")), Box::pin(places.acquire(OTHER, "default")));
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    let turned = second.await.unwrap_err();
    // No place came free for 30 s: so that is the gap now, and one request is before it.
    assert_eq!((turned.reason, turned.retry_after), (SlotDenial::QueueTimeout, Duration::from_secs(60)));
    assert_eq!(first.await.unwrap_err().retry_after, Duration::from_secs(30));
    assert!(places.state().asks.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_turns_away_at_once_and_who_leaves_makes_room() {
    let (_, places) = places(|config| (config.lan.queue, config.lan.client_queue) = (2, 1));
    let _place = places.try_acquire(ONE, "default").unwrap();
    let mut first = Box::pin(places.acquire(ONE, "default"));
    assert!(is_pending(&mut first).await);
    let own = places.acquire(ONE, "default").await.unwrap_err();
    assert_eq!((own.reason, own.retry_after), (SlotDenial::ClientQueueFull, Duration::from_secs(60)));
    let mut second = Box::pin(places.acquire(OTHER, "default"));
    assert!(is_pending(&mut second).await);
    let third = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(places.acquire(third, "default").await.unwrap_err().reason, SlotDenial::QueueFull);
    drop(second);
    assert!(is_pending(&mut Box::pin(places.acquire(third, "default"))).await);
}

#[tokio::test(start_paused = true)]
async fn a_place_granted_to_who_leaves_is_the_next_ones() {
    let (_, places) = places(|_| {});
    let place = places.try_acquire(ONE, "default").unwrap();
    let (mut first, mut second) =
        (Box::pin(places.acquire(ONE, "default")), Box::pin(places.acquire(OTHER, "default")));
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    drop(place);
    drop(first);
    assert!(second.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn more_places_are_given_at_once() {
    let (mut config, places) = places(|config| {
        config.groups = vec![gupd_config::GroupSettings::catch_all("branch")];
        config.groups[0].max_downloads = Some(1);
    });
    let mut held = vec![places.try_acquire(ONE, "branch").unwrap()];
    let (mut first, mut second) =
        (Box::pin(places.acquire(ONE, "branch")), Box::pin(places.acquire(OTHER, "default")));
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    config.lan.max_downloads = Some(2);
    places.reconfigure(&config);
    held.push(second.await.unwrap());
    config.lan.max_downloads = None;
    config.groups.clear();
    places.reconfigure(&config);
    assert!(!places.is_limited());
    held.push(first.await.unwrap());
    config.lan.max_downloads = Some(2);
    places.reconfigure(&config);
    held.pop();
    assert!(places.try_acquire(ONE, "default").is_none(), "two are held");
    held.pop();
    assert!(places.try_acquire(ONE, "default").is_some());
}
