//! The limits on what comes from upstreams: the line, each upstream, narrower ones by path, each group. Owns which
//! limits a transfer's bytes pass and how urgent they are; relies on `pace` for turns.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use globset::GlobMatcher;
use tokio::sync::Notify;

use super::queue::Priority;
use super::scavenger::{LineSample, Yielding};
use super::schedule::LimitId;
use super::throttle::{Flow, Pacer, Throttle};
use super::timed_limit::{Holds, Moment, Timed, follow};
use gupd_config as config;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::policy::calendar::Calendar;
use gupd_config::policy::{Classification, PayloadForm};
use gupd_config::{Config, RateSchedule, WanMatch, pattern};

/// What may be on its way at a limited rate, in time at that rate: a burst, and the round trip of most lines.
const AHEAD: Duration = Duration::from_millis(250);

/// The least that may be on its way: a dozen packets, with which TCP still notices losses by itself.
const LEAST_WINDOW: u64 = 16 << 10;

/// The limits on what comes from upstreams.
#[derive(Debug)]
pub struct WanLimiter {
    pacer: Arc<Pacer>,
    clock: Clock,
    limited: AtomicBool,
    /// Bytes a second that the line may have now; 0 without a limit.
    line_rate: AtomicU64,
    /// What the relay takes of a line that others use, if it yields to them.
    spare: LimitId,
    // Held for arithmetic.
    yielding: Mutex<Option<Yielding>>,
    state: Mutex<State>,
    reconfigured: Notify,
}

#[derive(Debug)]
struct State {
    calendar: Calendar,
    burst: Duration,
    line: Timed,
    // By name. One that is no longer configured stays, unlimited: transfers of it may still run.
    upstreams: HashMap<String, Timed>,
    groups: HashMap<String, Timed>,
    named: HashMap<String, Timed>,
    /// What the named ones are for, in the order they are tried.
    rules: Vec<(Rule, LimitId)>,
}

#[derive(Debug)]
enum Rule {
    Pattern(GlobMatcher),
    ContentType(String),
}

/// What bytes are fetched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// A client waits for them.
    Client,
    /// To see whether what is stored is still good.
    Revalidation,
    /// Clients will want them.
    Prefetch,
    /// To mend what rotted.
    Repair,
}

/// What one object's transfers have in common: the narrower limits that they pass, and how urgent they are. Clones are
/// the same lane. The default passes no narrower limit, for a client that waits.
#[derive(Clone, Debug, Default)]
pub struct BandwidthClass(Option<Arc<Common>>);

#[derive(Debug)]
struct Common {
    narrower: Vec<LimitId>,
    form: PayloadForm,
    // Held to look and to change priorities, which is arithmetic.
    transfers: Mutex<(Purpose, Vec<Weak<Flow>>)>,
}

impl WanLimiter {
    /// The limits of a configuration.
    pub fn new(config: &Config, clock: Clock) -> Self {
        let pacer = Pacer::new();
        let state = State {
            calendar: Calendar::new(config.site.time_zone.clone()),
            burst: config.wan.burst,
            line: Timed::new(&pacer),
            upstreams: HashMap::new(),
            groups: HashMap::new(),
            named: HashMap::new(),
            rules: Vec::new(),
        };
        let wan = Self {
            spare: pacer.add_limit(None, Duration::ZERO),
            pacer,
            clock,
            limited: AtomicBool::new(false),
            line_rate: AtomicU64::new(0),
            yielding: Mutex::new(None),
            state: Mutex::new(state),
            reconfigured: Notify::new(),
        };
        wan.reconfigure(config);
        wan
    }

    /// Other limits from now on, for running transfers too.
    pub fn reconfigure(&self, config: &Config) {
        let mut state = self.state();
        let state_now = &mut *state;
        state_now.calendar = Calendar::new(config.site.time_zone.clone());
        state_now.burst = config.wan.burst;
        state_now.line.set(&config.wan.limit);
        self.set(&mut state_now.upstreams, config.upstreams.iter().map(|u| (&u.name, &u.limit)));
        self.set(&mut state_now.groups, config.groups.iter().map(|group| (&group.name, &group.wan_limit)));
        self.set(&mut state_now.named, config.wan_limits.iter().map(|limit| (&limit.name, &limit.limit)));
        let rules = config.wan_limits.iter();
        state_now.rules = rules
            .filter_map(|limit| Some((Rule::of(limit)?, state_now.named.get(&limit.name)?.id)))
            .collect();
        let yields = config.wan.yield_to_others;
        let limited = yields || state.timed().any(|timed| !timed.is_unlimited());
        drop(state);
        let mut yielding = self.yielding();
        if yielding.is_some() != yields {
            *yielding = yields.then(|| Yielding::new(self.pacer.now()));
        }
        drop(yielding);
        let _until = self.apply();
        self.limited.store(limited, Ordering::Relaxed);
        self.reconfigured.notify_one();
    }

