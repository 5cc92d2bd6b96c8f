//! The requests of a site over two months, the same each time for a seed. Revisions are published daily; clients that
//! were there yesterday ask for the delta to the newest, those that were away for older ones and now and then for the
//! whole file. Sizes and counts are those of a site of about a thousand clients.

use std::collections::HashMap;

/// One client's request for one object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// Minutes since the trace's begin.
    pub(crate) minute: u32,
    /// The object.
    pub(crate) object: u64,
    /// Its bytes.
    pub(crate) size: u64,
}

const DAYS: u32 = 60;
const A_DAY: u32 = 24 * 60;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Content types of a site: virus definitions thrice a day, others daily and weekly.
const PUBLISHED_EVERY: [u32; 6] = [A_DAY / 3, A_DAY, A_DAY, A_DAY, 7 * A_DAY, 7 * A_DAY];

/// Which content type is asked for, of 100.
const ASKED: [u32; 6] = [50, 15, 15, 10, 5, 5];

/// Requests of a day.
const REQUESTS: u32 = 6000;

/// Of 1000 requests, those for a whole file: new clients, and those that were away for too long.
const FULLS: u64 = 8;

/// How far back clients are: revisions behind the newest, and the delta's own length.
const BEHIND: usize = 60;

/// A trace of daily turnover; with `scans`, twice a week something (an imaging run, a mirror, an administrator's
/// script) reads fifty whole files that nobody asks for again.
pub(crate) fn site(seed: u64, scans: bool) -> Vec<Request> {
    let mut random = Random(seed);
    let (behind, gap) = (Zipf::new(BEHIND, 1.4), Zipf::new(BEHIND, 1.1));
    let mut sizes = HashMap::new();
    let mut requests = Vec::new();
    for day in 0..DAYS {
        for _ in 0..REQUESTS {
            // Two thirds in eight working hours.
            let minute = match random.below(3) {
                0 => random.below(u64::from(A_DAY)),
                _ => 8 * 60 + random.below(8 * 60),
            };
            let minute = day * A_DAY + u32::try_from(minute).unwrap_or(0);
            let (mut content, mut at) = (0, random.below(100) as u32);
            while at >= ASKED[content] {
                at -= ASKED[content];
                content += 1;
            }
            let newest = u64::from(minute / PUBLISHED_EVERY[content]) + BEHIND as u64 * 2;
            let revision = newest - behind.sample(&mut random) as u64;
            let full = random.below(1000) < FULLS;
            let from = if full { 0 } else { 1 + gap.sample(&mut random) as u64 };
            let object = (content as u64) << 48 | revision << 16 | from;
            let size = *sizes.entry(object).or_insert_with(|| match full {
                true => 100 * MIB + random.below(700 * MIB),
                // Longer deltas are larger: 50 KiB to 5 MiB.
                false => 50 * KIB + random.below(5 * MIB - 50 * KIB) * from / BEHIND as u64,
            });
            requests.push(Request { minute, object, size });
        }
        if scans && day % 3 == 2 {
            for number in 0..50 {
                let minute = day * A_DAY + 60 + number * 5;
                let object = 1 << 63 | u64::from(day) << 16 | u64::from(number);
                requests.push(Request { minute, object, size: 100 * MIB + random.below(700 * MIB) });
            }
        }
    }
    requests.sort_by_key(|request| request.minute);
    requests
}

/// SplitMix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Ranks with a Zipf distribution: rank `r` as often as `1 / (r + 1)^s`.
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
        let at = (random.next() >> 11) as f64 / (1u64 << 53) as f64 * self.0.last().copied().unwrap_or(1.0);
        self.0.partition_point(|sum| *sum < at).min(self.0.len() - 1)
    }
}
