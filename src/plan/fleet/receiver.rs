//! A receiver of content: the equal sites of a class, or the relay that fills a tier before sites ask. It divides its
//! line between its transfers by priority, as a relay does. A transfer never has more than its source gives it.

use super::super::share::divide_by_priority;
use super::super::simulation::{FirstRequest, first_requests};
use super::arrival::Arrival;
use super::{Bottleneck, SiteArrival, SiteClass, TierScope};

/// Bytes below which a difference is a rounding error.
const NEGLIGIBLE_BYTES: f64 = 0.5;

/// Rate of the relay that fills a tier first, bytes a second: 10 Gbit/s, the maximum of a relay's limits.
const FILLER_LINE: f64 = 1.25e9;

/// Source of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Manager,
    Tier,
}

/// Transfer of one object to each site of a class.
#[derive(Clone, Debug)]
pub(super) struct Pull {
    bytes: f64,
    /// First request; `None` if no client requests it.
    first: Option<FirstRequest>,
    source: Source,
    /// `None` until it starts.
    arrival: Option<Arrival>,
    is_complete: bool,
    /// Maximum rate by the limits of the content, bytes a second.
    most: f64,
    rate: f64,
}

/// The sites of a class, or the relay that fills a tier.
pub(super) struct Receiver<'a> {
    /// Its sites; the relay that fills a tier has none.
    pub(super) class: Option<&'a SiteClass>,
    /// Number of sites.
    pub(super) copies: f64,
    pub(super) region: Option<usize>,
    /// Index of its tier.
    pub(super) tier: Option<usize>,
    /// What each site takes from the manager if the shared lines are free, bytes a second.
    pub(super) demand: f64,
    pub(super) pulls: Vec<Pull>,
    /// Rates of the pulls while they are computed: a fleet divides millions of times.
    rates: Vec<f64>,
    /// Own line with its limits, bytes a second.
    line: f64,
    busy: f64,
    /// Seconds limited by the manager's line, by the region's and by its own.
    limited: [f64; 3],
    complete_at: Option<f64>,
}

impl Pull {
    fn new(bytes: f64, first: Option<FirstRequest>) -> Self {
        Self {
            bytes,
            first,
            source: Source::Manager,
            arrival: None,
            is_complete: false,
            most: f64::INFINITY,
            rate: 0.0,
        }
    }

    /// Returns the time from which it may start, if it has not.
    pub(super) fn start_time(&self) -> Option<f64> {
        self.first.filter(|_| self.arrival.is_none()).map(|first| first.at)
    }

    pub(super) fn start(&mut self, source: Source, now: f64) {
        self.source = source;
        self.arrival = Some(Arrival::start(self.bytes, now));
    }

    fn is_running(&self) -> bool {
        self.arrival.is_some() && !self.is_complete
    }

    fn is_running_from(&self, source: Source) -> bool {
        self.is_running() && self.source == source
    }

    /// Returns true if nothing is left to do.
    fn is_finished(&self) -> bool {
        self.is_complete || self.first.is_none()
    }

    fn time_left(&self) -> f64 {
        match &self.arrival {
            Some(arrival) if self.is_running() => arrival.missing() / self.rate,
            _ => f64::INFINITY,
        }
    }
}

impl<'a> Receiver<'a> {
    /// Creates the sites of a class.
    pub(super) fn sites(class: &'a SiteClass, scope: Option<TierScope>) -> Self {
        let first = first_requests(&class.scenario);
        let contents = class.scenario.contents.iter();
        let tier = match scope {
            Some(TierScope::Fleet) => Some(0),
            Some(TierScope::Region) => class.region,
            None => None,
        };
        Self {
            class: Some(class),
            copies: class.sites.into(),
            region: class.region,
            tier,
            demand: 0.0,
            rates: Vec::new(),
            pulls: contents.zip(first).map(|(content, first)| Pull::new(content.bytes, first)).collect(),
            line: 0.0,
            busy: 0.0,
            limited: [0.0; 3],
            complete_at: None,
        }
    }

