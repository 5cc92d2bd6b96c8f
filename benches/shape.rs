//! Cost and accuracy of limits in real time: up to 10,000 clients with unlimited demand share one limit. Prints
//! processor time as a share of one core, the resulting rate, and its evenness.
//!
//! `cargo bench --bench shape`

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gupd_config as config;
use gupd_config::Clock;
use gupd_config::units::Rate;
use gupd_config::{Config, RateSchedule};
use gupd_net::shape::LanLimiter;

const CLIENTS: u32 = 10_000;
const SECONDS: u64 = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{:>12} {:>8} {:>10} {:>14} {:>9}", "limit", "clients", "CPU/core", "rate/limit", "Jain");
    for (rate, clients) in [
        (8 << 10, 1),
        (1_250_000, 500),
        (12_500_000, 500),
        (12_500_000, CLIENTS),
        (125_000_000, CLIENTS),
        (1_250_000_000, CLIENTS),
        (1_250_000_000, 1),
    ] {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (cpu, share, evenness) = runtime.block_on(measure(rate, clients))?;
        runtime.shutdown_timeout(Duration::from_secs(1));
        println!(
            "{:>12} {clients:>8} {:>9.2}% {share:>14.4} {evenness:>9.5}",
            Rate(rate).to_string(),
            cpu * 100.0
        );
    }
    Ok(())
}

async fn measure(rate: u64, clients: u32) -> Result<(f64, f64, f64), Box<dyn std::error::Error>> {
    let mut config = Config::for_upstreams(&["http://manager"])?;
    config.lan = config::LanSettings { limit: RateSchedule::from_rate(Rate(rate)), ..config.lan };
    let lan = Arc::new(LanLimiter::new(&config, Clock::system()));
    let limiter = lan.clone();
    let running = tokio::spawn(async move { limiter.run().await });
    let counts: Arc<Vec<AtomicU64>> = Arc::new((0..clients).map(|_| AtomicU64::new(0)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    for client in 0..clients {
        let (lan, counts, stop) = (lan.clone(), counts.clone(), stop.clone());
        tokio::spawn(async move {
            let address = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + client));
            let mut pace = lan.throttle(address, "default");
            while !stop.load(Ordering::Relaxed) {
                let bytes = poll_fn(|cx| pace.poll_grant(cx, u64::MAX)).await;
                pace.consume(bytes);
                counts[client as usize].fetch_add(bytes, Ordering::Relaxed);
            }
        });
    }
    // The burst that idle time saved is spent by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sums = || counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let (before, cpu, begun) = (sums(), cpu_time()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let (after, spent, passed) = (sums(), cpu_time()? - cpu, begun.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    running.abort();
    let shares: Vec<f64> = after.iter().zip(&before).map(|(after, before)| (after - before) as f64).collect();
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    let evenness = sum * sum / (shares.len() as f64 * squares);
    Ok((spent / passed, sum / passed / rate as f64, evenness))
}

/// Returns the processor time of this process in seconds.
fn cpu_time() -> Result<f64, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // User and system time, in hundredths of a second (proc(5), fields 14 and 15).
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>()).sum::<Result<_, _>>()?;
    Ok(ticks as f64 / 100.0)
}
