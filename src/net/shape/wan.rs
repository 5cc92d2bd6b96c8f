//! Byte limits on transfers from upstreams: the line, each upstream, narrower ones by path or content type, and each
//! group. The module selects the limits, the priority and the owner of a transfer; `throttle` grants its bytes. Clients
//! share each limit evenly, whatever the number of their transfers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use globset::GlobMatcher;
use tokio::sync::Notify;

use super::queue::Priority;
use super::scavenger::{LineSample, Scavenger};
use super::schedule::LimitId;
use super::throttle::{FlowHandle, Pacer, Throttle};
use super::timed_limit::{SiteTime, TimedLimit, ValidityPeriod, keep_applied};
use gupd_config as config;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_config::policy::calendar::Calendar;
use gupd_config::policy::{Classification, PayloadForm};
use gupd_config::{Config, RateSchedule, WanMatch, client_network, pattern};

/// Bytes in flight at a limited rate, as time at that rate: a burst plus the round trip of most lines.
const IN_FLIGHT: Duration = Duration::from_millis(250);

/// Minimum of bytes in flight: a dozen packets, with which TCP still detects losses by itself.
const MIN_WINDOW: u64 = 16 << 10;

/// Byte limits on transfers from upstreams.
#[derive(Debug)]
pub struct WanLimiter {
    pacer: Arc<Pacer>,
    clock: Clock,
    limited: AtomicBool,
    /// Current rate of the line in bytes per second; 0 without a limit.
    line_rate: AtomicU64,
    /// The share of a line used by others as well, if the relay yields to them.
    yielded: LimitId,
    // Locked for arithmetic only.
    scavenger: Mutex<Option<Scavenger>>,
    state: Mutex<WanState>,
    reconfigured: Notify,
}

#[derive(Debug)]
struct WanState {
    calendar: Calendar,
    burst: Duration,
    line: TimedLimit,
    // By name. A removed entry stays without limit, because its transfers may still run.
    upstreams: HashMap<String, TimedLimit>,
    groups: HashMap<String, TimedLimit>,
    named: HashMap<String, TimedLimit>,
    /// Rules that select a named limit, in the order in which they are tried.
    rules: Vec<(WanRule, LimitId)>,
}

#[derive(Debug)]
enum WanRule {
    Pattern(GlobMatcher),
    ContentType(String),
}

/// Purpose of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// A client waits for the bytes.
    Client,
    /// Validation of a stored response.
    Revalidation,
    /// Content that clients have not requested yet.
    Prefetch,
    /// Replacement of damaged content.
    Repair,
}

/// Limits and priority that all transfers of one object share. Clones are the same class. The default passes no
/// narrower limit and serves a waiting client.
#[derive(Clone, Debug, Default)]
pub struct BandwidthClass(Option<Arc<ClassShared>>);

#[derive(Debug)]
struct ClassShared {
    pacer: Arc<Pacer>,
    narrower: Vec<LimitId>,
    line: LimitId,
    form: PayloadForm,
    // Locked to read and to change priorities and owners, which is arithmetic.
    transfers: Mutex<ClassTransfers>,
}

/// The running transfers of one object, and those for which they run.
#[derive(Debug)]
struct ClassTransfers {
    purpose: Purpose,
    /// Client that the bytes count against; `None` for the relay itself.
    owner: Option<IpAddr>,
    flows: Vec<Weak<FlowHandle>>,
}

impl WanLimiter {
    /// Creates the limits of a configuration.
    pub fn new(config: &Config, clock: Clock) -> Self {
        let pacer = Pacer::new();
        let state = WanState {
            calendar: Calendar::new(config.site.time_zone.clone()),
            burst: config.wan.burst,
            line: TimedLimit::new(&pacer),
            upstreams: HashMap::new(),
            groups: HashMap::new(),
            named: HashMap::new(),
            rules: Vec::new(),
        };
        let wan = Self {
            yielded: pacer.add_limit(None, Duration::ZERO),
            pacer,
            clock,
            limited: AtomicBool::new(false),
            line_rate: AtomicU64::new(0),
            scavenger: Mutex::new(None),
            state: Mutex::new(state),
            reconfigured: Notify::new(),
        };
        wan.reconfigure(config);
        wan
    }

