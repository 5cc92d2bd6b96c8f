//! A site's requests over two months, reproducible by seed. Revisions are published daily. Clients that were
//! online yesterday request the delta to the newest revision; those that were away request older deltas, and
//! sometimes the whole file. Sizes and counts are those of a site of about a thousand clients.

use std::collections::HashMap;

use gupd_site::Random;

/// A client's request for an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TraceRequest {
    /// Minutes since the start of the trace.
    pub(crate) minute: u32,
    /// The object.
    pub(crate) object: u64,
    /// Its size in bytes.
    pub(crate) size: u64,
}

const DAYS: u32 = 60;
const DAY_MINUTES: u32 = 24 * 60;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Publication intervals of a site's content types: virus definitions three times a day, others daily and weekly.
const PUBLISHED_EVERY: [u32; 6] =
    [DAY_MINUTES / 3, DAY_MINUTES, DAY_MINUTES, DAY_MINUTES, 7 * DAY_MINUTES, 7 * DAY_MINUTES];

/// Percentage of requests for each content type.
const REQUEST_SHARES: [u32; 6] = [50, 15, 15, 10, 5, 5];

/// Requests of a day.
const REQUESTS: u32 = 6000;

/// Requests for a whole file among 1,000: new clients, and clients that were away too long.
const FULLS: u64 = 8;

/// Maximum distance of clients from the newest revision, and of a delta's base, in revisions.
const MAX_DISTANCE: usize = 60;

/// Returns a trace of daily turnover. With `scans`, an imaging run, a mirror or a script reads fifty whole files
/// twice a week that are never requested again.
pub(crate) fn site(seed: u64, scans: bool) -> Vec<TraceRequest> {
    let mut random = Random::new(seed);
    let (distance, delta) = (Zipf::new(MAX_DISTANCE, 1.4), Zipf::new(MAX_DISTANCE, 1.1));
    let mut sizes = HashMap::new();
    let mut requests = Vec::new();
    for day in 0..DAYS {
        for _ in 0..REQUESTS {
            // Two thirds in eight working hours.
            let minute = match random.below(3) {
                0 => random.below(u64::from(DAY_MINUTES)),
                _ => 8 * 60 + random.below(8 * 60),
            };
            let minute = day * DAY_MINUTES + u32::try_from(minute).unwrap_or(0);
            let (mut content, mut at) = (0, random.below(100) as u32);
            while at >= REQUEST_SHARES[content] {
                at -= REQUEST_SHARES[content];
                content += 1;
            }
            let newest = u64::from(minute / PUBLISHED_EVERY[content]) + MAX_DISTANCE as u64 * 2;
            let revision = newest - distance.sample(&mut random) as u64;
            let full = random.below(1000) < FULLS;
            let from = if full { 0 } else { 1 + delta.sample(&mut random) as u64 };
            let object = (content as u64) << 48 | revision << 16 | from;
            let size = *sizes.entry(object).or_insert_with(|| match full {
                true => 100 * MIB + random.below(700 * MIB),
                // Longer deltas are larger: 50 KiB to 5 MiB.
                false => 50 * KIB + random.below(5 * MIB - 50 * KIB) * from / MAX_DISTANCE as u64,
            });
            requests.push(TraceRequest { minute, object, size });
        }
        if scans && day % 3 == 2 {
            for number in 0..50 {
                let minute = day * DAY_MINUTES + 60 + number * 5;
                let object = 1 << 63 | u64::from(day) << 16 | u64::from(number);
                requests.push(TraceRequest { minute, object, size: 100 * MIB + random.below(700 * MIB) });
            }
        }
    }
    requests.sort_by_key(|request| request.minute);
    requests
}

/// Zipf distribution of ranks: rank `r` with weight `1 / (r + 1)^s`.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(ranks: usize, s: f64) -> Self {
        let mut sum = 0.0;
        Self(
            (1..=ranks)
                .map(|rank| {
                    sum += (rank as f64).powf(-s);
                    sum
                })
                .collect(),
        )
    }

    fn sample(&self, random: &mut Random) -> usize {
        let at =
            (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * self.0.last().copied().unwrap_or(1.0);
        self.0.partition_point(|sum| *sum < at).min(self.0.len() - 1)
    }
}
