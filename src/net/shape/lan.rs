//! The limits toward clients: all of them together, each group, each client. Owns which limits a client's bytes pass;
//! relies on `pace` for turns. Without any limit, which is the default, it costs a response one look at a flag.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::throttle::{Flow, Pacer, Throttle};
use super::timed_limit::{Holds, Moment, Timed, follow};
use gupd_config as config;
use gupd_config::clock::Clock;
use gupd_config::policy::calendar::Calendar;
use gupd_config::{Config, RateSchedule};

/// Clients known before those that have gone are looked for; after that, when they have doubled.
const SWEEP: usize = 1_024;

/// The limits toward clients.
#[derive(Debug)]
pub struct LanLimiter {
    pacer: Arc<Pacer>,
    clock: Clock,
    limited: AtomicBool,
    state: Mutex<State>,
    reconfigured: Notify,
}

#[derive(Debug)]
struct State {
    calendar: Calendar,
    burst: Duration,
    total: Timed,
    client: RateSchedule,
    /// By name. One that is no longer configured stays, unlimited: downloads of its clients may still run.
    groups: HashMap<String, Group>,
    clients: HashMap<IpAddr, Client>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Group {
    total: Timed,
    client: RateSchedule,
}

/// A client that is sent something.
#[derive(Debug)]
struct Client {
    group: String,
    flow: Weak<Flow>,
}

impl LanLimiter {
    /// The limits of a configuration.
    pub fn new(config: &Config, clock: Clock) -> Self {
        let pacer = Pacer::new();
        let state = State {
            calendar: Calendar::new(config.site.time_zone.clone()),
            burst: config.wan.burst,
            total: Timed::new(&pacer),
            client: RateSchedule::unlimited(),
            groups: HashMap::new(),
            clients: HashMap::new(),
            sweep_at: SWEEP,
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

    /// Other limits from now on, for running downloads too.
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
            let new = || Group { total: Timed::new(&self.pacer), client: RateSchedule::unlimited() };
            state.groups.entry(group.name.clone()).or_insert_with(new).set(group);
        }
        let limits = state.groups.values().any(Group::limits);
        let limited = limits || !state.total.is_unlimited() || !state.client.is_unlimited();
        drop(state);
        let _until = self.apply();
        self.limited.store(limited, Ordering::Relaxed);
        self.reconfigured.notify_one();
    }

    /// Whether there is any limit at any time.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// What one more response to `client`, of this group, may send.
    pub fn throttle(&self, client: IpAddr, group: &str) -> Throttle {
        let client = client.to_canonical();
        let mut state = self.state();
        if let Some(flow) = state.clients.get(&client).and_then(|client| client.flow.upgrade()) {
            return Throttle::new(flow);
        }
        let moment = state.moment(&self.clock);
        let own = self.pacer.add_limit(state.client_rate(&moment, group), state.burst);
        let path: Vec<_> =
            state.groups.get(group).map(|group| group.total.id).into_iter().chain([state.total.id]).collect();
        let flow = self.pacer.join(Some(own), &path);
        state.sweep();
        state.clients.insert(client, Client { group: group.to_owned(), flow: Arc::downgrade(&flow) });
        Throttle::new(flow)
    }

    /// Gives turns and keeps the limits at what the time of the week says, for ever.
    pub async fn run(&self) {
        tokio::select! {
            () = self.pacer.run() => {}
            () = follow(&self.clock, &self.reconfigured, || self.apply()) => {}
        }
    }

    /// Sets every limit to what it is now.
    fn apply(&self) -> Holds {
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
        Holds::new(moment.now, changes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn moment(&self, clock: &Clock) -> Moment<'_> {
        Moment { calendar: &self.calendar, now: clock.now(), burst: self.burst }
    }

    /// What one client of a group is sent: the least of what is said for every client and for the group's.
    fn client_rate(&self, moment: &Moment<'_>, group: &str) -> Option<u64> {
        let of_group = self.groups.get(group).and_then(|group| moment.rate(&group.client).value);
        moment.rate(&self.client).value.into_iter().chain(of_group).min()
    }

    fn sweep(&mut self) {
        if self.clients.len() >= self.sweep_at {
            self.clients.retain(|_, client| client.flow.strong_count() > 0);
            self.sweep_at = SWEEP.max(2 * self.clients.len());
        }
    }
}

impl Group {
    fn set(&mut self, group: &config::GroupSettings) {
        self.total.set(&group.limit);
        self.client = group.client_limit.clone();
    }

    fn limits(&self) -> bool {
        !self.total.is_unlimited() || !self.client.is_unlimited()
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
        let lan = Arc::new(LanLimiter::new(&config(&[]), clock.clone()));
        let running = Arc::clone(&lan);
        let task = tokio::spawn(async move { running.run().await });
        sleep(Duration::from_secs(5)).await;
        lan.reconfigure(&config(&[("GUPD_LAN_LIMIT", "1KiB/s 00:00-07:00")]));
        let mut pace = lan.throttle(IpAddr::from([10, 0, 0, 1]), "default");
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
}
