//! Event-driven simulation with rates that are constant between events. Deterministic. Events are a request, a queue
//! time-out, a completed fill, a client that is done or has caught up with a fill, and a limit that changes by time.
//!
//! A request is decided at the client's heartbeat: a download that starts in a window may end after it, as in the
//! relay. Fills for waiting clients may use the line at any time; `wan.windows` apply to background downloads only.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::clients::{ClientState, SimulatedClient, create_clients};
use super::download::{Cohort, SimulatedFill};
use super::scenario::{EarlyAccess, PlanGroup, Scenario};
use super::share::{self, RateDemand};
use super::slots::{SlotAnswer, SlotCounts};
use super::timeline::{Timeline, TimelinePoint};

/// Maximum number of events, some seconds of work. Clients that are refused for weeks exceed it.
const MAX_EVENTS: u64 = 20_000_000;

/// Minimum time in seconds before a refused client retries, with any heartbeat.
const PAUSE: f64 = 1.0;

/// Error of a simulation with more than the maximum number of events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "simulation: more than {MAX_EVENTS} requests, because clients are refused repeatedly: raise lan.max_downloads or \
     lan.queue, or use a longer --heartbeat or a shorter --horizon"
)]
pub struct TooManyEvents;

/// Result of a simulated rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRollout {
    /// Rates and counts over time.
    pub timeline: Timeline,
    /// Clients that came online within the horizon.
    pub appeared: u32,
    /// Requests refused because the queue was full or its time-out passed.
    pub refused: u64,
    /// Bytes that crossed the line.
    pub wan_bytes: f64,
    /// Bytes sent to clients.
    pub lan_bytes: f64,
}

/// Simulates a rollout until every client that comes is current, or to the horizon.
///
/// # Errors
/// When there are too many events.
pub fn simulate(scenario: &Scenario) -> Result<PlannedRollout, TooManyEvents> {
    Simulation::new(scenario).run()
}

/// Time and group of the first request for an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FirstRequest {
    pub(super) at: f64,
    pub(super) group: usize,
}

/// Returns the first request for each content; `None` if there is none within the horizon.
pub(super) fn first_requests(scenario: &Scenario) -> Vec<Option<FirstRequest>> {
    let mut simulation = Simulation::new(scenario);
    let mut first = vec![None; scenario.contents.len()];
    while let Some(SimulationEvent { at, kind: EventKind::Request(client), .. }) = simulation.events.pop() {
        let SimulatedClient { group, content, .. } = simulation.clients[client];
        first[content].get_or_insert(FirstRequest { at, group });
        if first.iter().all(Option::is_some) {
            break;
        }
    }
    first
}

#[derive(Clone, Copy, PartialEq)]
struct SimulationEvent {
    at: f64,
    /// Breaks ties of events at the same time.
    order: u64,
    kind: EventKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EventKind {
    Request(usize),
    QueueTimeout(usize, u64),
}

struct Simulation<'a> {
    scenario: &'a Scenario,
    now: f64,
    /// Time up to which bytes are counted; rates are constant from then to `now`.
    advanced_to: f64,
    /// Whether a download has started since rates were set.
    has_new_download: bool,
    clients: Vec<SimulatedClient>,
    events: BinaryHeap<SimulationEvent>,
    planned: u64,
    slots: SlotCounts,
    fills: Vec<SimulatedFill>,
    /// By group, then content.
    cohorts: Vec<Vec<Cohort>>,
    rollout: PlannedRollout,
    current: u32,
}

