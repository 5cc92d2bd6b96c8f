//! Active health checks: one task that checks every upstream, and probes unhealthy ones. The module decides when to
//! check and how; `breaker` draws the conclusion. While the task runs, no client request is used as a probe.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::breaker::{Breaker, BreakerSettings, FailureKind, RequestKind};
use super::error::AttemptOutcome;
use super::send::RequestTimeouts;
use super::{Upstream, UpstreamError, UpstreamFailure, UpstreamRequest, UpstreamResponse, Upstreams};
use crate::shape::BandwidthClass;
use gupd_config::clock::UnixMillis;

/// Maximum time between two readings of the wall clock, which can be set at any time.
const MAX_CLOCK_INTERVAL: Duration = Duration::from_secs(30);

/// Bytes of a check's body that are read to keep its connection. A longer body costs the connection.
const MAX_BODY: usize = 4 << 10;

/// Outcome of a check, in metrics.
#[derive(Clone, Copy)]
enum CheckOutcome {
    Healthy,
    Failed(UpstreamFailure),
    /// A response that counts as a failure.
    ServerError,
}

impl CheckOutcome {
    fn all() -> impl Iterator<Item = Self> {
        let failures = UpstreamFailure::OF_UPSTREAM.map(Self::Failed);
        [Self::Healthy, Self::ServerError].into_iter().chain(failures)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "well",
            Self::Failed(failure) => failure.as_str(),
            Self::ServerError => "server-error",
        }
    }
}

/// Handle on the health checks; dropping it ends the task.
#[derive(Debug)]
pub struct HealthChecks {
    upstreams: watch::Sender<Arc<Upstreams>>,
}

/// The task that checks.
#[derive(Debug)]
pub struct HealthCheckTask {
    upstreams: watch::Receiver<Arc<Upstreams>>,
}

impl HealthChecks {
    /// Creates a handle and its task.
    pub fn new(upstreams: Arc<Upstreams>) -> (Self, HealthCheckTask) {
        upstreams.publish_health();
        let (sender, upstreams) = watch::channel(upstreams);
        (Self { upstreams: sender }, HealthCheckTask { upstreams })
    }

    /// Returns the upstreams in force.
    pub fn upstreams(&self) -> Arc<Upstreams> {
        self.upstreams.borrow().clone()
    }

    /// Puts other upstreams in force.
    pub fn reconfigure(&self, upstreams: Arc<Upstreams>) {
        let before = self.upstreams.send_replace(upstreams.clone());
        let metrics = &upstreams.metrics;
        let lists = [
            (&before.list, &upstreams.list, &metrics.upstream.healthy),
            (&before.peers, &upstreams.peers, &metrics.peer.healthy),
        ];
        for (before, now, healthy) in lists {
            for gone in before.iter().filter(|old| now.iter().all(|new| new.name != old.name)) {
                // Remove the series of removed upstreams, if there is one.
                let _ = healthy.remove_label_values(&[&*gone.name]);
            }
        }
        upstreams.publish_health();
    }
}

