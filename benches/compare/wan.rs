//! The line between a site and its manager, for `cold` and `fill`: a `Wan` of the crate `site` as a process. nginx's
//! `limit_rate` would give each connection a rate of its own, and a second's worth at once.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use gupd_site::{Line, Wan};

/// Bytes of a connection on the way: more than 100 ms of line at 100 MB/s.
const BUFFER: usize = 16 << 20;

/// A paced line.
#[derive(Parser)]
struct WanOptions {
    /// Address for the relay to connect to.
    #[arg(long)]
    listen: SocketAddr,
    /// Address of the manager.
    #[arg(long)]
    to: SocketAddr,
    /// Bytes per second in each direction, for all connections together.
    #[arg(long)]
    rate: u32,
    /// Round trip in milliseconds; a new connection takes one more.
    #[arg(long, default_value_t = 0)]
    delay: u64,
}

fn main() -> ExitCode {
    let WanOptions { listen, to, rate, delay } = WanOptions::parse();
    let line = Line {
        bits_per_second: u64::from(rate.max(1)) * 8,
        one_way: Duration::from_millis(delay) / 2,
        buffer: BUFFER,
    };
    match Wan::start_at(listen, to, line) {
        Ok(_wan) => loop {
            std::thread::park();
        },
        Err(error) => {
            let _ = writeln!(io::stderr(), "wan: {error}");
            ExitCode::FAILURE
        }
    }
}