impl<'a> Simulation<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let clients = create_clients(scenario);
        let appeared = clients.iter().filter(|client| client.appears < scenario.horizon).count();
        let counts = scenario.groups.iter().map(|group| group.downloads);
        let mut simulation = Self {
            scenario,
            now: 0.0,
            advanced_to: 0.0,
            has_new_download: false,
            slots: SlotCounts::new(clients.len(), scenario.downloads, counts, scenario.queue),
            events: BinaryHeap::new(),
            planned: 0,
            fills: scenario.contents.iter().map(|content| SimulatedFill::new(content.bytes)).collect(),
            cohorts: vec![vec![Cohort::default(); scenario.contents.len()]; scenario.groups.len()],
            rollout: PlannedRollout {
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

    fn run(mut self) -> Result<PlannedRollout, TooManyEvents> {
        let mut steps = 0;
        loop {
            self.take_requests();
            self.set_rates();
            self.record_point();
            self.advance_to_next_change();
            self.settle();
            steps += 1;
            if self.now >= self.scenario.horizon || self.is_finished() {
                self.set_rates();
                self.record_point();
                return Ok(self.rollout);
            }
            if steps + self.planned > MAX_EVENTS {
                return Err(TooManyEvents);
            }
        }
    }

    /// Advances to the next time at which rates may change. Requests that start no download change none.
    fn advance_to_next_change(&mut self) {
        let until = self.next_change().min(self.scenario.horizon);
        self.has_new_download = false;
        while !self.has_new_download
            && self.events.peek().is_some_and(|event| event.at < until)
            && self.planned <= MAX_EVENTS
        {
            self.take_request();
        }
        if !self.has_new_download {
            self.now = until;
        }
        self.catch_up();
    }

    /// Returns true if no download runs and no request is planned.
    fn is_finished(&self) -> bool {
        self.events.is_empty() && self.cohorts.iter().flatten().all(|cohort| cohort.downloads() == 0)
    }

    fn take_requests(&mut self) {
        while self.events.peek().is_some_and(|event| event.at <= self.now) {
            self.take_request();
        }
    }

    fn take_request(&mut self) {
        let Some(SimulationEvent { at, kind, .. }) = self.events.pop() else { return };
        self.now = self.now.max(at);
        match kind {
            EventKind::Request(client) => self.request(client),
            EventKind::QueueTimeout(client, ticket) if self.slots.remove_queued(client, ticket) => {
                self.refuse(client);
            }
            EventKind::QueueTimeout(..) => {}
        }
    }

    fn request(&mut self, client: usize) {
        let SimulatedClient { group, state, .. } = self.clients[client];
        if state != ClientState::Idle {
            return;
        }
        match self.slots.request(client, group) {
            SlotAnswer::Started => self.start(client),
            SlotAnswer::Refused => self.refuse(client),
            SlotAnswer::Queued(ticket) => {
                self.clients[client].state = ClientState::Queued;
                self.plan(self.now + self.scenario.queue_timeout, EventKind::QueueTimeout(client, ticket));
            }
        }
    }

    fn start(&mut self, client: usize) {
        self.catch_up();
        self.has_new_download = true;
        let SimulatedClient { group, content, state, .. } = &mut self.clients[client];
        *state = ClientState::Started;
        let fill = &mut self.fills[*content];
        fill.start(*group);
        self.cohorts[*group][*content].start(fill);
    }

    /// Refuses a request; the client retries at its next heartbeat.
    fn refuse(&mut self, client: usize) {
        self.rollout.refused += 1;
        self.clients[client].state = ClientState::Idle;
        self.plan_request(client, self.now + PAUSE);
    }

    /// Plans a client's next request, at its first heartbeat from `time` on at which it is admitted.
    fn plan_request(&mut self, client: usize, time: f64) {
        let SimulatedClient { group, content, turn, appears, .. } = self.clients[client];
        let PlanGroup { hours, outside, spread, .. } = &self.scenario.groups[group];
        let heartbeat = self.scenario.heartbeat;
        let beat = |time: f64| match () {
            () if time <= appears => appears,
            () if heartbeat > 0.0 => appears + ((time - appears) / heartbeat).ceil() * heartbeat,
            () => time,
        };
        let mut at = beat(time);
        let admitted = match outside {
            EarlyAccess::Nothing => false,
            EarlyAccess::Cached => self.fills[content].is_complete(),
            EarlyAccess::Everything => true,
        };
        if admitted {
            return self.plan(at, EventKind::Request(client));
        }
        while at < self.scenario.horizon {
            match hours.next_start(at, turn, *spread) {
                None => return,
                Some(admitted) if admitted <= at => return self.plan(at, EventKind::Request(client)),
                // A beat is at or after `admitted`; `max` undoes rounding.
                Some(admitted) => at = beat(admitted).max(admitted),
            }
        }
    }

    fn plan(&mut self, at: f64, kind: EventKind) {
        if at < self.scenario.horizon {
            self.planned += 1;
            self.events.push(SimulationEvent { at, order: self.planned, kind });
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
        let rates = share::allocate_by_priority(line, &most);
        for ((fill, content), rate) in self.fills.iter_mut().zip(&scenario.contents).zip(rates) {
            fill.rate =
                content.arrival.as_ref().map_or(rate, |arrival| fill.arrival_rate(arrival.rate_at(now)));
        }
        let client = scenario.client.rate_at(now);
        let demands: Vec<(f64, Vec<RateDemand>)> = scenario
            .groups
            .iter()
            .zip(&self.cohorts)
            .map(|(group, cohorts)| {
                let most = client.min(group.client_limit.rate_at(now));
                let demand = |(cohort, fill): (&Cohort, &SimulatedFill)| {
                    [
                        RateDemand { clients: cohort.abreast(), most: most.min(fill.rate) },
                        RateDemand { clients: cohort.behind(), most },
                    ]
                };
                (group.limit.rate_at(now), cohorts.iter().zip(&self.fills).flat_map(demand).collect())
            })
            .collect();
        let levels = share::fair_levels(scenario.lan_link.min(scenario.lan.rate_at(now)), &demands);
        for ((cohorts, level), group) in self.cohorts.iter_mut().zip(levels).zip(&scenario.groups) {
            let rate = level.min(client).min(group.client_limit.rate_at(now)).min(scenario.lan_link);
            for (cohort, fill) in cohorts.iter_mut().zip(&self.fills) {
                cohort.set_rate(rate, fill);
            }
        }
    }

    fn wan_rate(&self) -> f64 {
        self.fills.iter().map(|fill| fill.rate).sum()
    }

    fn lan_rate(&self) -> f64 {
        let all = self.cohorts.iter().flat_map(|cohorts| cohorts.iter().zip(&self.fills));
        all.map(|(cohort, fill)| cohort.rate_taken(fill)).sum()
    }

    fn record_point(&mut self) {
        self.rollout.timeline.push(TimelinePoint {
            from: self.now,
            wan: self.wan_rate(),
            lan: self.lan_rate(),
            downloads: self.cohorts.iter().flatten().map(Cohort::downloads).sum(),
            current: self.current,
        });
    }

    /// Returns the time at which rates change if no download starts earlier.
    fn next_change(&self) -> f64 {
        let left = |cohorts: &Vec<Cohort>| {
            cohorts
                .iter()
                .zip(&self.fills)
                .map(|(cohort, fill)| cohort.time_left(fill))
                .fold(f64::INFINITY, f64::min)
        };
        let downloads = self.cohorts.iter().map(left).fold(f64::INFINITY, f64::min);
        let fills = self.fills.iter().map(SimulatedFill::time_left).fold(f64::INFINITY, f64::min);
        (self.now + downloads.min(fills)).min(self.next_limit_change()).max(self.now)
    }

    fn next_limit_change(&self) -> f64 {
        let Scenario { wan, upstream, lan, client, contents, groups, .. } = self.scenario;
        let of_groups = groups.iter().flat_map(|group| [&group.limit, &group.client_limit, &group.wan_limit]);
        let of_contents = contents.iter().flat_map(|of| of.arrival.iter().chain([&of.limit.value]));
        let all = [wan, &upstream.value, lan, client].into_iter().chain(of_contents).chain(of_groups);
        all.filter_map(|curve| curve.next_change(self.now)).fold(f64::INFINITY, f64::min)
    }

    /// Counts the bytes moved since rates were set or since the last call.
    fn catch_up(&mut self) {
        let seconds = self.now - self.advanced_to;
        self.advanced_to = self.now;
        self.rollout.wan_bytes += self.wan_rate() * seconds;
        self.rollout.lan_bytes += self.lan_rate() * seconds;
        self.cohorts.iter_mut().flatten().for_each(|cohort| cohort.advance(seconds));
        for content in 0..self.fills.len() {
            if self.fills[content].advance(seconds) {
                self.plan_cached_requests(content);
            }
        }
    }

    /// Plans requests of clients outside their windows for a completed object, where their group allows cached content.
    fn plan_cached_requests(&mut self, content: usize) {
        for client in 0..self.clients.len() {
            let SimulatedClient { group, content: target, state, .. } = self.clients[client];
            if target == content
                && state == ClientState::Idle
                && self.scenario.groups[group].outside == EarlyAccess::Cached
            {
                self.plan_request(client, self.now);
            }
        }
    }

    fn settle(&mut self) {
        for group in 0..self.cohorts.len() {
            for content in 0..self.fills.len() {
                let done = self.cohorts[group][content].settle(&self.fills[content]);
                self.current += done;
                for _ in 0..done {
                    self.slots.release(group);
                }
            }
        }
        while let Some(client) = self.slots.start_next() {
            self.start(client);
        }
    }
}

impl Eq for SimulationEvent {}

impl Ord for SimulationEvent {
    /// Reversed, so that the heap returns the earliest event first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for SimulationEvent {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
