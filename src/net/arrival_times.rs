//! Allowances of clients over time, by the generic cell rate algorithm (ITU-T I.371): a client may spend a whole allowance
//! at once, then as much as time brings back. A pure function of the calls and their times, with bounded memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::shape::Nanos;

/// Clients tracked in each of two generations; the least recently seen are dropped first and get a new allowance.
///
/// The bound matters only with this many clients in a period, or one client with as many addresses. About 2 MiB in all.
const MAX_CLIENTS: usize = 16_384;

/// An amount that each client may spend in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// At least 1.
    pub(crate) amount: u64,
    pub(crate) period: Duration,
}

/// Theoretical arrival time of each client: when it will have its full allowance again.
#[derive(Debug, Default)]
pub(crate) struct ArrivalTimes {
    young: HashMap<IpAddr, Nanos>,
    old: HashMap<IpAddr, Nanos>,
}

impl Allowance {
    fn period(&self) -> Nanos {
        u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the time that brings `amount` back.
    fn time_of(&self, amount: u64) -> Nanos {
        let time = u128::from(amount).saturating_mul(self.period.as_nanos());
        let time = time.checked_div(u128::from(self.amount.max(1)));
        time.and_then(|time| u64::try_from(time).ok()).unwrap_or(u64::MAX)
    }
}

impl ArrivalTimes {
    /// Spends `amount` if the client has it; returns true if it did.
    pub(crate) fn admit(&mut self, client: IpAddr, allowance: Allowance, amount: u64, now: Nanos) -> bool {
        let admitted = self.waiting_time(client, allowance, amount, now) == 0;
        // A refused client is recorded too, so that its entry is not dropped.
        self.spend(client, allowance, if admitted { amount } else { 0 }, now);
        admitted
    }

    /// Spends `amount`, even if the client does not have it.
    pub(crate) fn spend(&mut self, client: IpAddr, allowance: Allowance, amount: u64, now: Nanos) {
        let due = self.due(client).max(now).saturating_add(allowance.time_of(amount));
        if self.young.len() >= MAX_CLIENTS && !self.young.contains_key(&client) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(client, due);
    }

    /// Returns the time after which the client has `amount`; 0 if it has it now.
    pub(crate) fn waiting_time(
        &self,
        client: IpAddr,
        allowance: Allowance,
        amount: u64,
        now: Nanos,
    ) -> Nanos {
        let due = self.due(client).max(now).saturating_add(allowance.time_of(amount));
        due.saturating_sub(now).saturating_sub(allowance.period())
    }

    fn due(&self, client: IpAddr) -> Nanos {
        self.young.get(&client).or_else(|| self.old.get(&client)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn client(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    fn a_second(amount: u64) -> Allowance {
        Allowance { amount, period: Duration::from_secs(1) }
    }

    fn admitted(arrivals: &mut ArrivalTimes, rate: u64, times: impl Iterator<Item = Nanos>) -> usize {
        times.filter(|now| arrivals.admit(client(1), a_second(rate), 1, *now)).count()
    }

    #[test]
    fn burst_of_one_period_is_admitted_then_single_ones() {
        let mut arrivals = ArrivalTimes::default();
        assert_eq!(admitted(&mut arrivals, 5, std::iter::repeat_n(0, 20)), 5);
        assert_eq!(admitted(&mut arrivals, 5, std::iter::repeat_n(SECOND / 5, 20)), 1);
        assert!(arrivals.admit(client(2), a_second(5), 1, SECOND / 5));
        assert_eq!(admitted(&mut arrivals, 5, std::iter::repeat_n(10 * SECOND, 20)), 5);
    }

    #[test]
    fn amount_beyond_the_allowance_is_owed() {
        let mut arrivals = ArrivalTimes::default();
        let allowance = a_second(1 << 30);
        arrivals.spend(client(1), allowance, 3 << 30, 0);
        assert_eq!(arrivals.waiting_time(client(1), allowance, 0, 0), 2 * SECOND);
        assert!(!arrivals.admit(client(1), allowance, 1 << 29, 2 * SECOND));
        assert!(arrivals.admit(client(1), allowance, 1 << 29, 5 * SECOND / 2));
    }

    #[test]
    fn least_recently_seen_clients_are_dropped() {
        let mut arrivals = ArrivalTimes::default();
        assert!(arrivals.admit(client(0), a_second(1), 1, 0));
        for number in 1..=3 * u32::try_from(MAX_CLIENTS).unwrap() {
            arrivals.admit(client(number), a_second(1), 1, 0);
            if number < 2 * u32::try_from(MAX_CLIENTS).unwrap() && number % 1_000 == 0 {
                assert!(!arrivals.admit(client(0), a_second(1), 1, 0), "recently seen");
            }
            assert!(arrivals.young.len() <= MAX_CLIENTS && arrivals.old.len() <= MAX_CLIENTS);
        }
        assert!(arrivals.admit(client(0), a_second(1), 1, 0));
    }

    proptest! {
        #[test]
        fn admissions_never_exceed_burst_plus_rate(
            rate in 1..50u64,
            gaps in proptest::collection::vec(0..100_000_000u64, 1..300),
        ) {
            let mut arrivals = ArrivalTimes::default();
            let mut now = 0;
            let mut times = Vec::new();
            for interval in gaps {
                now += interval;
                if arrivals.admit(client(1), a_second(rate), 1, now) {
                    times.push(now);
                }
            }
            for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first) {
                    let most = rate + (to - from) / (SECOND / rate);
                    prop_assert!((last - first + 1) as u64 <= most, "{} in {} ns", last - first + 1, to - from);
                }
            }
        }
    }
}
