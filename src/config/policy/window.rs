//! Scheduled starts of downloads: the offset of each client within a spread, and the decision on one request. Pure
//! functions of client, revision and time, so a restart, a reload or another relay decides the same.
//!
//! A client may start from `start + offset` until its group's window closes. `start` is the opening of the window, or
//! the first request for the revision if that is later; without windows it is always the latter. A client with a start
//! after the window closes starts in the next one, counted from its opening. A spread is shortened to fit each window.

use std::net::IpAddr;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::calendar::Calendar;
use crate::clock::UnixMillis;
use crate::{GroupSettings, client_network};

/// Deferral if a window never opens; no configuration has such a window.
const NEVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Time at which a client may start to download a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduledStart {
    /// The client may start now.
    Now,
    /// The revision is released to all clients at once.
    Emergency,
    /// The client must wait.
    Later {
        /// Scheduled start.
        at: UnixMillis,
    },
}

/// Returns a client's offset within `spread` for this revision: uniform over clients, independent between revisions,
/// and stable. It is the high half of the product of `spread` in milliseconds and the XXH3-64 (seed 0) of the client's
/// address as 16 bytes of IPv6 (IPv4 as `::ffff:a.b.c.d`, IPv6 as its `/64`) followed by the revision's text.
pub fn client_offset(client: IpAddr, revision: &str, spread: Duration) -> Duration {
    let millis = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
    // A remainder would favour the start of the spread.
    let offset = (u128::from(client_hash(client, revision)).saturating_mul(u128::from(millis))) >> 64;
    Duration::from_millis(u64::try_from(offset).unwrap_or(u64::MAX))
}

