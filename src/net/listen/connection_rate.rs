//! Rate of new connections per client, by the generic cell rate algorithm (ITU-T I.371). A client may open one
//! second's worth at once, then one whenever the rate permits. Uses the runtime's clock. Without a limit, the
//! default, a connection costs one load.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::shape::Nanos;
use gupd_config::Config;

/// Clients tracked in each of two generations; the least recently seen are dropped first and get a new second's
/// worth.
///
/// A client without a connection in the last second needs no entry. The bound matters only with this many clients in
/// a second, or one client with as many addresses. About 2 MiB in all.
const MAX_CLIENTS: usize = 16_384;

const SECOND: Nanos = 1_000_000_000;

/// Limit on new connections per client.
#[derive(Debug)]
pub struct ConnectionRateLimiter {
    created: Instant,
    /// Connections per second of one client; 0 without a limit, since a limit is at least 1.
    rate: AtomicU32,
    // Locked for a lookup, by acceptors only.
    arrivals: Mutex<ArrivalTimes>,
}

/// Theoretical arrival time of each client: when it will have its full allowance again.
#[derive(Debug, Default)]
struct ArrivalTimes {
    young: HashMap<IpAddr, Nanos>,
    old: HashMap<IpAddr, Nanos>,
}

impl ConnectionRateLimiter {
    /// Creates the limit of a configuration.
    pub fn new(config: &Config) -> Self {
        let limiter = Self { created: Instant::now(), rate: AtomicU32::new(0), arrivals: Mutex::default() };
        limiter.reconfigure(config);
        limiter
    }

    /// Applies another limit.
    pub fn reconfigure(&self, config: &Config) {
        self.rate.store(config.lan.client_connections.unwrap_or(0), Ordering::Relaxed);
    }

    /// Returns true if `client` may open a connection now, and counts it.
    pub fn admit(&self, client: IpAddr) -> bool {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return true;
        }
        let now = u64::try_from(self.created.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.admit(client.to_canonical(), rate, now)
    }
}

impl ArrivalTimes {
    fn admit(&mut self, client: IpAddr, rate: u32, now: Nanos) -> bool {
        let known = self.young.get(&client).or_else(|| self.old.get(&client)).copied();
        // Whole nanoseconds: the highest rate has a thousand per second.
        let interval = SECOND / u64::from(rate);
        let due = known.unwrap_or(0).max(now) + interval;
        let admitted = due - now <= interval * u64::from(rate);
        // A refused client is recorded too, so that its entry is not dropped.
        self.record(client, if admitted { due } else { due - interval });
        admitted
    }

    fn record(&mut self, client: IpAddr, due: Nanos) {
        if self.young.len() >= MAX_CLIENTS && !self.young.contains_key(&client) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(client, due);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    fn admitted(arrivals: &mut ArrivalTimes, rate: u32, times: impl Iterator<Item = Nanos>) -> usize {
        times.filter(|now| arrivals.admit(client(1), rate, *now)).count()
    }

    #[test]
    fn burst_of_one_second_is_admitted_then_single_ones() {
        let mut arrivals = ArrivalTimes::default();
        assert_eq!(admitted(&mut arrivals, 5, std::iter::repeat_n(0, 20)), 5);
        assert_eq!(admitted(&mut arrivals, 5, std::iter::repeat_n(SECOND / 5, 20)), 1);
        assert!(arrivals.admit(client(2), 5, SECOND / 5));
        assert_eq!(admitted(&mut arrivals, 5, std::iter::repeat_n(10 * SECOND, 20)), 5);
    }

    #[test]
    fn least_recently_seen_clients_are_dropped() {
        let mut arrivals = ArrivalTimes::default();
        assert!(arrivals.admit(client(0), 1, 0));
        for number in 1..=3 * u32::try_from(MAX_CLIENTS).unwrap() {
            arrivals.admit(client(number), 1, 0);
            if number < 2 * u32::try_from(MAX_CLIENTS).unwrap() && number % 1_000 == 0 {
                assert!(!arrivals.admit(client(0), 1, 0), "recently seen");
            }
            assert!(arrivals.young.len() <= MAX_CLIENTS && arrivals.old.len() <= MAX_CLIENTS);
        }
        assert!(arrivals.admit(client(0), 1, 0));
    }

    proptest! {
        #[test]
        fn admissions_never_exceed_burst_plus_rate(
            rate in 1..50u32,
            gaps in proptest::collection::vec(0..100_000_000u64, 1..300),
        ) {
            let mut arrivals = ArrivalTimes::default();
            let mut now = 0;
            let mut times = Vec::new();
            for interval in gaps {
                now += interval;
                if arrivals.admit(client(1), rate, now) {
                    times.push(now);
                }
            }
            for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first) {
                    let most = u64::from(rate) + (to - from) / (SECOND / u64::from(rate));
                    prop_assert!((last - first + 1) as u64 <= most, "{} in {} ns", last - first + 1, to - from);
                }
            }
        }
    }
}
