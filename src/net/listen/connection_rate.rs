//! New connections of each client, by the generic cell rate algorithm (ITU-T I.371): a client may make a second's worth
//! at once, and then one whenever the rate has earned it. Owns who counts as one client here; relies on the runtime's
//! clock. Without a limit, which is the default, it costs a connection one look at a number.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use gupd_config::Config;

/// Clients known at once, in each of two generations; the least recently seen are forgotten first, and have a second's
/// worth again. A client that made no connection for a second has nothing to be known for, so this is reached by a site
/// with as many clients in a second, or by one client with as many addresses. About 2 MiB in all.
const CLIENTS: usize = 16_384;

/// Nanoseconds.
type Nanos = u64;

const SECOND: Nanos = 1_000_000_000;

/// How many connections clients have made lately.
#[derive(Debug)]
pub struct ConnectionRateLimiter {
    begun: Instant,
    /// Connections a second of one client; 0 for no limit: a limit is at least 1.
    rate: AtomicU32,
    // Held for a look-up, by acceptors only.
    seen: Mutex<Seen>,
}

/// For each client, when it will have used up nothing again: its theoretical arrival time.
#[derive(Debug, Default)]
struct Seen {
    young: HashMap<IpAddr, Nanos>,
    old: HashMap<IpAddr, Nanos>,
}

impl ConnectionRateLimiter {
    /// The limit of a configuration.
    pub fn new(config: &Config) -> Self {
        let newcomers = Self { begun: Instant::now(), rate: AtomicU32::new(0), seen: Mutex::default() };
        newcomers.reconfigure(config);
        newcomers
    }

    /// Another limit from now on.
    pub fn reconfigure(&self, config: &Config) {
        self.rate.store(config.lan.client_connections.unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether `client` may make one more connection now; if so, it has.
    pub fn admit(&self, client: IpAddr) -> bool {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return true;
        }
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.admit(client.to_canonical(), rate, now)
    }
}

impl Seen {
    fn admit(&mut self, client: IpAddr, rate: u32, now: Nanos) -> bool {
        let known = self.young.get(&client).or_else(|| self.old.get(&client)).copied();
        // In whole nanoseconds: the highest rate has a thousand.
        let gap = SECOND / u64::from(rate);
        let due = known.unwrap_or(0).max(now) + gap;
        let admitted = due - now <= gap * u64::from(rate);
        // Who is refused is seen too: it must not be forgotten for it.
        self.see(client, if admitted { due } else { due - gap });
        admitted
    }

    fn see(&mut self, client: IpAddr, due: Nanos) {
        if self.young.len() >= CLIENTS && !self.young.contains_key(&client) {
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

    fn admitted(seen: &mut Seen, rate: u32, times: impl Iterator<Item = Nanos>) -> usize {
        times.filter(|now| seen.admit(client(1), rate, *now)).count()
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_then_one_at_a_time() {
        let mut seen = Seen::default();
        assert_eq!(admitted(&mut seen, 5, std::iter::repeat_n(0, 20)), 5);
        assert_eq!(admitted(&mut seen, 5, std::iter::repeat_n(SECOND / 5, 20)), 1);
        assert!(seen.admit(client(2), 5, SECOND / 5));
        assert_eq!(admitted(&mut seen, 5, std::iter::repeat_n(10 * SECOND, 20)), 5);
    }

    #[test]
    fn of_too_many_clients_those_seen_least_recently_are_forgotten() {
        let mut seen = Seen::default();
        assert!(seen.admit(client(0), 1, 0));
        for number in 1..=3 * u32::try_from(CLIENTS).unwrap() {
            seen.admit(client(number), 1, 0);
            if number < 2 * u32::try_from(CLIENTS).unwrap() && number % 1_000 == 0 {
                assert!(!seen.admit(client(0), 1, 0), "seen lately");
            }
            assert!(seen.young.len() <= CLIENTS && seen.old.len() <= CLIENTS);
        }
        assert!(seen.admit(client(0), 1, 0));
    }

    proptest! {
        #[test]
        fn in_any_time_there_are_no_more_than_the_burst_and_what_the_rate_earns(
            rate in 1..50u32,
            gaps in proptest::collection::vec(0..100_000_000u64, 1..300),
        ) {
            let mut seen = Seen::default();
            let mut now = 0;
            let mut times = Vec::new();
            for gap in gaps {
                now += gap;
                if seen.admit(client(1), rate, now) {
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