    /// Whether there is any limit at any time.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// No limits at all, for a process that is no relay. Needs no [`WanLimiter::run`].
    pub fn unlimited(config: &Config, clock: Clock) -> Self {
        let mut config = config.clone();
        config.wan.limit = RateSchedule::unlimited();
        config.wan.yield_to_others = false;
        config.upstreams.iter_mut().for_each(|upstream| upstream.limit = RateSchedule::unlimited());
        config.wan_limits.clear();
        config.groups.clear();
        Self::new(&config, clock)
    }

    /// The lane of an object: `path` is normalised, and `group` that of the client it is fetched for, if it is for one.
    pub fn bandwidth_class(
        &self,
        path: &str,
        classified: &Classification,
        group: Option<&str>,
        purpose: Purpose,
    ) -> BandwidthClass {
        if !self.is_limited() {
            return BandwidthClass::default();
        }
        let state = self.state();
        let folded = pattern::fold(path);
        let fits = |(rule, id): &(Rule, LimitId)| rule.fits(&folded, &classified.content_type).then_some(*id);
        let named = state.rules.iter().find_map(fits);
        let group = group.and_then(|group| state.groups.get(group)).map(|timed| timed.id);
        let narrower = named.into_iter().chain(group).collect();
        let (form, transfers) = (classified.form, Mutex::new((purpose, Vec::new())));
        BandwidthClass(Some(Arc::new(Common { narrower, form, transfers })))
    }

    /// What one transfer from `upstream` may send; without a lane it is a head, which is small and goes first.
    pub fn throttle(&self, upstream: &str, bandwidth: Option<&BandwidthClass>) -> Throttle {
        let common = bandwidth.and_then(|bandwidth| bandwidth.0.as_deref());
        let state = self.state();
        let of_upstream = state.upstreams.get(upstream).map(|timed| timed.id);
        let narrower = common.map_or(&[][..], |common| &common.narrower);
        let path: Vec<_> =
            narrower.iter().copied().chain(of_upstream).chain([state.line.id, self.spare]).collect();
        drop(state);
        let flow = self.pacer.join(None, &path);
        match (bandwidth, common) {
            (None, _) => flow.set_priority(Priority::WaitedDelta),
            (_, Some(common)) => common.enter(&flow),
            (_, None) => {}
        }
        Throttle::new(flow)
    }

    /// Takes in what a connection to an upstream has seen of the line.
    pub(crate) fn observe(&self, sample: LineSample) {
        let changed = self.yielding().as_mut().is_some_and(|y| y.observe(sample, self.pacer.now()));
        if changed {
            let state = self.state();
            self.steer(&state, self.clock.now());
        }
    }

    /// Bytes that an upstream may send ahead on a connection of this round trip, so that what the limits hold up waits
    /// there and not in this machine's buffers: of a line that carries 8 KiB/s those would take a minute's bytes at
    /// once. `None` without a limit on the line.
    pub(crate) fn window(&self, round_trip: Option<Duration>) -> Option<u64> {
        let rate = self.line_rate.load(Ordering::Relaxed);
        let time = (round_trip.unwrap_or_default() * 2).max(AHEAD);
        let bytes = (rate as f64 * time.as_secs_f64()) as u64;
        let yielded = self.yielding().as_ref().map(Yielding::window);
        (rate > 0).then_some(bytes.min(yielded.unwrap_or(u64::MAX)).max(LEAST_WINDOW))
    }

    /// Gives turns and keeps the limits at what the time of the week says, for ever.
    pub async fn run(&self) {
        tokio::select! {
            () = self.pacer.run() => {}
            () = follow(&self.clock, &self.reconfigured, || self.apply()) => {}
        }
    }

    fn set<'a>(
        &self,
        limits: &mut HashMap<String, Timed>,
        configured: impl Iterator<Item = (&'a String, &'a RateSchedule)>,
    ) {
        limits.values_mut().for_each(|timed| timed.set(&RateSchedule::unlimited()));
        for (name, limit) in configured {
            limits.entry(name.clone()).or_insert_with(|| Timed::new(&self.pacer)).set(limit);
        }
    }

    /// Sets every limit to what it is now.
    fn apply(&self) -> Holds {
        let state = self.state();
        let now = self.clock.now();
        let moment = Moment { calendar: &state.calendar, now, burst: state.burst };
        let holds = Holds::new(now, state.timed().map(|timed| timed.apply(&self.pacer, &moment)));
        self.steer(&state, now);
        holds
    }

    /// Sets what the line may have of what the relay yields, and what may be on its way.
    fn steer(&self, state: &State, now: UnixMillis) {
        let moment = Moment { calendar: &state.calendar, now, burst: state.burst };
        let spare = self.yielding().as_ref().map(Yielding::rate);
        self.pacer.set_rate(self.spare, spare, state.burst);
        let least = state.line.rate(&moment).into_iter().chain(spare).min();
        self.line_rate.store(least.unwrap_or(0), Ordering::Relaxed);
    }

    fn yielding(&self) -> MutexGuard<'_, Option<Yielding>> {
        self.yielding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn timed(&self) -> impl Iterator<Item = &Timed> {
        let by_name = [&self.upstreams, &self.groups, &self.named];
        by_name.into_iter().flat_map(HashMap::values).chain([&self.line])
    }
}

