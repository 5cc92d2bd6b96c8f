//! Benchmark of client classification: lookups of random addresses among 10, 1,000 and 100,000 subnets of 100 groups.
//! Half of the addresses are in one of the subnets. Prints nanoseconds per lookup and the time to build the table.
//!
//! `cargo bench --bench groups`

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use gupd_config::policy::{ClientAttributes, Policy};
use gupd_config::{Config, GroupSettings};
use gupd_site::Random;
use ipnet::IpNet;

const GROUPS: u64 = 100;
/// Addresses looked up: their nodes exceed the second-level cache, so lookups are as cold as in a real site.
const CLIENTS: usize = 1 << 16;
const ROUNDS: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{:>6} {:>9} {:>12} {:>10}", "family", "subnets", "ns/lookup", "build/ms");
    for is_v4 in [true, false] {
        for subnets in [10, 1_000, 100_000] {
            measure(is_v4, subnets)?;
        }
    }
    Ok(())
}

fn measure(is_v4: bool, subnets: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut random = Random::new(1);
    let mut config = Config::for_upstreams(&["http://manager"])?;
    let mut networks = Vec::new();
    for _ in 0..subnets {
        // Subnets of branches have a few prefix lengths, and some contain others.
        let length = if is_v4 { 20 + random.below(9) } else { 44 + random.below(21) };
        networks.push(IpNet::new(random_address(&mut random, is_v4), u8::try_from(length)?)?.trunc());
    }
    config.groups = (0..GROUPS.min(subnets))
        .map(|number| GroupSettings {
            subnets: networks.iter().copied().skip(number as usize).step_by(GROUPS as usize).collect(),
            ..GroupSettings::catch_all(&format!("branch-{number}"))
        })
        .collect();
    let begun = Instant::now();
    let policy = Policy::new(&config)?;
    let built = begun.elapsed();
    let clients: Vec<IpAddr> = (0..CLIENTS)
        .map(|at| match at % 2 {
            0 => networks[random.below(subnets) as usize].addr(),
            _ => random_address(&mut random, is_v4),
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        for client in &clients {
            black_box(policy.group(&ClientAttributes::new(*black_box(client), "/")));
        }
    }
    let each = begun.elapsed().as_secs_f64() * 1e9 / (ROUNDS * CLIENTS) as f64;
    let family = if is_v4 { "IPv4" } else { "IPv6" };
    println!("{family:>6} {subnets:>9} {each:>12.1} {:>10.1}", built.as_secs_f64() * 1e3);
    Ok(())
}

/// Returns a random address within 10.0.0.0/8 or 2001:db8::/32.
fn random_address(random: &mut Random, is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::from(0x0a00_0000 | (random.next_u64() as u32 >> 8)).into()
    } else {
        let rest = u128::from(random.next_u64()) << 32 | u128::from(random.next_u64() as u32);
        Ipv6Addr::from(0x2001_0db8_u128 << 96 | rest).into()
    }
}
