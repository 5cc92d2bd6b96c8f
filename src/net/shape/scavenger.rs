//! How fast the relay may go without others on the line noticing: below the rate at which the line begins to queue. A
//! scavenger like LEDBAT (RFC 6817), at the receiver: it raises its rate while the round trip is as short as it ever
//! was, holds it where a little queue stands, and gives way when others fill that or packets come out of order. A pure
//! function of what connections tell; `upstream::tcp` asks the kernel.

use std::time::Duration;

use super::bucket::Nanos;

/// Queue to keep on the line at most, as time (RFC 6817 calls it the target, and allows 100 ms): enough to see it over the
/// millisecond that the kernel counts in. With 25 ms a download by BBR, which itself keeps queues short, had 62 % of its
/// rate beside the relay; with this, 95 %.
const TARGET: Duration = Duration::from_millis(10);

/// Time between two decisions: the round trip of most lines, so that one's effect is seen by the next.
const STEP: Duration = Duration::from_millis(100);

/// A step that lasted longer had idle time in it: how fast it went then says nothing about the line.
const IDLE: Duration = Duration::from_secs(1);

/// The rate that is never given up, in bytes a second: without any traffic nobody would see that the line is free.
const FLOOR: f64 = 16.0 * 1024.0;

/// Rate to begin with.
const FIRST: f64 = 8.0 * FLOOR;

/// The rate above which nothing is steered: 100 Gbit/s.
const CEILING: f64 = 12.5e9;

/// The shortest round trip counts this long, in two halves; routes change.
const MEMORY: Duration = Duration::from_secs(600);

/// Time after which the relay makes way for two steps, to see the round trip without its own queue (LEDBAT++).
const LOOK: Duration = Duration::from_secs(30);

/// What a connection has seen since it told last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineSample {
    /// The round trip, as the receiving side measures it; `None` if it measured none since.
    pub(crate) round_trip: Option<Duration>,
    /// Bytes that came.
    pub(crate) received: u64,
    /// Packets came out of order: others were dropped.
    pub(crate) disorder: bool,
}

/// The rate, and what it is steered by.
#[derive(Debug)]
pub(super) struct Yielding {
    rate: f64,
    /// Whether the line has ever queued: until then the rate doubles.
    found: bool,
    base: Base,
    step: Step,
    unseen: u32,
    /// When it last looked at the line without its own queue.
    looked: Nanos,
    /// Steps that this still takes, and the rate to come back to.
    looking: Option<(u32, f64)>,
}

#[derive(Debug)]
struct Step {
    begun: Nanos,
    shortest: Option<Duration>,
    received: u64,
    disorder: bool,
}

/// Steps in which bytes came and no round trip was measured, after which there is none to see: the kernel drops what is
/// below its clock's millisecond.
const UNSEEN: u32 = 3;

/// The shortest round trip of this half of the memory, and of the one before.
#[derive(Debug)]
struct Base {
    begun: Nanos,
    now: Option<Duration>,
    before: Option<Duration>,
}

impl Yielding {
    pub(super) fn new(now: Nanos) -> Self {
        Self {
            rate: FIRST,
            found: false,
            base: Base { begun: now, now: None, before: None },
            step: Step::new(now),
            unseen: 0,
            looked: now,
            looking: None,
        }
    }

    /// The rate now, in bytes a second.
    pub(super) fn rate(&self) -> u64 {
        self.rate.clamp(FLOOR, CEILING) as u64
    }

    /// Bytes that may be on their way: no more than can be without a longer queue than is wanted.
    pub(super) fn window(&self) -> u64 {
        let time = self.base.known().unwrap_or_default() + 2 * TARGET;
        (self.rate * time.as_secs_f64()) as u64
    }

    /// Takes in what a connection has seen; whether the rate is another one now.
    pub(super) fn observe(&mut self, sample: LineSample, now: Nanos) -> bool {
        let passed = Duration::from_nanos(now.saturating_sub(self.step.begun));
        if passed > IDLE {
            self.step = Step::new(now);
            return false;
        }
        self.step.shortest = self.step.shortest.into_iter().chain(sample.round_trip).min();
        self.step.received += sample.received;
        self.step.disorder |= sample.disorder;
        if passed < STEP {
            return false;
        }
        let Step { shortest, received, disorder, .. } = std::mem::replace(&mut self.step, Step::new(now));
        let delay = match shortest {
            Some(shortest) => {
                self.unseen = 0;
                shortest.saturating_sub(self.base.shortest(shortest, now))
            }
            None => {
                self.unseen += u32::from(received > 0);
                if self.unseen < UNSEEN && !disorder {
                    return false;
                }
                Duration::ZERO
            }
        };
        tracing::trace!(rate = self.rate, ?shortest, ?delay, received, disorder, "the line");
        self.decide(delay, disorder, received as f64 / passed.as_secs_f64(), now);
        true
    }

