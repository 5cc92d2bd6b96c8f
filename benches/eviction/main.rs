//! Which objects a full store should give up: hit ratios of policies, side by side, on a site's requests. Models in
//! memory on seeded traces, so that the figures are the same on every machine; prints the table for the README.

#![allow(clippy::print_stdout, reason = "a program that prints a table")]

mod policies;
mod trace;

use policies::{Ghosts, Lru, Policy, Rules, S3Fifo, Sieve};
use trace::{Request, site};

const GIB: u64 = 1 << 30;

/// S3-FIFO's paper.
const PAPER: Rules = Rules { small: 10, promoted: 2, ghosts: Ghosts::AsMain, by_the_minute: false };

/// `src/store/index/policy.rs`. Share and ghosts were chosen on the trace of seed 1; shown is that of seed 2.
const STORE: Rules = Rules { small: 25, promoted: 1, ghosts: Ghosts::Fixed(1024), by_the_minute: true };

type Make = (&'static str, fn(u64) -> Box<dyn Policy>);

const POLICIES: &[Make] = &[
    ("LRU", |quota| Box::new(Lru::new(quota))),
    ("SIEVE", |quota| Box::new(Sieve::new(quota))),
    ("S3-FIFO, as published", |quota| Box::new(S3Fifo::new(quota, PAPER))),
    ("gupd", |quota| Box::new(S3Fifo::new(quota, STORE))),
];

fn main() {
    for (name, scans) in [("daily turnover", false), ("the same, with scans of one-off full.zips", true)] {
        let requests = site(2, scans);
        let mut distinct = std::collections::HashMap::new();
        for request in &requests {
            distinct.insert(request.object, request.size);
        }
        println!(
            "\n{name}: {} requests, {} objects, {} GiB\n",
            requests.len(),
            distinct.len(),
            distinct.values().sum::<u64>() / GIB
        );
        let quotas = [5, 10, 20, 40];
        println!("| policy |{}", quotas.map(|quota| format!(" {quota} GiB: objects / bytes |")).concat());
        println!("| --- |{}", " ---: |".repeat(quotas.len()));
        for (name, make) in POLICIES {
            let cells = quotas.map(|quota| ratios(make(quota * GIB).as_mut(), &requests));
            let cells = cells.map(|(objects, bytes)| format!(" {objects:.1} % / {bytes:.1} % |"));
            println!("| {name} |{}", cells.concat());
        }
    }
}

/// Percent of requests, and of the bytes asked for, that were there.
fn ratios(policy: &mut dyn Policy, requests: &[Request]) -> (f64, f64) {
    let (mut hits, mut hit_bytes, mut bytes) = (0u64, 0, 0);
    for request in requests {
        bytes += request.size;
        if policy.ask(request) {
            hits += 1;
            hit_bytes += request.size;
        }
    }
    (100.0 * hits as f64 / requests.len() as f64, 100.0 * hit_bytes as f64 / bytes as f64)
}