    /// Applies other limits, also to running transfers.
    pub fn reconfigure(&self, config: &Config) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.calendar = Calendar::new(config.site.time_zone.clone());
        state.burst = config.wan.burst;
        state.line.set(&config.wan.limit);
        self.set(&mut state.upstreams, config.upstreams.iter().map(|u| (&u.name, &u.limit)));
        self.set(&mut state.groups, config.groups.iter().map(|group| (&group.name, &group.wan_limit)));
        self.set(&mut state.named, config.wan_limits.iter().map(|limit| (&limit.name, &limit.limit)));
        let rules = config.wan_limits.iter();
        state.rules = rules
            .filter_map(|limit| Some((WanRule::compile(limit)?, state.named.get(&limit.name)?.id)))
            .collect();
        let yields = config.wan.yield_to_others;
        let limited = yields || state.all_limits().any(|limit| !limit.is_unlimited());
        drop(guard);
        let mut scavenger = self.scavenger();
        if scavenger.is_some() != yields {
            *scavenger = yields.then(|| Scavenger::new(self.pacer.now()));
        }
        drop(scavenger);
        let _until = self.apply();
        self.limited.store(limited, Ordering::Relaxed);
        self.reconfigured.notify_one();
    }

    /// Returns true if any limit exists at any time of the week.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// Creates an unlimited instance, for a process that is not a relay. It needs no [`WanLimiter::run`].
    pub fn unlimited(config: &Config, clock: Clock) -> Self {
        let mut config = config.clone();
        config.wan.limit = RateSchedule::unlimited();
        config.wan.yield_to_others = false;
        config.upstreams.iter_mut().for_each(|upstream| upstream.limit = RateSchedule::unlimited());
        config.wan_limits.clear();
        config.groups.clear();
        Self::new(&config, clock)
    }

    /// Returns the bandwidth class of an object. `path` is normalized; `client` is the client that the transfer serves and its
    /// group, if any.
    pub fn bandwidth_class(
        &self,
        path: &str,
        classification: &Classification,
        client: Option<(IpAddr, &str)>,
        purpose: Purpose,
    ) -> BandwidthClass {
        if !self.is_limited() {
            return BandwidthClass::default();
        }
        let state = self.state();
        let folded = pattern::fold(path);
        let matches = |(rule, id): &(WanRule, LimitId)| {
            rule.matches(&folded, &classification.content_type).then_some(*id)
        };
        let named = state.rules.iter().find_map(matches);
        let group = client.and_then(|(_, group)| state.groups.get(group)).map(|limit| limit.id);
        let owner = client.map(|(client, _)| client_network(client));
        BandwidthClass(Some(Arc::new(ClassShared {
            pacer: self.pacer.clone(),
            narrower: named.into_iter().chain(group).collect(),
            line: state.line.id,
            form: classification.form,
            transfers: Mutex::new(ClassTransfers { purpose, owner, flows: Vec::new() }),
        })))
    }

    /// Returns the throttle of one transfer from `upstream`. Without a class the bytes are a request or a response head of
    /// `client`, which are small and go first.
    pub fn throttle(
        &self,
        upstream: &str,
        bandwidth: Option<&BandwidthClass>,
        client: Option<IpAddr>,
    ) -> Throttle {
        let common = bandwidth.and_then(|bandwidth| bandwidth.0.as_deref());
        let state = self.state();
        let of_upstream = state.upstreams.get(upstream).map(|limit| limit.id);
        let narrower = common.map_or(&[][..], |common| &common.narrower);
        let path: Vec<_> =
            narrower.iter().copied().chain(of_upstream).chain([state.line.id, self.yielded]).collect();
        drop(state);
        let flow = self.pacer.join(None, &path);
        match (bandwidth, common) {
            (None, _) => {
                flow.set_priority(Priority::ClientDelta);
                flow.set_owner(client.map(client_network));
            }
            (_, Some(common)) => common.enter(&flow),
            (_, None) => {}
        }
        Throttle::new(flow)
    }

    /// Records a measurement of the line by a connection to an upstream.
    pub(crate) fn observe(&self, sample: LineSample) {
        let changed = self.scavenger().as_mut().is_some_and(|y| y.observe(sample, self.pacer.now()));
        if changed {
            let state = self.state();
            self.apply_yield(&state, self.clock.now());
        }
    }

    /// Returns the bytes a second that all upstreams together may send now; 0 without a limit.
    pub fn line_rate(&self) -> u64 {
        self.line_rate.load(Ordering::Relaxed)
    }

    /// Returns the receive window of a connection with this round trip; `None` without a limit on the line.
    ///
    /// Bytes that a limit holds back then wait at the upstream and not in this machine's buffers, which would take a
    /// minute's bytes of an 8 KiB/s line at once.
    pub(crate) fn window(&self, round_trip: Option<Duration>) -> Option<u64> {
        let rate = self.line_rate.load(Ordering::Relaxed);
        let time = round_trip.unwrap_or_default().saturating_mul(2).max(IN_FLIGHT);
        let bytes = (rate as f64 * time.as_secs_f64()) as u64;
        let window = self.scavenger().as_ref().map(Scavenger::window);
        (rate > 0).then_some(bytes.min(window.unwrap_or(u64::MAX)).max(MIN_WINDOW))
    }

    /// Grants bytes and applies the limits of the time of the week. Never returns.
    pub async fn run(&self) {
        tokio::select! {
            () = self.pacer.run() => {}
            () = keep_applied(&self.clock, &self.reconfigured, || self.apply()) => {}
        }
    }

    fn set<'a>(
        &self,
        limits: &mut HashMap<String, TimedLimit>,
        configured: impl Iterator<Item = (&'a String, &'a RateSchedule)>,
    ) {
        limits.values_mut().for_each(|limit| limit.set(&RateSchedule::unlimited()));
        for (name, limit) in configured {
            limits.entry(name.clone()).or_insert_with(|| TimedLimit::new(&self.pacer)).set(limit);
        }
    }

    /// Sets every limit to its current rate.
    fn apply(&self) -> ValidityPeriod {
        let state = self.state();
        let now = self.clock.now();
        let moment = SiteTime { calendar: &state.calendar, now, burst: state.burst };
        let holds =
            ValidityPeriod::new(now, state.all_limits().map(|limit| limit.apply(&self.pacer, &moment)));
        self.apply_yield(&state, now);
        holds
    }

    /// Sets the share of the line that the relay takes while it yields, and the line rate, which bounds bytes in flight.
    fn apply_yield(&self, state: &WanState, now: UnixMillis) {
        let moment = SiteTime { calendar: &state.calendar, now, burst: state.burst };
        let yielded = self.scavenger().as_ref().map(Scavenger::rate);
        self.pacer.set_rate(self.yielded, yielded, state.burst);
        let least = state.line.rate(&moment).into_iter().chain(yielded).min();
        self.line_rate.store(least.unwrap_or(0), Ordering::Relaxed);
    }

    fn scavenger(&self) -> MutexGuard<'_, Option<Scavenger>> {
        self.scavenger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, WanState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WanState {
    fn all_limits(&self) -> impl Iterator<Item = &TimedLimit> {
        let by_name = [&self.upstreams, &self.groups, &self.named];
        by_name.into_iter().flat_map(HashMap::values).chain([&self.line])
    }
}