    fn decide(&mut self, delay: Duration, disorder: bool, came: f64, now: Nanos) {
        if let Some((steps, before)) = self.looking {
            match steps {
                0 => (self.looking, self.rate) = (None, before),
                _ => self.looking = Some((steps - 1, before)),
            }
            return;
        }
        let off = delay.as_secs_f64() / TARGET.as_secs_f64();
        if disorder || off > 2.0 {
            // Somebody else fills the line.
            self.found = true;
            self.rate = (self.rate.min(came.max(FLOOR)) * 0.5).max(FLOOR);
        } else if off > 1.0 {
            // What came is what the line carries; a little less, and the queue goes.
            self.found = true;
            self.rate = (self.rate.min(came) * (1.0 - (off - 1.0) / 8.0)).max(FLOOR);
        } else if came > 0.7 * self.rate {
            // What is not used proves nothing.
            let grow = if self.found { 0.05 * (1.0 - off) } else { 0.5 };
            self.rate = (self.rate * (1.0 + grow)).min(CEILING);
        }
        if self.found && Duration::from_nanos(now.saturating_sub(self.looked)) > LOOK {
            self.looked = now;
            self.looking = Some((2, self.rate));
            self.rate = (self.rate / 4.0).max(FLOOR);
        }
    }
}

impl Step {
    fn new(begun: Nanos) -> Self {
        Self { begun, shortest: None, received: 0, disorder: false }
    }
}

impl Base {
    /// The shortest round trip known, with this one.
    fn shortest(&mut self, seen: Duration, now: Nanos) -> Duration {
        if Duration::from_nanos(now.saturating_sub(self.begun)) > MEMORY / 2 {
            (self.begun, self.before, self.now) = (now, self.now, None);
        }
        self.now = Some(self.now.map_or(seen, |known| known.min(seen)));
        self.known().unwrap_or(seen)
    }

    fn known(&self) -> Option<Duration> {
        [self.now, self.before].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of 10 Mbit/s and 20 ms with 200 ms of buffer, as bytes and seconds.
    struct Line {
        now: f64,
        queue: f64,
        yielding: Yielding,
        ours: f64,
        theirs: f64,
    }

    const CAPACITY: f64 = 1.25e6;
    const BUFFER: f64 = CAPACITY * 0.2;
    const TICK: f64 = 0.01;

    impl Line {
        fn new() -> Self {
            Self { now: 0.0, queue: 0.0, yielding: Yielding::new(0), ours: 0.0, theirs: 0.0 }
        }

        /// Runs for some seconds beside traffic that offers so much; gives what each had of the line.
        fn run(&mut self, seconds: f64, offered: impl Fn(f64) -> f64) -> (f64, f64) {
            (self.ours, self.theirs) = (0.0, 0.0);
            let end = self.now + seconds;
            while self.now < end {
                self.now += TICK;
                let (ours, theirs) = (self.yielding.rate() as f64 * TICK, offered(self.now) * TICK);
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
                self.yielding.observe(sample, (self.now * 1e9) as Nanos);
            }
            (self.ours / seconds / CAPACITY, self.theirs / seconds / CAPACITY)
        }
    }

    #[test]
    fn an_idle_line_is_used_and_hardly_queues() {
        let mut line = Line::new();
        line.run(5.0, |_| 0.0);
        let (ours, _) = line.run(120.0, |_| 0.0);
        assert!(ours > 0.9, "{ours}");
        assert!(line.queue / CAPACITY < 2.0 * TARGET.as_secs_f64(), "{} s of queue", line.queue / CAPACITY);
    }

    #[test]
    fn who_fills_the_line_has_it_and_when_they_go_it_is_used_again() {
        let mut line = Line::new();
        line.run(10.0, |_| 0.0);
        line.run(2.0, |_| CAPACITY);
        let (ours, theirs) = line.run(60.0, |_| CAPACITY);
        assert!(ours < 0.05 && theirs > 0.95, "{ours} {theirs}");
        line.run(8.0, |_| 0.0);
        let (ours, _) = line.run(20.0, |_| 0.0);
        assert!(ours > 0.9, "{ours}");
    }

    #[test]
    fn what_others_leave_of_the_line_is_used() {
        let mut line = Line::new();
        line.run(10.0, |_| 0.0);
        let (ours, theirs) = line.run(60.0, |_| 0.5 * CAPACITY);
        assert!(theirs > 0.49 && ours > 0.35, "{ours} {theirs}");
    }

    #[test]
    fn idle_time_does_not_count_as_time_in_which_little_came() {
        let mut line = Line::new();
        line.run(10.0, |_| 0.0);
        line.now += 60.0;
        // A download begins, and its first packets queue.
        let round_trip = Some(Duration::from_millis(50));
        let first = LineSample { round_trip, received: 64 << 10, disorder: false };
        line.yielding.observe(first, (line.now * 1e9) as Nanos);
        line.queue = 0.0;
        let (ours, _) = line.run(2.0, |_| 0.0);
        assert!(ours > 0.7, "{ours}");
    }

    #[test]
    fn a_rate_that_is_not_used_does_not_grow() {
        let mut yielding = Yielding::new(0);
        for step in 1..100 {
            let sample =
                LineSample { round_trip: Some(Duration::from_millis(20)), received: 100, disorder: false };
            yielding.observe(sample, step * 100_000_000);
        }
        assert_eq!(yielding.rate(), FIRST as u64);
    }
}
