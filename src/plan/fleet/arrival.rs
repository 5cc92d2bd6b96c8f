//! Record of an object's transfer: the times at which equal parts of it had arrived. A rate on a shared line changes
//! with every transfer that starts or ends there; the parts keep a site's simulation short. The start, the end and the
//! bytes at the end of each part are exact, so no rounding makes a faster transfer arrive later.

use super::super::curve::Curve;

/// Parts of an object. More would move the times of clients by less than one part of the transfer's time.
const PARTS: u32 = 64;

/// Minimum seconds of a part: at 10 Gbit/s a kilobyte, and a rate that is finite.
const MIN_PART: f64 = 1e-6;

/// Relative difference below which two rates count as equal.
const ROUNDING: f64 = 1e-9;

/// Transfer of one object.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    bytes: f64,
    arrived: f64,
    /// Times and the bytes that had arrived: the start, then each part.
    points: Vec<(f64, f64)>,
    /// Number of whole parts that have arrived.
    parts: u32,
}

impl Arrival {
    /// Creates a transfer that starts now.
    pub(super) fn start(bytes: f64, now: f64) -> Self {
        Self { bytes, arrived: 0.0, points: vec![(now, 0.0)], parts: 0 }
    }

    /// Bytes that are missing.
    pub(super) fn missing(&self) -> f64 {
        self.bytes - self.arrived
    }

    /// Bytes that have arrived.
    pub(super) fn arrived(&self) -> f64 {
        self.arrived
    }

    /// Advances from `now` at this rate.
    pub(super) fn advance(&mut self, now: f64, seconds: f64, rate: f64) {
        let before = self.arrived;
        self.arrived = (before + rate * seconds).min(self.bytes);
        while self.parts + 1 < PARTS {
            let end = self.bytes * f64::from(self.parts + 1) / f64::from(PARTS);
            if end > self.arrived {
                break;
            }
            self.parts += 1;
            self.push(now + (end - before) / rate, end);
        }
    }

    /// Ends the transfer: it is complete.
    pub(super) fn complete(&mut self, now: f64) {
        self.arrived = self.bytes;
        self.push(now, self.bytes);
    }

    fn push(&mut self, time: f64, bytes: f64) {
        match self.points.last_mut() {
            Some(last) if last.1 > 0.0 && time - last.0 < MIN_PART => last.1 = bytes,
            _ => self.points.push((time, bytes)),
        }
    }

    /// Returns the rate over time. After the last part it stays, so that rounding leaves no byte missing.
    pub(super) fn curve(&self, horizon: f64) -> Curve {
        let unfinished = (self.missing() > 0.0).then_some((horizon, self.arrived));
        let ends = self.points.iter().skip(1).copied().chain(unfinished);
        let mut steps: Vec<(f64, f64)> = Vec::new();
        for (begin, end) in self.points.iter().zip(ends) {
            let rate = (end.1 - begin.1) / (end.0 - begin.0).max(MIN_PART);
            if steps.last().is_none_or(|last| (last.1 - rate).abs() > rate * ROUNDING) {
                steps.push((begin.0, rate));
            }
        }
        Curve::from_steps(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curve_has_one_step_at_a_constant_rate() {
        let mut arrival = Arrival::start(640.0, 5.0);
        arrival.advance(5.0, 4.0, 100.0);
        arrival.advance(9.0, 2.4, 100.0);
        arrival.complete(11.4);
        assert_eq!(arrival.missing(), 0.0);
        let curve = arrival.curve(100.0);
        assert_eq!(([0.0, 4.9].map(|t| curve.rate_at(t)), curve.next_change(5.0)), ([0.0; 2], None));
        assert!((curve.rate_at(6.0) - 100.0).abs() < 1e-6);
    }

    #[test]
    fn parts_keep_bytes_when_the_rate_changes() {
        let mut arrival = Arrival::start(64.0, 0.0);
        arrival.advance(0.0, 0.5, 1.0);
        arrival.advance(0.5, 100.0, 0.5);
        let curve = arrival.curve(100.5);
        let (mut at, mut bytes) = (0.0, 0.0);
        while let Some(next) = curve.next_change(at) {
            bytes += curve.rate_at(at) * (next - at);
            at = next;
        }
        bytes += curve.rate_at(at) * (100.5 - at);
        assert!((bytes - 50.5).abs() < 1e-6 && (arrival.arrived() - 50.5).abs() < 1e-9, "{bytes}");
        // The first part took half a second at 1 and one second at 0.5.
        assert!((curve.rate_at(0.0) - 1.0 / 1.5).abs() < 1e-9);
    }

    #[test]
    fn object_of_a_byte_has_a_finite_rate() {
        let mut arrival = Arrival::start(1.0, 1e6);
        arrival.advance(1e6, 1e-9, 1e9);
        arrival.complete(1e6);
        assert!(arrival.curve(2e6).rate_at(1e6).is_finite());
    }
}
