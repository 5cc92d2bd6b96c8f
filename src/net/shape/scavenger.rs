//! Rate at which the relay can use a line without disturbing others: below the rate at which the line begins to
//! queue. A scavenger like LEDBAT (RFC 6817), at the receiver. It raises its rate while the round trip is as short as
//! ever, holds it at a small queue, and yields when others fill the line or packets arrive out of order. A pure
//! function of samples; `upstream::tcp` reads them from the kernel.

use std::time::Duration;

use super::bucket::Nanos;

/// Target of queueing delay (RFC 6817 allows 100 ms): enough to detect above the kernel's clock of 1 ms. With 25 ms a
/// BBR download, which keeps queues short, had 62 % of its rate beside the relay; with this, 95 %.
const TARGET: Duration = Duration::from_millis(10);

/// Interval of decisions: the round trip of most lines, so that the effect of one is visible to the next.
const DECISION_INTERVAL: Duration = Duration::from_millis(100);

/// A longer interval contained idle time: its rate says nothing about the line.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// Minimum rate in bytes per second: without traffic a free line would go undetected.
const MIN_RATE: f64 = 16.0 * 1024.0;

/// Initial rate.
const INITIAL_RATE: f64 = 8.0 * MIN_RATE;

/// Maximum rate: 100 Gbit/s.
const MAX_RATE: f64 = 12.5e9;

/// Lifetime of the shortest round trip, in two halves; routes change.
const BASE_LIFETIME: Duration = Duration::from_secs(600);

/// Interval after which the relay yields for two steps, to measure the round trip without its own queue (LEDBAT++).
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Measurement of a connection since its previous one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineSample {
    /// Round trip measured by the receiver; `None` if there was no new measurement.
    pub(crate) round_trip: Option<Duration>,
    /// Bytes received.
    pub(crate) received: u64,
    /// True if packets arrived out of order: others were dropped.
    pub(crate) disorder: bool,
}

/// The rate, and its control state.
#[derive(Debug)]
pub(super) struct Scavenger {
    rate: f64,
    /// True once the line has queued; until then the rate doubles.
    has_queued: bool,
    base: BaseDelay,
    step: ObservationStep,
    unmeasured: u32,
    /// Time of the last measurement without the relay's own queue.
    probed_at: Nanos,
    /// Remaining steps of such a measurement, and the rate to restore.
    probe: Option<(u32, f64)>,
}

#[derive(Debug)]
struct ObservationStep {
    begun: Nanos,
    shortest: Option<Duration>,
    received: u64,
    disorder: bool,
}

/// Steps with bytes and without a measured round trip, after which none is expected: the kernel drops round trips
/// below its 1 ms clock.
const MAX_UNMEASURED: u32 = 3;

/// Shortest round trip of the current half of the memory, and of the previous one.
#[derive(Debug)]
struct BaseDelay {
    begun: Nanos,
    now: Option<Duration>,
    before: Option<Duration>,
}

impl Scavenger {
    pub(super) fn new(now: Nanos) -> Self {
        Self {
            rate: INITIAL_RATE,
            has_queued: false,
            base: BaseDelay { begun: now, now: None, before: None },
            step: ObservationStep::new(now),
            unmeasured: 0,
            probed_at: now,
            probe: None,
        }
    }

    /// Returns the current rate in bytes per second.
    pub(super) fn rate(&self) -> u64 {
        self.rate.clamp(MIN_RATE, MAX_RATE) as u64
    }

    /// Returns the bytes in flight that build no longer queue than the target.
    pub(super) fn window(&self) -> u64 {
        let time = self.base.known().unwrap_or_default().saturating_add(TARGET.saturating_mul(2));
        (self.rate * time.as_secs_f64()) as u64
    }

    /// Records a sample; returns true if the rate changed.
    pub(super) fn observe(&mut self, sample: LineSample, now: Nanos) -> bool {
        let passed = Duration::from_nanos(now.saturating_sub(self.step.begun));
        if passed > IDLE_AFTER {
            self.step = ObservationStep::new(now);
            return false;
        }
        self.step.shortest = self.step.shortest.into_iter().chain(sample.round_trip).min();
        self.step.received = self.step.received.saturating_add(sample.received);
        self.step.disorder |= sample.disorder;
        if passed < DECISION_INTERVAL {
            return false;
        }
        let ObservationStep { shortest, received, disorder, .. } =
            std::mem::replace(&mut self.step, ObservationStep::new(now));
        let delay = match shortest {
            Some(shortest) => {
                self.unmeasured = 0;
                shortest.saturating_sub(self.base.shortest(shortest, now))
            }
            None => {
                self.unmeasured = self.unmeasured.saturating_add(u32::from(received > 0));
                if self.unmeasured < MAX_UNMEASURED && !disorder {
                    return false;
                }
                Duration::ZERO
            }
        };
        tracing::trace!(rate = self.rate, ?shortest, ?delay, received, disorder, "the line");
        self.decide(delay, disorder, received as f64 / passed.as_secs_f64(), now);
        true
    }

