//! Active checks: one task that asks every upstream, while it is well, whether it still is, and, while it is not, whether
//! it is back. Owns when a check is due and what it asks; what follows from it is the breaker's to say. While this task
//! runs no client's request is spent on finding out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::breaker::{Breaker, Fault, Limits};
use super::error::Verdict;
use super::send::Patience;
use super::{
    RequestBody, Upstream, UpstreamError, UpstreamFailure, UpstreamRequest, UpstreamResponse, Upstreams,
};
use crate::shape::BandwidthClass;
use gupd_config::clock::UnixMillis;

/// The longest time between two looks at the wall clock, which may be set to any other time.
const LOOK: Duration = Duration::from_secs(30);

/// Bytes of a check's body that are read so that its connection can be kept. A longer one costs a connection.
const BODY: usize = 4 << 10;

/// Outcome of a check, in metrics.
#[derive(Clone, Copy)]
enum CheckOutcome {
    Well,
    Failed(UpstreamFailure),
    /// An answer by which the upstream is not well.
    ServerError,
}

impl CheckOutcome {
    fn all() -> impl Iterator<Item = Self> {
        let failures = UpstreamFailure::OF_UPSTREAM.map(Self::Failed);
        [Self::Well, Self::ServerError].into_iter().chain(failures)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Failed(failure) => failure.as_str(),
            Self::ServerError => "server-error",
        }
    }
}

/// Whose upstreams are checked; dropped, it ends the task.
#[derive(Debug)]
pub struct HealthChecks {
    upstreams: watch::Sender<Arc<Upstreams>>,
}

/// The checks themselves, to be run for as long as the relay does.
#[derive(Debug)]
pub struct HealthCheckTask {
    upstreams: watch::Receiver<Arc<Upstreams>>,
}

impl HealthChecks {
    /// A handle, and the task to be run for it.
    pub fn new(upstreams: Arc<Upstreams>) -> (Self, HealthCheckTask) {
        upstreams.show();
        let (sender, upstreams) = watch::channel(upstreams);
        (Self { upstreams: sender }, HealthCheckTask { upstreams })
    }

    /// The upstreams in force.
    pub fn upstreams(&self) -> Arc<Upstreams> {
        self.upstreams.borrow().clone()
    }

    /// Checks these from now on, in place of those before.
    pub fn reconfigure(&self, upstreams: Arc<Upstreams>) {
        let before = self.upstreams.send_replace(upstreams.clone());
        let metrics = &upstreams.metrics;
        let lists = [
            (&before.list, &upstreams.list, &metrics.upstream_healthy),
            (&before.peers, &upstreams.peers, &metrics.peer_healthy),
        ];
        for (before, now, healthy) in lists {
            for gone in before.iter().filter(|old| now.iter().all(|new| new.name != old.name)) {
                // Nobody should be told of one that is not there any more. There is a series, or nothing to remove.
                let _ = healthy.remove_label_values(&[&*gone.name]);
            }
        }
        upstreams.show();
    }
}

