//! The simulation: from one event to the next, with rates that are constant between them. Deterministic: the same
//! scenario gives the same timeline. Events are a client's request, the end of its patience in the queue, a fill that is
//! complete, a client that is done or has caught up with a fill, and a limit that changes with the time of day.
//!
//! What a client asks for at its heartbeat is decided then: a download that began in a window may end after it, as the
//! relay lets it. Fills that clients wait for may use the line at any time; `wan.windows` are for the relay's own.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::admission::{Admission, Entry};
use super::clients::{Client, Now, clients};
use super::download::{Fill, Kind};
use super::scenario::{Group, Outside, Scenario};
use super::share::{self, Demand};
use super::timeline::{Moment, Timeline};

/// Events of one simulation, at most: some seconds' work. Clients that are refused again and again for weeks come to
/// more.
const MAX_EVENTS: u64 = 20_000_000;

/// A client that was refused does not ask again before, however short its heartbeat.
const PAUSE: f64 = 1.0;

/// A simulation that would not end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "clients are refused again and again: more than {MAX_EVENTS} requests; raise lan.max_downloads or lan.queue, or \
     give a longer --heartbeat or a shorter --horizon"
)]
pub struct Endless;

/// What came of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// Its course.
    pub timeline: Timeline,
    /// Clients that came online within the horizon.
    pub appeared: u32,
    /// Requests that found the queue full or waited in it for too long.
    pub refused: u64,
    /// Bytes that crossed the line.
    pub wan_bytes: f64,
    /// Bytes that clients got.
    pub lan_bytes: f64,
}

/// Simulates a rollout until every client that comes is current, or to the horizon.
///
/// # Errors
/// When there are too many events.
pub fn simulate(scenario: &Scenario) -> Result<Rollout, Endless> {
    Simulation::new(scenario).run()
}

#[derive(Clone, Copy, PartialEq)]
struct Event {
    at: f64,
    /// In the order they were planned, where times are the same.
    order: u64,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Asks(usize),
    GivesUp(usize, u64),
}

struct Simulation<'a> {
    scenario: &'a Scenario,
    now: f64,
    /// Until when bytes have moved; rates are the same from then to now.
    passed: f64,
    /// Whether a download has begun since rates were set.
    begun: bool,
    clients: Vec<Client>,
    events: BinaryHeap<Event>,
    planned: u64,
    admission: Admission,
    fills: Vec<Fill>,
    /// By group, then content.
    kinds: Vec<Vec<Kind>>,
    rollout: Rollout,
    current: u32,
}