    /// Creates the relay that fills a tier with what its sites request.
    pub(super) fn filler(tier: usize, region: Option<usize>, sites: &[Receiver<'a>]) -> Self {
        let of_tier: Vec<_> = sites.iter().filter(|sites| sites.tier == Some(tier)).collect();
        let contents = sites.first().map_or(0, |sites| sites.pulls.len());
        let pull = |content: usize| {
            let mut requested = of_tier.iter().filter_map(|sites| sites.pulls.get(content));
            let bytes =
                sites.iter().find_map(|sites| sites.pulls.get(content)).map_or(0.0, |pull| pull.bytes);
            let is_requested = requested.any(|pull| pull.first.is_some());
            Pull::new(bytes, is_requested.then_some(FirstRequest { at: 0.0, group: 0 }))
        };
        Self {
            class: None,
            copies: 1.0,
            region,
            tier: Some(tier),
            demand: 0.0,
            rates: Vec::new(),
            pulls: (0..contents).map(pull).collect(),
            line: FILLER_LINE,
            busy: 0.0,
            limited: [0.0; 3],
            complete_at: None,
        }
    }

    /// Sets the limits of this time.
    pub(super) fn set_limits(&mut self, now: f64) {
        let Some(SiteClass { scenario, .. }) = self.class else { return };
        self.line = scenario.line.min(scenario.wan.rate_at(now)).min(scenario.upstream.value.rate_at(now));
        for (pull, content) in self.pulls.iter_mut().zip(&scenario.contents) {
            let group = pull.first.and_then(|first| scenario.groups.get(first.group));
            let of_group = group.map_or(f64::INFINITY, |group| group.wan_limit.rate_at(now));
            pull.most = content.limit.value.rate_at(now).min(of_group);
        }
    }

    /// Returns true if no transfer runs or will.
    pub(super) fn is_finished(&self) -> bool {
        self.pulls.iter().all(Pull::is_finished)
    }

    pub(super) fn is_receiving(&self) -> bool {
        self.pulls.iter().any(Pull::is_running)
    }

    /// Sets the rates as if the shared lines were free, and the demand on the manager.
    pub(super) fn set_demand(&mut self) {
        if !self.is_receiving() {
            self.demand = 0.0;
            return;
        }
        self.divide(self.line, |pull| if pull.is_running() { pull.most } else { 0.0 });
        self.demand = self.rate(Source::Manager);
    }

    /// Sets the rates with this share of the manager's line. Transfers from the tier get what it leaves of the own line.
    pub(super) fn set_share(&mut self, share: f64) {
        if share >= self.demand {
            return;
        }
        self.divide(share, |pull| if pull.is_running_from(Source::Manager) { pull.rate } else { 0.0 });
        if self.pulls.iter().any(|pull| pull.is_running_from(Source::Tier)) {
            self.divide(self.line, |pull| match pull.source {
                Source::Manager => pull.rate,
                Source::Tier if pull.is_running() => pull.most,
                Source::Tier => 0.0,
            });
        }
    }

    fn divide(&mut self, line: f64, most: impl Fn(&Pull) -> f64) {
        self.rates.clear();
        self.rates.extend(self.pulls.iter().map(most));
        divide_by_priority(line, &mut self.rates);
        for (pull, rate) in self.pulls.iter_mut().zip(&self.rates) {
            pull.rate = *rate;
        }
    }

    /// Returns the rate of each site from a source.
    pub(super) fn rate(&self, source: Source) -> f64 {
        self.pulls.iter().filter(|pull| pull.is_running_from(source)).map(|pull| pull.rate).sum()
    }

    /// Returns the seconds until a transfer is complete.
    pub(super) fn time_left(&self) -> f64 {
        self.pulls.iter().map(Pull::time_left).fold(f64::INFINITY, f64::min)
    }

    /// Advances all transfers; `limit` is what limits those from the manager.
    pub(super) fn advance(&mut self, now: f64, seconds: f64, limit: Bottleneck) {
        if !self.is_receiving() {
            return;
        }
        self.busy += seconds;
        let cause = match limit {
            Bottleneck::Manager => 0,
            Bottleneck::Region => 1,
            Bottleneck::Line | Bottleneck::Site => 2,
        };
        self.limited[cause] += seconds;
        for pull in self.pulls.iter_mut().filter(|pull| pull.is_running()) {
            if let Some(arrival) = &mut pull.arrival {
                arrival.advance(now, seconds, pull.rate);
            }
        }
    }

    /// Ends the transfers that are done and returns their contents.
    pub(super) fn complete_pulls(&mut self, now: f64) -> Vec<usize> {
        let mut done = Vec::new();
        for (content, pull) in self.pulls.iter_mut().enumerate() {
            let is_running = pull.is_running();
            if let Some(arrival) = pull.arrival.as_mut()
                && is_running
                && arrival.missing() <= NEGLIGIBLE_BYTES
            {
                arrival.complete(now);
                pull.is_complete = true;
                done.push(content);
            }
        }
        if !done.is_empty() && self.is_finished() {
            self.complete_at = Some(now);
        }
        done
    }

    /// Returns the bytes of each site from a source.
    pub(super) fn bytes(&self, source: Source) -> f64 {
        let from = self.pulls.iter().filter(|pull| pull.source == source);
        from.filter_map(|pull| pull.arrival.as_ref()).map(Arrival::arrived).sum()
    }

    pub(super) fn into_site_arrival(self, horizon: f64) -> SiteArrival {
        let [manager, region, line] = self.limited;
        let bottleneck = match () {
            () if manager > region.max(line) => Bottleneck::Manager,
            () if region > line => Bottleneck::Region,
            () => Bottleneck::Line,
        };
        SiteArrival {
            bytes: self.bytes(Source::Manager) + self.bytes(Source::Tier),
            complete_at: self.complete_at,
            busy: self.busy,
            bottleneck,
            contents: self
                .pulls
                .iter()
                .map(|pull| pull.arrival.as_ref().map(|arrival| arrival.curve(horizon)))
                .collect(),
        }
    }
}
