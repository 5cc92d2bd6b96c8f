//! Queueing in the runtime's time: wake-ups, time-outs and requests that leave the queue.

use std::future::pending;
use std::net::Ipv4Addr;

use super::*;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

fn limiter(change: impl FnOnce(&mut Config)) -> (Config, Arc<SlotLimiter>) {
    let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
    config.lan.max_downloads = Some(1);
    change(&mut config);
    let limiter = Arc::new(SlotLimiter::new(&config));
    (config, limiter)
}

/// Polls once.
async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[tokio::test(start_paused = true)]
async fn released_slot_goes_to_the_queued_request() {
    let (_, limiter) = limiter(|_| {});
    let slot = limiter.try_acquire(CLIENT, "default").unwrap();
    assert!(limiter.try_acquire(OTHER, "default").is_none());
    let mut waits = Box::pin(limiter.acquire(OTHER, "default", pending()));
    assert!(is_pending(&mut waits).await);
    drop(slot);
    let slot = waits.await.unwrap();
    assert!(limiter.try_acquire(CLIENT, "default").is_none());
    drop(slot);
    assert!(limiter.try_acquire(CLIENT, "default").is_some());
}

#[tokio::test(start_paused = true)]
async fn queue_timeout_returns_the_estimated_wait() {
    let (_, limiter) = limiter(|_| {});
    // Two releases, after 10 s each.
    for _ in 0..2 {
        let slot = limiter.try_acquire(CLIENT, "default").unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(slot);
    }
    let _slot = limiter.try_acquire(CLIENT, "default").unwrap();
    let (mut first, mut second) = (
        Box::pin(limiter.acquire(CLIENT, "default", pending())),
        Box::pin(limiter.acquire(OTHER, "default", pending())),
    );
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    let refusal = second.await.unwrap_err();
    // No release for 30 s, so that is the interval now; one request is ahead.
    assert_eq!(
        (refusal.reason, refusal.retry_after),
        (SlotRefusalReason::QueueTimeout, Duration::from_secs(60))
    );
    assert_eq!(first.await.unwrap_err().retry_after, Duration::from_secs(30));
    assert!(limiter.state().waiters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn full_queue_rejects_until_a_request_leaves() {
    let (_, limiter) = limiter(|config| (config.lan.queue, config.lan.client_queue) = (2, 1));
    let _slot = limiter.try_acquire(CLIENT, "default").unwrap();
    let mut first = Box::pin(limiter.acquire(CLIENT, "default", pending()));
    assert!(is_pending(&mut first).await);
    let own = limiter.acquire(CLIENT, "default", pending()).await.unwrap_err();
    assert_eq!((own.reason, own.retry_after), (SlotRefusalReason::ClientQueueFull, Duration::from_secs(60)));
    let mut second = Box::pin(limiter.acquire(OTHER, "default", pending()));
    assert!(is_pending(&mut second).await);
    let third = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(
        limiter.acquire(third, "default", pending()).await.unwrap_err().reason,
        SlotRefusalReason::QueueFull
    );
    drop(second);
    assert!(is_pending(&mut Box::pin(limiter.acquire(third, "default", pending()))).await);
}

#[tokio::test(start_paused = true)]
async fn slot_granted_to_a_dropped_request_goes_to_the_next() {
    let (_, limiter) = limiter(|_| {});
    let slot = limiter.try_acquire(CLIENT, "default").unwrap();
    let (mut first, mut second) = (
        Box::pin(limiter.acquire(CLIENT, "default", pending())),
        Box::pin(limiter.acquire(OTHER, "default", pending())),
    );
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    drop(slot);
    drop(first);
    assert!(second.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn raised_limit_grants_slots_at_once() {
    let (mut config, limiter) = limiter(|config| {
        config.groups = vec![gupd_config::GroupSettings::catch_all("branch")];
        config.groups[0].max_downloads = Some(1);
    });
    let mut held = vec![limiter.try_acquire(CLIENT, "branch").unwrap()];
    let (mut first, mut second) = (
        Box::pin(limiter.acquire(CLIENT, "branch", pending())),
        Box::pin(limiter.acquire(OTHER, "default", pending())),
    );
    assert!(is_pending(&mut first).await && is_pending(&mut second).await);
    config.lan.max_downloads = Some(2);
    limiter.reconfigure(&config);
    held.push(second.await.unwrap());
    config.lan.max_downloads = None;
    config.groups.clear();
    limiter.reconfigure(&config);
    assert!(!limiter.is_limited());
    held.push(first.await.unwrap());
    config.lan.max_downloads = Some(2);
    limiter.reconfigure(&config);
    held.pop();
    assert!(limiter.try_acquire(CLIENT, "default").is_none(), "two are held");
    held.pop();
    assert!(limiter.try_acquire(CLIENT, "default").is_some());
}

/// Takes the only slot, and hands a piece to a client that does not read it.
fn stalled_slot(limiter: &Arc<SlotLimiter>) -> Slot {
    let slot = limiter.try_acquire(CLIENT, "default").unwrap();
    slot.begin_piece();
    slot
}

#[tokio::test(start_paused = true)]
async fn slot_of_a_stalled_download_is_lent_to_the_queue() {
    let gauge = IntGauge::new("lent", "lent").unwrap();
    let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
    (config.lan.max_downloads, config.lan.client_downloads) = (Some(1), Some(1));
    let limiter = Arc::new(SlotLimiter::new(&config).with_lent_gauge(gauge.clone()));
    let stalled = stalled_slot(&limiter);
    let begun = Instant::now();
    let borrowed = limiter.acquire(OTHER, "default", pending()).await.unwrap();
    assert!((LEND_AFTER..LEND_AFTER + 2 * LEND_INTERVAL).contains(&begun.elapsed()));
    assert_eq!(gauge.get(), 1);
    // It still counts for its own client.
    assert!(limiter.acquire(CLIENT, "default", pending()).await.is_err());
    drop(borrowed);
    drop(limiter.try_acquire(OTHER, "default").unwrap());
    drop(stalled);
    assert_eq!(gauge.get(), 0);
    let _first = limiter.try_acquire(CLIENT, "default").unwrap();
    assert!(limiter.try_acquire(OTHER, "default").is_none());
    assert!(limiter.state().holders.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn download_that_goes_on_has_its_slot_again() {
    let (_, limiter) = limiter(|_| {});
    let stalled = stalled_slot(&limiter);
    let borrowed = limiter.acquire(OTHER, "default", pending()).await.unwrap();
    stalled.end_piece();
    // The queued request finds that the slot is in use again, beside the borrowed one.
    let mut waits = Box::pin(limiter.acquire(OTHER, "default", pending()));
    assert!(is_pending(&mut waits).await);
    tokio::time::advance(LEND_INTERVAL).await;
    assert!(is_pending(&mut waits).await);
    drop(borrowed);
    assert!(is_pending(&mut waits).await);
    drop(stalled);
    assert!(waits.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn download_that_waits_for_the_relay_keeps_its_slot() {
    let (_, limiter) = limiter(|_| {});
    let slot = stalled_slot(&limiter);
    slot.end_piece();
    let refused = limiter.acquire(OTHER, "default", pending()).await.unwrap_err();
    assert_eq!(refused.reason, SlotRefusalReason::QueueTimeout);
}