impl HealthCheckTask {
    /// Checks until the handle is dropped.
    pub async fn run(mut self) {
        loop {
            let upstreams = self.upstreams.borrow_and_update().clone();
            let interval = upstreams.health.interval;
            let checking = async {
                match interval {
                    // Without upstreams there is nothing to wait for, and the loop would not pause.
                    Some(interval) if !upstreams.list.is_empty() => upstreams.run_checks(interval).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = checking => {}
                changed = self.upstreams.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Marks upstreams as checked while it exists, so that client requests do not probe.
struct CheckedGuard<'a>(&'a AtomicBool);

impl<'a> CheckedGuard<'a> {
    fn new(is_checked: &'a AtomicBool) -> Self {
        is_checked.store(true, Ordering::Relaxed);
        Self(is_checked)
    }
}

impl Drop for CheckedGuard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Upstreams {
    fn publish_health(&self) {
        self.peers.iter().for_each(|peer| peer.publish_health(&self.metrics.peer.healthy));
        for upstream in self.iter() {
            upstream.publish_health(&self.metrics.upstream.healthy);
            for outcome in CheckOutcome::all() {
                self.metrics.upstream.checks.with_label_values(&[&*upstream.name, outcome.as_str()]);
            }
        }
    }

    async fn run_checks(&self, interval: Duration) {
        let _checked = CheckedGuard::new(&self.is_checked);
        let began = self.clock.now();
        let failing: Vec<_> = join_all(self.iter().map(|one| self.check(one))).await;
        let failing: Vec<_> = failing.into_iter().flatten().collect();
        if !failing.is_empty() {
            let (of, error) = (self.iter().count(), failing.join("; "));
            tracing::warn!(failing = failing.len(), of, %error,
                "upstreams unavailable; only stored content of theirs is served");
        }
        join_all(self.iter().map(|one| self.run_checks_of(one, interval, began))).await;
    }

    async fn run_checks_of(&self, upstream: &Arc<Upstream>, interval: Duration, mut last: UnixMillis) {
        let mut changes = upstream.state.changes();
        loop {
            let breaker = changes.borrow_and_update().clone();
            let now = self.clock.now();
            // Once after the clock was set back: otherwise each reading would postpone the next check.
            last = last.min(now);
            let due = next_check(&breaker, last, now, interval, &upstream.limits);
            if due <= now {
                last = now;
                self.check(upstream).await;
                continue;
            }
            tokio::select! {
                () = self.clock.sleep_until(due) => {}
                // Fails only without the upstream, which this task holds.
                _ = changes.changed() => {}
                () = sleep(MAX_CLOCK_INTERVAL) => {}
            }
        }
    }

    /// Checks an upstream and returns its failure, if any.
    async fn check(&self, upstream: &Arc<Upstream>) -> Option<Arc<str>> {
        let permit = upstream.admit(&self.clock, RequestKind::Check, self.next_sequence())?;
        let limit = self.health.timeout;
        // An accepted connection says little about an upstream that does not answer, and nothing if a proxy accepts
        // it.
        let connecting = upstream.pool.forward_proxy().is_none()
            && matches!(upstream.state.breaker().last_failure(), None | Some(FailureKind::Unreachable));
        let (attempt, outcome) = match (&upstream.check, connecting) {
            (None, true) => connection_outcome(self.connect(upstream, limit).await, limit),
            (path, _) => {
                let answer = self.check_path(upstream, path.clone(), limit).await;
                let attempt = AttemptOutcome::from_result(&answer, limit);
                match answer {
                    Ok(answer) => {
                        self.drain_body(answer, limit).await;
                        let well = matches!(attempt, AttemptOutcome::Healthy);
                        (attempt, if well { CheckOutcome::Healthy } else { CheckOutcome::ServerError })
                    }
                    Err(error) => (attempt, CheckOutcome::Failed(error.kind())),
                }
            }
        };
        permit.record(&attempt);
        self.metrics.upstream.checks.with_label_values(&[&*upstream.name, outcome.as_str()]).inc();
        match attempt {
            AttemptOutcome::Failed(_, error) => Some(error),
            AttemptOutcome::Healthy | AttemptOutcome::Suspect(..) | AttemptOutcome::Unknown => None,
        }
    }

    async fn check_path(
        &self,
        upstream: &Arc<Upstream>,
        path: Option<PathAndQuery>,
        limit: Duration,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let method = if path.is_some() { Method::GET } else { Method::HEAD };
        // Identifies the relay in the manager's log.
        let mut headers = HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static("gupd"))]);
        self.instance.mark(&mut headers, Version::HTTP_11);
        let target = path.unwrap_or(PathAndQuery::from_static("/"));
        let outgoing =
            UpstreamRequest { method, ..UpstreamRequest::get(target, headers, BandwidthClass::default()) };
        let answer = self.send_once(upstream, &outgoing, &mut RequestTimeouts::single(limit)).await;
        match answer {
            // The connection had been idle for longer than the upstream keeps it.
            Err(UpstreamError::Closed { was_kept: true, .. }) => {
                self.send_once(upstream, &outgoing, &mut RequestTimeouts::single(limit)).await
            }
            answer => answer,
        }
    }

    async fn drain_body(&self, answer: UpstreamResponse, limit: Duration) {
        let mut body = answer.response.into_body();
        let reading = async {
            let mut read = 0_usize;
            while let Some(Ok(frame)) = body.frame().await
                && read <= MAX_BODY
            {
                read = read.saturating_add(frame.data_ref().map_or(0, bytes::Bytes::len));
            }
        };
        // The head is sufficient.
        let _read = timeout(limit, reading).await;
    }
}

fn connection_outcome(
    connected: Result<(), UpstreamError>,
    limit: Duration,
) -> (AttemptOutcome, CheckOutcome) {
    match connected {
        Ok(()) => (AttemptOutcome::Healthy, CheckOutcome::Healthy),
        Err(error) => (AttemptOutcome::from_error(&error, limit), CheckOutcome::Failed(error.kind())),
    }
}

/// Returns the time of the next check of an upstream that was last checked at `last`.
fn next_check(
    breaker: &Breaker,
    last: UnixMillis,
    now: UnixMillis,
    interval: Duration,
    settings: &BreakerSettings,
) -> UnixMillis {
    let interval = UnixMillis::try_from(interval.as_millis()).unwrap_or(UnixMillis::MAX);
    match (breaker.next_probe(now, settings), breaker.last_failure()) {
        (Some(wait), _) => now.saturating_add(wait),
        // Sooner than for a healthy one: the next failure may spare clients a time-out.
        (None, Some(_)) => last.saturating_add(interval.min(settings.retry)),
        (None, None) => last.saturating_add(interval),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use http::Uri;

    use super::*;
    use crate::metrics::NetMetrics;
    use crate::shape::WanLimiter;
    use crate::upstream::breaker::Ticket;
    use crate::upstream::{Connecting, Duplex, Network};
    use gupd_config::Config;
    use gupd_config::clock::Clock;

    const SETTINGS: BreakerSettings =
        BreakerSettings { failures: 2, retry: 5_000, retry_max: 60_000, slow_start: 0 };
    const INTERVAL: Duration = Duration::from_secs(10);

    fn record_failure(times: u32, at: UnixMillis) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..times {
            breaker.record_failure(&Ticket::Regular, FailureKind::Unreachable, at, &SETTINGS);
        }
        breaker
    }

    #[test]
    fn check_is_due_by_interval_failure_or_probe() {
        let next_check = |breaker: &Breaker, last, now| next_check(breaker, last, now, INTERVAL, &SETTINGS);
        assert_eq!(next_check(&Breaker::default(), 1_000, 2_000), 11_000);
        assert_eq!(next_check(&record_failure(1, 1_000), 1_000, 2_000), 6_000);
        assert_eq!(next_check(&record_failure(2, 4_000), 1_000, 5_000), 9_000);
        assert_eq!(next_check(&record_failure(2, 4_000), 1_000, 20_000), 20_000);
    }

    /// A network that accepts and counts every connection.
    #[derive(Debug, Default)]
    struct Reachable(AtomicUsize);

    impl Network for Reachable {
        fn connect(&self, _to: Uri) -> Connecting {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(Box::new(tokio::io::duplex(64).0) as Box<dyn Duplex>) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clock_set_back_delays_a_check_by_one_interval_at_most() {
        let config = Config::for_upstreams(&["http://manager"]).unwrap();
        let (clock, network) = (Clock::manual(1_000_000_000), Arc::new(Reachable::default()));
        let wan = Arc::new(WanLimiter::unlimited(&config, clock.clone()));
        let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new()).unwrap());
        let upstreams =
            Upstreams::with_network(network.clone(), &config, clock.clone(), wan, metrics).unwrap();
        let (_checks, task) = HealthChecks::new(Arc::new(upstreams));
        tokio::spawn(task.run());
        sleep(MAX_CLOCK_INTERVAL).await;
        assert_eq!(network.0.load(Ordering::Relaxed), 1);
        clock.set_back(Duration::from_secs(3_600));
        for checks in 2..5 {
            sleep(MAX_CLOCK_INTERVAL).await;
            clock.advance(config.health.interval.unwrap());
            sleep(MAX_CLOCK_INTERVAL).await;
            assert_eq!(network.0.load(Ordering::Relaxed), checks);
        }
    }

    /// A task that never waits would hold its thread, and the time-out would never be polled.
    #[tokio::test(start_paused = true)]
    async fn checks_of_no_upstream_wait_for_a_configuration() {
        let mut config = Config::for_upstreams(&["http://manager"]).unwrap();
        (config.upstreams, config.routes) = (Vec::new(), Vec::new());
        let clock = Clock::manual(1_000_000_000);
        let wan = Arc::new(WanLimiter::unlimited(&config, clock.clone()));
        let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new()).unwrap());
        let network = Arc::new(Reachable::default());
        let upstreams = Upstreams::with_network(network, &config, clock, wan, metrics).unwrap();
        let (_checks, task) = HealthChecks::new(Arc::new(upstreams));
        assert!(tokio::time::timeout(INTERVAL, task.run()).await.is_err());
    }
}