impl Rule {
    /// `None` for a pattern that does not compile, which [`Config::load`] refuses.
    fn of(limit: &config::WanLimit) -> Option<Self> {
        match &limit.matches {
            WanMatch::Pattern(text) => {
                pattern::compile(text).ok().map(|glob| Self::Pattern(glob.compile_matcher()))
            }
            WanMatch::ContentType(name) => Some(Self::ContentType(name.clone())),
        }
    }

    fn fits(&self, folded: &str, content_type: &str) -> bool {
        match self {
            Self::Pattern(glob) => glob.is_match(folded),
            Self::ContentType(name) => name == content_type,
        }
    }
}

impl BandwidthClass {
    /// What it is for from now on, also for transfers that run.
    pub fn set_purpose(&self, purpose: Purpose) {
        let Some(common) = &self.0 else { return };
        let mut transfers = common.transfers();
        if std::mem::replace(&mut transfers.0, purpose) != purpose {
            let priority = common.priority(purpose);
            transfers.1.iter().filter_map(Weak::upgrade).for_each(|flow| flow.set_priority(priority));
        }
    }
}

impl Common {
    fn enter(&self, flow: &Arc<Flow>) {
        let mut transfers = self.transfers();
        transfers.1.retain(|flow| flow.strong_count() > 0);
        transfers.1.push(Arc::downgrade(flow));
        flow.set_priority(self.priority(transfers.0));
    }

    fn priority(&self, purpose: Purpose) -> Priority {
        match (purpose, self.form) {
            (Purpose::Client, PayloadForm::Delta) => Priority::WaitedDelta,
            (Purpose::Client, _) => Priority::Waited,
            (Purpose::Revalidation, _) => Priority::Revalidation,
            (Purpose::Prefetch, PayloadForm::Delta) => Priority::PrefetchDelta,
            (Purpose::Prefetch, _) => Priority::Prefetch,
            (Purpose::Repair, _) => Priority::Repair,
        }
    }

    fn transfers(&self) -> MutexGuard<'_, (Purpose, Vec<Weak<Flow>>)> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{sleep, timeout};

    use super::*;
    use gupd_config::Overrides;

    fn config(settings: &[(&str, &str)]) -> Config {
        let always = [("GUPD_UPSTREAM", "http://manager"), ("GUPD_SITE_TIME_ZONE", "UTC")];
        let env =
            always.iter().chain(settings).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(&Overrides::default(), None, env).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_a_reload_brought_ends_when_it_says() {
        let clock = Clock::manual(0);
        let wan = Arc::new(WanLimiter::new(&config(&[]), clock.clone()));
        let running = Arc::clone(&wan);
        let task = tokio::spawn(async move { running.run().await });
        sleep(Duration::from_secs(5)).await;
        wan.reconfigure(&config(&[("GUPD_WAN_LIMIT", "1KiB/s 00:00-07:00")]));
        let mut pace = wan.throttle("", None);
        let mut left = 1 << 20;
        let mut send = std::pin::pin!(poll_fn(|cx| {
            while left > 0 {
                let bytes = std::task::ready!(pace.poll_grant(cx, left));
                pace.consume(bytes);
                left -= bytes;
            }
            std::task::Poll::Ready(())
        }));
        assert!(timeout(Duration::from_secs(60), &mut send).await.is_err());
        clock.advance(Duration::from_secs(7 * 3_600));
        timeout(Duration::from_secs(60), send).await.expect("it is no limit any more");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_nothing_needs_to_run() {
        let config = config(&[("GUPD_WAN_LIMIT", "1KiB/s"), ("GUPD_WAN_YIELD_TO_OTHERS", "true")]);
        let wan = WanLimiter::unlimited(&config, Clock::manual(0));
        assert!(!wan.is_limited() && wan.window(None).is_none());
        let mut pace = wan.throttle("", None);
        for _ in 0..100 {
            let passes = poll_fn(|cx| pace.poll_grant(cx, 1 << 20));
            let bytes = timeout(Duration::from_secs(60), passes).await.expect("nobody gives turns");
            pace.consume(bytes);
        }
    }
}