/// Returns the hash behind [`client_offset`]: 2^64 stands for the whole spread.
pub fn client_hash(client: IpAddr, revision: &str) -> u64 {
    let address = match client_network(client) {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut hash = Xxh3::new();
    hash.update(&address.octets());
    hash.update(revision.as_bytes());
    hash.digest()
}

/// Returns when `client` may start to download from this revision. `seen` is the time of the revision's first request;
/// it is ignored if it is after `now`, because the clock was set back.
pub(super) fn scheduled_start(
    calendar: &Calendar,
    group: &GroupSettings,
    client: IpAddr,
    revision: &str,
    seen: UnixMillis,
    now: UnixMillis,
) -> ScheduledStart {
    let held = calendar.current(&group.windows, now);
    if held.value {
        let opened = calendar.current_since(&group.windows, now);
        let window = Window { opens: opened, closes: held.until };
        let Some(start) = opened.max((seen <= now).then_some(seen)) else { return ScheduledStart::Now };
        let opens = start.saturating_add(millis(window.offset(group, client, revision)));
        if opens <= now {
            return ScheduledStart::Now;
        }
        if held.until.is_none_or(|closes| opens < closes) {
            return ScheduledStart::Later { at: opens };
        }
    }
    let next = if held.value {
        held.until.and_then(|closed| calendar.current(&group.windows, closed).until)
    } else {
        held.until
    };
    let Some(opens) = next else {
        return ScheduledStart::Later { at: now.saturating_add(millis(NEVER)) };
    };
    let window = Window { opens: Some(opens), closes: calendar.current(&group.windows, opens).until };
    ScheduledStart::Later { at: opens.saturating_add(millis(window.offset(group, client, revision))) }
}

// `None` is an open end.
struct Window {
    opens: Option<UnixMillis>,
    closes: Option<UnixMillis>,
}

impl Window {
    fn offset(&self, group: &GroupSettings, client: IpAddr, revision: &str) -> Duration {
        let spread = match (self.opens, self.closes) {
            (Some(opens), Some(closes)) => {
                group.spread_in_window(Duration::from_millis(opens.abs_diff(closes)))
            }
            _ => group.spread,
        };
        client_offset(client, revision, spread)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use jiff::Timestamp;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;
    use crate::{Config, Overrides};

    const HOUR: i64 = 3_600_000;
    const SPREAD: Duration = Duration::from_secs(4 * 3600);

    fn clients(count: u32) -> impl Iterator<Item = IpAddr> {
        let first = u32::from(Ipv4Addr::new(10, 1, 0, 1));
        (first..first + count).map(|address| Ipv4Addr::from(address).into())
    }

    // p-value of the Kolmogorov–Smirnov test of uniformity of shares from 0 to 1.
    fn kolmogorov_smirnov(mut shares: Vec<f64>) -> f64 {
        shares.sort_by(f64::total_cmp);
        let count = shares.len() as f64;
        let distance = shares.iter().enumerate().fold(0.0f64, |distance, (i, share)| {
            distance.max((share - i as f64 / count).abs()).max(((i + 1) as f64 / count - share).abs())
        });
        let lambda = (count.sqrt() + 0.12 + 0.11 / count.sqrt()) * distance;
        if lambda < 0.2 {
            // The series does not converge there, and is 1 to within 1e-12.
            return 1.0;
        }
        let term =
            |k: i32| (-2.0 * f64::from(k * k) * lambda * lambda).exp() * if k % 2 == 1 { 2.0 } else { -2.0 };
        (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0)
    }

    fn share(client: IpAddr, revision: &str) -> f64 {
        client_offset(client, revision, SPREAD).as_secs_f64() / SPREAD.as_secs_f64()
    }

    #[test]
    fn uniformity_test_detects_a_skew() {
        let even: Vec<f64> = (0..10_000).map(|i| (f64::from(i) + 0.5) / 10_000.0).collect();
        let skewed = even.iter().map(|share| share.powf(1.05)).collect();
        assert!(kolmogorov_smirnov(even) > 0.99);
        assert!(kolmogorov_smirnov(skewed) < 0.01);
    }

    #[test]
    fn client_offsets_are_uniform() {
        for revision in ["261121001", "261121002", "210602017", ""] {
            let p = kolmogorov_smirnov(clients(10_000).map(|client| share(client, revision)).collect());
            assert!(p > 0.01, "{revision}: {p}");
        }
        // One client in each /64.
        let network = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0));
        let of_ipv6 =
            (0..10_000_u128).map(|i| share(Ipv6Addr::from(network + (i << 64)).into(), "261121001"));
        assert!(kolmogorov_smirnov(of_ipv6.collect()) > 0.01);
    }

    #[test]
    fn client_offsets_are_independent_between_revisions() {
        let differences = clients(10_000)
            .map(|client| (share(client, "261121001") - share(client, "261121002")).rem_euclid(1.0));
        assert!(kolmogorov_smirnov(differences.collect()) > 0.01);
        let consecutive: Vec<f64> = clients(10_001).map(|client| share(client, "261121001")).collect();
        let neighbours = consecutive.windows(2).map(|pair| (pair[0] - pair[1]).rem_euclid(1.0));
        assert!(kolmogorov_smirnov(neighbours.collect()) > 0.01);
    }

    #[test]
    fn client_offsets_have_fixed_values() {
        // Computed by another implementation of XXH3.
        for (client, revision, millis) in [
            ("10.1.2.3", "261121001", 6_785_019),
            ("::ffff:10.1.2.3", "261121001", 6_785_019),
            ("10.1.2.4", "261121001", 8_820_782),
            ("10.1.2.3", "261121002", 2_251_632),
            ("2001:db8::1", "210602017", 1_125_719),
            // The same host.
            ("2001:db8::ffff:1", "210602017", 1_125_719),
        ] {
            let client = client.parse().unwrap();
            assert_eq!(
                client_offset(client, revision, SPREAD),
                Duration::from_millis(millis),
                "{client} {revision}"
            );
        }
        assert_eq!(client_offset([10, 1, 2, 3].into(), "1", Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn peak_of_five_thousand_clients_is_near_the_mean() {
        // 100 MiB at 1.4 Mbit/s.
        const DOWNLOAD: i64 = 600_000;
        let (group, calendar) = (group("always", "4h"), Calendar::new(TimeZone::UTC));
        for revision in ["261121001", "261121002", "261121003"] {
            let begin = |client| match scheduled_start(&calendar, &group, client, revision, 0, 0) {
                ScheduledStart::Later { at: opens } => opens,
                ScheduledStart::Now | ScheduledStart::Emergency => 0,
            };
            let mut changes: Vec<(i64, i32)> =
                clients(5_000).map(begin).flat_map(|at| [(at, 1), (at + DOWNLOAD, -1)]).collect();
            changes.sort_unstable();
            let running = changes.iter().scan(0, |running, (_, change)| {
                *running += change;
                Some(*running)
            });
            let peak = f64::from(running.max().unwrap());
            let even = 5_000.0 * DOWNLOAD as f64 / millis(SPREAD) as f64;
            assert!(peak <= 1.3 * even, "{revision}: {peak} against {even}");
        }
    }

    fn group(windows: &str, spread: &str) -> GroupSettings {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gupd.toml");
        let text = format!(
            "[[upstream]]\nurl = \"http://manager\"\n[[group]]\nname = \"a\"\nwindows = \"{windows}\"\nspread = \"{spread}\"\n"
        );
        std::fs::write(&file, text).unwrap();
        Config::load(&Overrides::default(), Some(&file), std::iter::empty()).unwrap().groups.remove(0)
    }

    // The hour of Monday, 2026-11-23, in UTC.
    fn monday(hour: i64) -> UnixMillis {
        "2026-11-23T00:00:00Z".parse::<Timestamp>().unwrap().as_millisecond() + hour * HOUR
    }

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

    fn at(group: &GroupSettings, seen: UnixMillis, now: UnixMillis) -> ScheduledStart {
        scheduled_start(&Calendar::new(TimeZone::UTC), group, CLIENT, "261121001", seen, now)
    }

    fn own(spread_hours: i64) -> i64 {
        millis(client_offset(CLIENT, "261121001", Duration::from_secs(spread_hours.unsigned_abs() * 3600)))
    }

    #[test]
    fn client_starts_at_its_offset_within_the_window() {
        let group = group("mon-fri 20:00-06:00", "4h");
        let opens = monday(20) + own(4);
        assert_eq!(at(&group, monday(9), monday(12)), ScheduledStart::Later { at: opens });
        assert_eq!(at(&group, monday(9), monday(20)), ScheduledStart::Later { at: opens });
        assert_eq!(at(&group, monday(9), opens - 1), ScheduledStart::Later { at: opens });
        assert_eq!(at(&group, monday(9), opens), ScheduledStart::Now);
        assert_eq!(at(&group, monday(9), monday(30) - 1), ScheduledStart::Now);
        // A client that was offline starts at its offset in the next window.
        assert_eq!(at(&group, monday(9), monday(30)), ScheduledStart::Later { at: opens + 24 * HOUR });
        // No window opens on the weekend.
        let next_monday = ScheduledStart::Later { at: opens + 7 * 24 * HOUR };
        assert_eq!(at(&group, monday(9), monday(5 * 24 + 7)), next_monday);
    }

    #[test]
    fn new_revision_in_open_window_counts_from_its_first_request() {
        let group = group("mon-fri 20:00-06:00", "4h");
        let seen = monday(23);
        assert_eq!(at(&group, seen, seen), ScheduledStart::Later { at: seen + own(4) });
        assert_eq!(at(&group, seen, seen + own(4)), ScheduledStart::Now);
        // Too late for this window: in the next, from its opening.
        let late = monday(30) - own(4) / 2;
        assert_eq!(at(&group, late, late), ScheduledStart::Later { at: monday(44) + own(4) });
        // After the clock was set back, no client waits for the time of the first request.
        assert_eq!(at(&group, monday(1000), monday(20) + own(4)), ScheduledStart::Now);
    }

    #[test]
    fn spread_without_windows_counts_from_the_first_request() {
        let group = group("always", "4h");
        let seen = monday(9);
        assert_eq!(at(&group, seen, seen), ScheduledStart::Later { at: seen + own(4) });
        assert_eq!(at(&group, seen, seen + own(4)), ScheduledStart::Now);
        assert_eq!(at(&group, seen, monday(1000)), ScheduledStart::Now);
        assert_eq!(at(&group, monday(1000), seen), ScheduledStart::Now, "the clock was set back");
    }

    #[test]
    fn window_without_spread_opens_for_all_clients_at_once() {
        let group = group("mon-fri 20:00-06:00", "0s");
        assert_eq!(at(&group, monday(9), monday(20) - 1), ScheduledStart::Later { at: monday(20) });
        assert_eq!(at(&group, monday(9), monday(20)), ScheduledStart::Now);
    }

    #[test]
    fn spread_longer_than_window_is_shortened_to_fit() {
        let group = group("20:00-22:00", "12h");
        for client in clients(2_000) {
            let calendar = Calendar::new(TimeZone::UTC);
            let ScheduledStart::Later { at: opens } =
                scheduled_start(&calendar, &group, client, "1", 0, monday(12))
            else {
                panic!("{client} starts before the window")
            };
            assert!((monday(20)..=monday(22) - HOUR / 4).contains(&opens), "{client}");
            assert_eq!(scheduled_start(&calendar, &group, client, "1", 0, opens), ScheduledStart::Now);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn client_may_start_at_its_scheduled_start_and_not_before(
            zone in prop::sample::select(vec!["Europe/Berlin", "Australia/Lord_Howe", "UTC"]),
            windows in prop::sample::select(vec![
                "always", "20:00-06:00", "mon-fri 20:00-06:00", "02:15-02:45", "sun 01:30-03:00, sun 22:00-24:00",
            ]),
            spread in prop::sample::select(vec!["0s", "10m", "4h", "7d"]),
            // Around both changes of the clocks.
            day in prop::sample::select(vec![
                "2026-03-28T00:00:00Z", "2026-10-24T00:00:00Z", "2026-04-04T00:00:00Z", "2026-10-03T00:00:00Z",
            ]),
            (later, known, client) in (0..3 * 24 * HOUR, 0..12 * HOUR, any::<u32>()),
        ) {
            let calendar = Calendar::new(TimeZone::get(zone).unwrap());
            let now = day.parse::<Timestamp>().unwrap().as_millisecond() + later;
            let (group, client) = (group(windows, spread), Ipv4Addr::from(client).into());
            let at = |at| scheduled_start(&calendar, &group, client, "261121001", now - known, at);
            if let ScheduledStart::Later { at: opens } = at(now) {
                prop_assert!(opens > now);
                prop_assert_eq!(at(opens), ScheduledStart::Now);
                prop_assert_eq!(at(opens - 1), ScheduledStart::Later { at: opens });
                prop_assert_eq!(at(now + (opens - now) / 2), ScheduledStart::Later { at: opens });
            }
        }
    }
}