impl WanRule {
    /// Returns `None` for a pattern that does not compile; [`Config::load`] refuses those.
    fn compile(limit: &config::WanLimit) -> Option<Self> {
        match &limit.matches {
            WanMatch::Pattern(text) => {
                pattern::compile(text).ok().map(|glob| Self::Pattern(glob.compile_matcher()))
            }
            WanMatch::ContentType(name) => Some(Self::ContentType(name.clone())),
        }
    }

    fn matches(&self, folded: &str, content_type: &str) -> bool {
        match self {
            Self::Pattern(glob) => glob.is_match(folded),
            Self::ContentType(name) => name == content_type,
        }
    }
}

impl BandwidthClass {
    /// Returns true if the bytes pass any limit.
    pub fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// Changes the purpose, also of running transfers.
    pub fn set_purpose(&self, purpose: Purpose) {
        let Some(common) = &self.0 else { return };
        let mut transfers = common.transfers();
        if std::mem::replace(&mut transfers.purpose, purpose) != purpose {
            let priority = common.priority(purpose);
            transfers.running().for_each(|flow| flow.set_priority(priority));
        }
    }

    /// Changes the clients that wait for the bytes, also of running transfers. The bytes count against the one with the
    /// fewest other transfers: an object that a greedy client asked for first is no slower for the others.
    pub fn set_clients(&self, clients: impl IntoIterator<Item = IpAddr>) {
        let Some(common) = &self.0 else { return };
        let mut transfers = common.transfers();
        let running = transfers.running().count() as u64;
        let candidates = clients.into_iter().map(client_network);
        let load = |client: &IpAddr| {
            let is_owner = transfers.owner == Some(*client);
            let flows = common.pacer.flows_of(*client, common.line);
            // Among equals the present owner stays.
            (if is_owner { flows.saturating_sub(running) } else { flows }, !is_owner)
        };
        let Some(owner) = candidates.min_by_key(load) else { return };
        if transfers.owner.replace(owner) != Some(owner) {
            transfers.running().for_each(|flow| flow.set_owner(Some(owner)));
        }
    }
}

impl ClassShared {
    fn enter(&self, flow: &Arc<FlowHandle>) {
        let mut transfers = self.transfers();
        transfers.flows.retain(|flow| flow.strong_count() > 0);
        transfers.flows.push(Arc::downgrade(flow));
        flow.set_priority(self.priority(transfers.purpose));
        flow.set_owner(transfers.owner);
    }

    fn priority(&self, purpose: Purpose) -> Priority {
        match (purpose, self.form) {
            (Purpose::Client, PayloadForm::Delta) => Priority::ClientDelta,
            (Purpose::Client, _) => Priority::Client,
            (Purpose::Revalidation, _) => Priority::Revalidation,
            (Purpose::Prefetch, PayloadForm::Delta) => Priority::PrefetchDelta,
            (Purpose::Prefetch, _) => Priority::Prefetch,
            (Purpose::Repair, _) => Priority::Repair,
        }
    }

    fn transfers(&self) -> MutexGuard<'_, ClassTransfers> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClassTransfers {
    fn running(&self) -> impl Iterator<Item = Arc<FlowHandle>> {
        self.flows.iter().filter_map(Weak::upgrade)
    }
}