impl HealthCheckTask {
    /// Checks, until the handle is dropped.
    pub async fn run(mut self) {
        loop {
            let upstreams = self.upstreams.borrow_and_update().clone();
            let interval = upstreams.health.interval;
            let checking = async {
                match interval {
                    Some(interval) => upstreams.keep_checked(interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = checking => {}
                changed = self.upstreams.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// No client's request is a probe while there is one.
struct Checked<'a>(&'a AtomicBool);

impl<'a> Checked<'a> {
    fn begin(is_checked: &'a AtomicBool) -> Self {
        is_checked.store(true, Ordering::Relaxed);
        Self(is_checked)
    }
}

impl Drop for Checked<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Upstreams {
    fn show(&self) {
        self.peers.iter().for_each(|peer| peer.show_in(&self.metrics.peer_healthy));
        for upstream in self.iter() {
            upstream.show_in(&self.metrics.upstream_healthy);
            for outcome in CheckOutcome::all() {
                self.metrics.upstream_checks.with_label_values(&[&*upstream.name, outcome.as_str()]);
            }
        }
    }

    async fn keep_checked(&self, interval: Duration) {
        let _checked = Checked::begin(&self.is_checked);
        let began = self.clock.now();
        let silent: Vec<_> = join_all(self.iter().map(|one| self.check(one))).await;
        let silent: Vec<_> = silent.into_iter().flatten().collect();
        if !silent.is_empty() {
            let (of, why) = (self.iter().count(), silent.join("; "));
            tracing::warn!(silent = silent.len(), of, %why,
                "upstreams do not answer; what is stored is served, and of theirs all else fails until they do");
        }
        join_all(self.iter().map(|one| self.keep_one_checked(one, interval, began))).await;
    }

    async fn keep_one_checked(&self, upstream: &Arc<Upstream>, interval: Duration, mut last: UnixMillis) {
        let mut changes = upstream.standing.changes();
        loop {
            let breaker = changes.borrow_and_update().clone();
            let now = self.clock.now();
            // Once, when the clock was set back: else the next check would move ahead with every look at it.
            last = last.min(now);
            let due = due(&breaker, last, now, interval, &upstream.limits);
            if due <= now {
                last = now;
                self.check(upstream).await;
                continue;
            }
            tokio::select! {
                () = self.clock.sleep_until(due) => {}
                // Only if the upstream were gone, which this task has.
                _ = changes.changed() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Checks an upstream now, and says what is wrong with it.
    async fn check(&self, upstream: &Arc<Upstream>) -> Option<Arc<str>> {
        let permit = upstream.admit(&self.clock, true, self.next_turn())?;
        let patience = self.health.timeout;
        // That it takes connections says little of one that does not answer on them, and if it is a proxy that takes
        // them, nothing.
        let connecting = upstream.pool.asked_in_its_place().is_none()
            && matches!(upstream.standing.breaker().fault(), None | Some(Fault::Unreachable));
        let (verdict, outcome) = match (&upstream.check, connecting) {
            (None, true) => told(self.connect(upstream, patience).await, patience),
            (path, _) => {
                let answer = self.check_path(upstream, path.clone(), patience).await;
                let verdict = Verdict::of(&answer, patience);
                match answer {
                    Ok(answer) => {
                        self.read_briefly(answer, patience).await;
                        let well = matches!(verdict, Verdict::Well);
                        (verdict, if well { CheckOutcome::Well } else { CheckOutcome::ServerError })
                    }
                    Err(error) => (verdict, CheckOutcome::Failed(error.kind())),
                }
            }
        };
        permit.settle(&verdict);
        self.metrics.upstream_checks.with_label_values(&[&*upstream.name, outcome.as_str()]).inc();
        match verdict {
            Verdict::Failed(_, why) => Some(why),
            Verdict::Well | Verdict::Suspect(_) | Verdict::Unknown => None,
        }
    }

    async fn check_path(
        &self,
        upstream: &Arc<Upstream>,
        path: Option<PathAndQuery>,
        patience: Duration,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let method = if path.is_some() { Method::GET } else { Method::HEAD };
        // Who reads the manager's log wants to know who asks.
        let mut headers = HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static("gupd"))]);
        self.instance.mark(&mut headers, Version::HTTP_11);
        let outgoing = UpstreamRequest {
            method,
            target: path.unwrap_or(PathAndQuery::from_static("/")),
            headers,
            body: RequestBody::Empty,
            bandwidth: BandwidthClass::default(),
            current_upstream: super::CurrentUpstream::default(),
        };
        let answer = self.send_once(upstream, &outgoing, &mut Patience::of_one(patience)).await;
        match answer {
            // It had been idle for longer than the upstream keeps connections.
            Err(UpstreamError::Closed { kept: true, .. }) => {
                self.send_once(upstream, &outgoing, &mut Patience::of_one(patience)).await
            }
            answer => answer,
        }
    }

    async fn read_briefly(&self, answer: UpstreamResponse, patience: Duration) {
        let received = self.metrics.upstream_bytes.with_label_values(&[&*answer.upstream.name]);
        let mut body = answer.response.into_body();
        let reading = async {
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await
                && read <= BODY
            {
                let bytes = frame.data_ref().map_or(0, bytes::Bytes::len);
                received.inc_by(bytes as u64);
                read += bytes;
            }
        };
        // The head has told what is to be known.
        let _read = timeout(patience, reading).await;
    }
}

fn told(connected: Result<(), UpstreamError>, patience: Duration) -> (Verdict, CheckOutcome) {
    match connected {
        Ok(()) => (Verdict::Well, CheckOutcome::Well),
        Err(error) => (Verdict::of_error(&error, patience), CheckOutcome::Failed(error.kind())),
    }
}

/// When an upstream that was last checked at `last` is to be checked again.
fn due(
    breaker: &Breaker,
    last: UnixMillis,
    now: UnixMillis,
    interval: Duration,
    limits: &Limits,
) -> UnixMillis {
    let interval = UnixMillis::try_from(interval.as_millis()).unwrap_or(UnixMillis::MAX);
    match (breaker.next_probe(now, limits), breaker.fault()) {
        (Some(wait), _) => now.saturating_add(wait),
        // Sooner than a healthy one: the next failure may be the one that keeps clients from waiting for it.
        (None, Some(_)) => last.saturating_add(interval.min(limits.retry)),
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

    const LIMITS: Limits = Limits { failures: 2, retry: 5_000, retry_max: 60_000, slow_start: 0 };
    const INTERVAL: Duration = Duration::from_secs(10);

    fn failed(times: u32, at: UnixMillis) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..times {
            breaker.failed(&Ticket::Regular, Fault::Unreachable, at, &LIMITS);
        }
        breaker
    }

    #[test]
    fn checks_come_at_the_interval_sooner_after_a_failure_and_at_the_breakers_moment() {
        let due = |breaker: &Breaker, last, now| due(breaker, last, now, INTERVAL, &LIMITS);
        assert_eq!(due(&Breaker::default(), 1_000, 2_000), 11_000);
        assert_eq!(due(&failed(1, 1_000), 1_000, 2_000), 6_000);
        assert_eq!(due(&failed(2, 4_000), 1_000, 5_000), 9_000);
        assert_eq!(due(&failed(2, 4_000), 1_000, 20_000), 20_000);
    }

    /// A network on which every connection is made, and counted.
    #[derive(Debug, Default)]
    struct Reachable(AtomicUsize);

    impl Network for Reachable {
        fn connect(&self, _to: Uri) -> Connecting {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(Box::new(tokio::io::duplex(64).0) as Box<dyn Duplex>) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_delays_no_check_by_more_than_the_interval() {
        let config = Config::for_upstreams(&["http://manager"]).unwrap();
        let (clock, network) = (Clock::manual(1_000_000_000), Arc::new(Reachable::default()));
        let wan = Arc::new(WanLimiter::unlimited(&config, clock.clone()));
        let metrics = Arc::new(NetMetrics::register(&prometheus::Registry::new()).unwrap());
        let upstreams =
            Upstreams::with_network(network.clone(), &config, clock.clone(), wan, metrics).unwrap();
        let (_checks, task) = HealthChecks::new(Arc::new(upstreams));
        tokio::spawn(task.run());
        sleep(LOOK).await;
        assert_eq!(network.0.load(Ordering::Relaxed), 1);
        clock.set_back(Duration::from_secs(3_600));
        for checks in 2..5 {
            sleep(LOOK).await;
            clock.advance(config.health.interval.unwrap());
            sleep(LOOK).await;
            assert_eq!(network.0.load(Ordering::Relaxed), checks);
        }
    }
}