    fn decide(&mut self, delay: Duration, disorder: bool, received_rate: f64, now: Nanos) {
        if let Some((steps, before)) = self.probe {
            match steps {
                0 => (self.probe, self.rate) = (None, before),
                _ => self.probe = Some((steps.saturating_sub(1), before)),
            }
            return;
        }
        let excess = delay.as_secs_f64() / TARGET.as_secs_f64();
        if disorder || excess > 2.0 {
            // Other traffic fills the line.
            self.has_queued = true;
            self.rate = (self.rate.min(received_rate.max(MIN_RATE)) * 0.5).max(MIN_RATE);
        } else if excess > 1.0 {
            // The received rate is the line's capacity; a little less drains the queue.
            self.has_queued = true;
            self.rate = (self.rate.min(received_rate) * (1.0 - (excess - 1.0) / 8.0)).max(MIN_RATE);
        } else if received_rate > 0.7 * self.rate {
            // An unused rate proves nothing.
            let grow = if self.has_queued { 0.05 * (1.0 - excess) } else { 0.5 };
            self.rate = (self.rate * (1.0 + grow)).min(MAX_RATE);
        }
        if self.has_queued && Duration::from_nanos(now.saturating_sub(self.probed_at)) > PROBE_INTERVAL {
            self.probed_at = now;
            self.probe = Some((2, self.rate));
            self.rate = (self.rate / 4.0).max(MIN_RATE);
        }
    }
}

impl ObservationStep {
    fn new(begun: Nanos) -> Self {
        Self { begun, shortest: None, received: 0, disorder: false }
    }
}

impl BaseDelay {
    /// Returns the shortest known round trip, including this one.
    fn shortest(&mut self, sample: Duration, now: Nanos) -> Duration {
        if Duration::from_nanos(now.saturating_sub(self.begun)).saturating_mul(2) > BASE_LIFETIME {
            (self.begun, self.before, self.now) = (now, self.now, None);
        }
        self.now = Some(self.now.map_or(sample, |known| known.min(sample)));
        self.known().unwrap_or(sample)
    }

    fn known(&self) -> Option<Duration> {
        [self.now, self.before].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of 10 Mbit/s and 20 ms with 200 ms of buffer, in bytes and seconds.
    struct SimulatedLine {
        now: f64,
        queue: f64,
        scavenger: Scavenger,
        ours: f64,
        theirs: f64,
    }

    const CAPACITY: f64 = 1.25e6;
    const BUFFER: f64 = CAPACITY * 0.2;
    const TICK: f64 = 0.01;

    impl SimulatedLine {
        fn new() -> Self {
            Self { now: 0.0, queue: 0.0, scavenger: Scavenger::new(0), ours: 0.0, theirs: 0.0 }
        }

        /// Runs for some seconds beside traffic of the offered rate; returns each one's share of the line.
        fn run(&mut self, seconds: f64, offered: impl Fn(f64) -> f64) -> (f64, f64) {
            (self.ours, self.theirs) = (0.0, 0.0);
            let end = self.now + seconds;
            while self.now < end {
                self.now += TICK;
                let (ours, theirs) = (self.scavenger.rate() as f64 * TICK, offered(self.now) * TICK);
                let carried = (self.queue + ours + theirs).min(CAPACITY * TICK);
                let arrived = ours + theirs;
                let mine = if arrived > 0.0 { carried * ours / arrived } else { 0.0 };
                self.ours += mine;
                self.theirs += carried - mine;
                self.queue = (self.queue + arrived - CAPACITY * TICK).max(0.0);
                let disorder = self.queue > BUFFER;
                self.queue = self.queue.min(BUFFER);
                let sample = LineSample {
                    round_trip: Some(Duration::from_secs_f64(0.02 + self.queue / CAPACITY)),
                    received: mine as u64,
                    disorder,
                };
                self.scavenger.observe(sample, (self.now * 1e9) as Nanos);
            }
            (self.ours / seconds / CAPACITY, self.theirs / seconds / CAPACITY)
        }
    }

    #[test]
    fn idle_line_is_used_with_a_short_queue() {
        let mut line = SimulatedLine::new();
        line.run(5.0, |_| 0.0);
        let (ours, _) = line.run(120.0, |_| 0.0);
        assert!(ours > 0.9, "{ours}");
        assert!(line.queue / CAPACITY < 2.0 * TARGET.as_secs_f64(), "{} s of queue", line.queue / CAPACITY);
    }

    #[test]
    fn scavenger_yields_to_others_and_recovers() {
        let mut line = SimulatedLine::new();
        line.run(10.0, |_| 0.0);
        line.run(2.0, |_| CAPACITY);
        let (ours, theirs) = line.run(60.0, |_| CAPACITY);
        assert!(ours < 0.05 && theirs > 0.95, "{ours} {theirs}");
        line.run(8.0, |_| 0.0);
        let (ours, _) = line.run(20.0, |_| 0.0);
        assert!(ours > 0.9, "{ours}");
    }

    #[test]
    fn spare_capacity_is_used() {
        let mut line = SimulatedLine::new();
        line.run(10.0, |_| 0.0);
        let (ours, theirs) = line.run(60.0, |_| 0.5 * CAPACITY);
        assert!(theirs > 0.49 && ours > 0.35, "{ours} {theirs}");
    }

    #[test]
    fn idle_time_does_not_lower_the_rate() {
        let mut line = SimulatedLine::new();
        line.run(10.0, |_| 0.0);
        line.now += 60.0;
        // A download starts, and its first packets queue.
        let round_trip = Some(Duration::from_millis(50));
        let first = LineSample { round_trip, received: 64 << 10, disorder: false };
        line.scavenger.observe(first, (line.now * 1e9) as Nanos);
        line.queue = 0.0;
        let (ours, _) = line.run(2.0, |_| 0.0);
        assert!(ours > 0.7, "{ours}");
    }

    #[test]
    fn unused_rate_does_not_grow() {
        let mut scavenger = Scavenger::new(0);
        for step in 1..100 {
            let sample =
                LineSample { round_trip: Some(Duration::from_millis(20)), received: 100, disorder: false };
            scavenger.observe(sample, step * 100_000_000);
        }
        assert_eq!(scavenger.rate(), INITIAL_RATE as u64);
    }
}
