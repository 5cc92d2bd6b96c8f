//! Byte limits toward clients: in total, by group and by client. The module selects the limits that a client's bytes
//! pass; `throttle` grants them. Without limits, the default, a response costs one load of a flag.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::throttle::{FlowHandle, Pacer, Throttle};
use super::timed_limit::{SiteTime, TimedLimit, ValidityPeriod, keep_applied};
use gupd_config as config;
use gupd_config::clock::Clock;
use gupd_config::policy::calendar::Calendar;
use gupd_config::{Config, RateSchedule, client_network};

/// Number of clients at which idle ones are removed first; later, whenever the number has doubled.
const IDLE_CHECK: usize = 1_024;

/// Byte limits toward clients.
#[derive(Debug)]
pub struct LanLimiter {
    pacer: Arc<Pacer>,
    clock: Clock,
    limited: AtomicBool,
    state: Mutex<LanState>,
    reconfigured: Notify,
}

#[derive(Debug)]
struct LanState {
    calendar: Calendar,
    burst: Duration,
    total: TimedLimit,
    client: RateSchedule,
    /// By name. A removed group stays without limit, because downloads of its clients may still run.
    groups: HashMap<String, GroupLimits>,
    clients: HashMap<IpAddr, ClientFlow>,
    remove_idle_at: usize,
}

#[derive(Debug)]
struct GroupLimits {
    total: TimedLimit,
    client: RateSchedule,
}

/// A client with at least one running response.
#[derive(Debug)]
struct ClientFlow {
    group: String,
    flow: Weak<FlowHandle>,
}

impl LanLimiter {
    /// Creates the limits of a configuration.
    pub fn new(config: &Config, clock: Clock) -> Self {
        let pacer = Pacer::new();
        let state = LanState {
            calendar: Calendar::new(config.site.time_zone.clone()),
            burst: config.wan.burst,
            total: TimedLimit::new(&pacer),
            client: RateSchedule::unlimited(),
            groups: HashMap::new(),
            clients: HashMap::new(),
            remove_idle_at: IDLE_CHECK,
        };
        let lan = Self {
            pacer,
            clock,
            limited: AtomicBool::new(false),
            state: Mutex::new(state),
            reconfigured: Notify::new(),
        };
        lan.reconfigure(config);
        lan
    }

    /// Applies other limits, also to running downloads.
    pub fn reconfigure(&self, config: &Config) {
        let mut state = self.state();
        state.calendar = Calendar::new(config.site.time_zone.clone());
        state.burst = config.wan.burst;
        state.total.set(&config.lan.limit);
        state.client = config.lan.client_limit.clone();
        for group in state.groups.values_mut() {
            group.set(&config::GroupSettings::catch_all(""));
        }
        for group in &config.groups {
            let new =
                || GroupLimits { total: TimedLimit::new(&self.pacer), client: RateSchedule::unlimited() };
            state.groups.entry(group.name.clone()).or_insert_with(new).set(group);
        }
        let limits = state.groups.values().any(GroupLimits::is_limited);
        let limited = limits || !state.total.is_unlimited() || !state.client.is_unlimited();
        drop(state);
        let _until = self.apply();
        self.limited.store(limited, Ordering::Relaxed);
        self.reconfigured.notify_one();
    }

    /// Returns true if any limit exists at any time of the week.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// Returns the throttle of a new response to `client`, a member of `group`.
    pub fn throttle(&self, client: IpAddr, group: &str) -> Throttle {
        let client = client_network(client);
        let mut state = self.state();
        if let Some(flow) = state.clients.get(&client).and_then(|client| client.flow.upgrade()) {
            return Throttle::new(flow);
        }
        let moment = state.moment(&self.clock);
        let own = self.pacer.add_limit(state.client_rate(&moment, group), state.burst);
        let path: Vec<_> =
            state.groups.get(group).map(|group| group.total.id).into_iter().chain([state.total.id]).collect();
        let flow = self.pacer.join(Some(own), &path);
        state.remove_idle();
        state.clients.insert(client, ClientFlow { group: group.to_owned(), flow: Arc::downgrade(&flow) });
        Throttle::new(flow)
    }

    /// Grants bytes and applies the limits of the time of the week. Never returns.
    pub async fn run(&self) {
        tokio::select! {
            () = self.pacer.run() => {}
            () = keep_applied(&self.clock, &self.reconfigured, || self.apply()) => {}
        }
    }

    /// Sets every limit to its current rate.
    fn apply(&self) -> ValidityPeriod {
        let state = self.state();
        let moment = state.moment(&self.clock);
        let mut changes = vec![state.total.apply(&self.pacer, &moment), moment.rate(&state.client).until];
        for group in state.groups.values() {
            changes.extend([group.total.apply(&self.pacer, &moment), moment.rate(&group.client).until]);
        }
        for client in state.clients.values() {
            if let Some(own) = client.flow.upgrade().and_then(|flow| flow.own()) {
                self.pacer.set_rate(own, state.client_rate(&moment, &client.group), state.burst);
            }
        }
        ValidityPeriod::new(moment.now, changes)
    }

    fn state(&self) -> MutexGuard<'_, LanState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LanState {
    fn moment(&self, clock: &Clock) -> SiteTime<'_> {
        SiteTime { calendar: &self.calendar, now: clock.now(), burst: self.burst }
    }

    /// Returns the rate of one client of a group: the lower of the limit for every client and the limit for the
    /// group's clients.
    fn client_rate(&self, moment: &SiteTime<'_>, group: &str) -> Option<u64> {
        let of_group = self.groups.get(group).and_then(|group| moment.rate(&group.client).value);
        moment.rate(&self.client).value.into_iter().chain(of_group).min()
    }

    fn remove_idle(&mut self) {
        if self.clients.len() >= self.remove_idle_at {
            self.clients.retain(|_, client| client.flow.strong_count() > 0);
            self.remove_idle_at = IDLE_CHECK.max(self.clients.len().saturating_mul(2));
        }
    }
}

impl GroupLimits {
    fn set(&mut self, group: &config::GroupSettings) {
        self.total.set(&group.limit);
        self.client = group.client_limit.clone();
    }

    fn is_limited(&self) -> bool {
        !self.total.is_unlimited() || !self.client.is_unlimited()
    }
}