impl<'a> Simulation<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let clients = clients(scenario);
        let appeared = clients.iter().filter(|client| client.appears < scenario.horizon).count();
        let counts = scenario.groups.iter().map(|group| group.downloads);
        let mut simulation = Self {
            scenario,
            now: 0.0,
            passed: 0.0,
            begun: false,
            admission: Admission::new(clients.len(), scenario.downloads, counts, scenario.queue),
            events: BinaryHeap::new(),
            planned: 0,
            fills: scenario.contents.iter().map(|content| Fill::new(content.bytes)).collect(),
            kinds: vec![vec![Kind::default(); scenario.contents.len()]; scenario.groups.len()],
            rollout: Rollout {
                timeline: Timeline::default(),
                appeared: u32::try_from(appeared).unwrap_or(u32::MAX),
                refused: 0,
                wan_bytes: 0.0,
                lan_bytes: 0.0,
            },
            current: 0,
            clients,
        };
        for client in 0..simulation.clients.len() {
            simulation.plan_request(client, 0.0);
        }
        simulation
    }

    fn run(mut self) -> Result<Rollout, Endless> {
        let mut steps = 0;
        loop {
            self.take_requests();
            self.set_rates();
            self.note();
            self.go_on();
            self.settle();
            steps += 1;
            if self.now >= self.scenario.horizon || self.is_over() {
                self.set_rates();
                self.note();
                return Ok(self.rollout);
            }
            if steps + self.planned > MAX_EVENTS {
                return Err(Endless);
            }
        }
    }

    /// To the next moment at which rates may change. Requests that begin no download change none.
    fn go_on(&mut self) {
        let until = self.next_change().min(self.scenario.horizon);
        self.begun = false;
        while !self.begun
            && self.events.peek().is_some_and(|event| event.at < until)
            && self.planned <= MAX_EVENTS
        {
            self.take_request();
        }
        if !self.begun {
            self.now = until;
        }
        self.catch_up();
    }

    /// Nothing is under way and nobody will ask.
    fn is_over(&self) -> bool {
        self.events.is_empty() && self.kinds.iter().flatten().all(|kind| kind.downloads() == 0)
    }

    fn take_requests(&mut self) {
        while self.events.peek().is_some_and(|event| event.at <= self.now) {
            self.take_request();
        }
    }

    fn take_request(&mut self) {
        let Some(Event { at, what, .. }) = self.events.pop() else { return };
        self.now = self.now.max(at);
        match what {
            What::Asks(client) => self.ask(client),
            What::GivesUp(client, ticket) if self.admission.give_up(client, ticket) => self.refuse(client),
            What::GivesUp(..) => {}
        }
    }

    fn ask(&mut self, client: usize) {
        let Client { group, state, .. } = self.clients[client];
        if state != Now::Away {
            return;
        }
        match self.admission.ask(client, group) {
            Entry::Begins => self.begin(client),
            Entry::Refused => self.refuse(client),
            Entry::Waits(ticket) => {
                self.clients[client].state = Now::Waiting;
                self.plan(self.now + self.scenario.queue_timeout, What::GivesUp(client, ticket));
            }
        }
    }

    fn begin(&mut self, client: usize) {
        self.catch_up();
        self.begun = true;
        let Client { group, content, state, .. } = &mut self.clients[client];
        *state = Now::Downloading;
        let fill = &mut self.fills[*content];
        fill.ask(*group);
        self.kinds[*group][*content].begin(fill);
    }

    /// It comes again at its next heartbeat.
    fn refuse(&mut self, client: usize) {
        self.rollout.refused += 1;
        self.clients[client].state = Now::Away;
        self.plan_request(client, self.now + PAUSE);
    }

    /// Plans a client's next request, at its first heartbeat from `time` on at which it is admitted.
    fn plan_request(&mut self, client: usize, time: f64) {
        let Client { group, content, turn, appears, .. } = self.clients[client];
        let Group { hours, outside, spread, .. } = &self.scenario.groups[group];
        let heartbeat = self.scenario.heartbeat;
        let beat = |time: f64| match () {
            () if time <= appears => appears,
            () if heartbeat > 0.0 => appears + ((time - appears) / heartbeat).ceil() * heartbeat,
            () => time,
        };
        let mut at = beat(time);
        let admitted = match outside {
            Outside::Nothing => false,
            Outside::Cached => self.fills[content].is_complete(),
            Outside::Everything => true,
        };
        if admitted {
            return self.plan(at, What::Asks(client));
        }
        while at < self.scenario.horizon {
            match hours.admits(at, turn, *spread) {
                None => return,
                Some(admitted) if admitted <= at => return self.plan(at, What::Asks(client)),
                // Later than `at` by more than rounding takes away, as a beat is at or after it.
                Some(admitted) => at = beat(admitted).max(admitted),
            }
        }
    }

    fn plan(&mut self, at: f64, what: What) {
        if at < self.scenario.horizon {
            self.planned += 1;
            self.events.push(Event { at, order: self.planned, what });
        }
    }

    fn set_rates(&mut self) {
        let Self { scenario, now, .. } = *self;
        let upstream = scenario.upstream.value.rate_at(now);
        let most: Vec<f64> = (self.fills.iter().zip(&scenario.contents))
            .map(|(fill, content)| match fill.is_running() {
                true => {
                    content.limit.value.rate_at(now).min(scenario.groups[fill.group()].wan_limit.rate_at(now))
                }
                false => 0.0,
            })
            .collect();
        let line = scenario.line.min(scenario.wan.rate_at(now)).min(upstream);
        for (fill, rate) in self.fills.iter_mut().zip(share::by_priority(line, &most)) {
            fill.rate = rate;
        }
        let client = scenario.client.rate_at(now);
        let demands: Vec<(f64, Vec<Demand>)> = scenario
            .groups
            .iter()
            .zip(&self.kinds)
            .map(|(group, kinds)| {
                let most = client.min(group.client_limit.rate_at(now));
                let demand = |(kind, fill): (&Kind, &Fill)| {
                    [
                        Demand { clients: kind.abreast(), most: most.min(fill.rate) },
                        Demand { clients: kind.behind(), most },
                    ]
                };
                (group.limit.rate_at(now), kinds.iter().zip(&self.fills).flat_map(demand).collect())
            })
            .collect();
        let levels = share::levels(scenario.lan_link.min(scenario.lan.rate_at(now)), &demands);
        for ((kinds, level), group) in self.kinds.iter_mut().zip(levels).zip(&scenario.groups) {
            let rate = level.min(client).min(group.client_limit.rate_at(now)).min(scenario.lan_link);
            for (kind, fill) in kinds.iter_mut().zip(&self.fills) {
                kind.allow(rate, fill);
            }
        }
    }

    fn wan_rate(&self) -> f64 {
        self.fills.iter().map(|fill| fill.rate).sum()
    }

    fn lan_rate(&self) -> f64 {
        let all = self.kinds.iter().flat_map(|kinds| kinds.iter().zip(&self.fills));
        all.map(|(kind, fill)| kind.taken(fill)).sum()
    }

    fn note(&mut self) {
        self.rollout.timeline.note(Moment {
            from: self.now,
            wan: self.wan_rate(),
            lan: self.lan_rate(),
            downloads: self.kinds.iter().flatten().map(Kind::downloads).sum(),
            current: self.current,
        });
    }

    /// When rates change, if no download begins before.
    fn next_change(&self) -> f64 {
        let left = |kinds: &Vec<Kind>| {
            kinds.iter().zip(&self.fills).map(|(kind, fill)| kind.left(fill)).fold(f64::INFINITY, f64::min)
        };
        let downloads = self.kinds.iter().map(left).fold(f64::INFINITY, f64::min);
        let fills = self.fills.iter().map(Fill::left).fold(f64::INFINITY, f64::min);
        (self.now + downloads.min(fills)).min(self.limits_change()).max(self.now)
    }

    fn limits_change(&self) -> f64 {
        let Scenario { wan, upstream, lan, client, contents, groups, .. } = self.scenario;
        let of_groups = groups.iter().flat_map(|group| [&group.limit, &group.client_limit, &group.wan_limit]);
        let of_contents = contents.iter().map(|content| &content.limit.value);
        let all = [wan, &upstream.value, lan, client].into_iter().chain(of_contents).chain(of_groups);
        all.filter_map(|curve| curve.next_change(self.now)).fold(f64::INFINITY, f64::min)
    }

    /// Lets the time pass since rates were set, or since this was done last.
    fn catch_up(&mut self) {
        let seconds = self.now - self.passed;
        self.passed = self.now;
        self.rollout.wan_bytes += self.wan_rate() * seconds;
        self.rollout.lan_bytes += self.lan_rate() * seconds;
        self.kinds.iter_mut().flatten().for_each(|kind| kind.advance(seconds));
        for content in 0..self.fills.len() {
            if self.fills[content].advance(seconds) {
                self.call_for_cached(content);
            }
        }
    }

    /// An object is there: clients outside their windows may have it, if their group says so.
    fn call_for_cached(&mut self, content: usize) {
        for client in 0..self.clients.len() {
            let Client { group, content: wanted, state, .. } = self.clients[client];
            if wanted == content
                && state == Now::Away
                && self.scenario.groups[group].outside == Outside::Cached
            {
                self.plan_request(client, self.now);
            }
        }
    }

    fn settle(&mut self) {
        for group in 0..self.kinds.len() {
            for content in 0..self.fills.len() {
                let done = self.kinds[group][content].settle(&self.fills[content]);
                self.current += done;
                for _ in 0..done {
                    self.admission.leave(group);
                }
            }
        }
        while let Some(client) = self.admission.next() {
            self.begin(client);
        }
    }
}

impl Eq for Event {}

impl Ord for Event {
    /// The heap gives the greatest first: that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
