//! Rate of new connections per client. A client may open one second's worth at once, then one whenever the rate permits.
//! Uses the runtime's clock. Without a limit, the default, a connection costs one load.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::arrival_times::{Allowance, ArrivalTimes};
use gupd_config::{Config, client_network};

/// Limit on new connections per client.
#[derive(Debug)]
pub struct ConnectionRateLimiter {
    created: Instant,
    /// Connections per second of one client; 0 without a limit, since a limit is at least 1.
    rate: AtomicU32,
    // Locked for a lookup, by acceptors only.
    arrivals: Mutex<ArrivalTimes>,
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
        let allowance = Allowance { amount: rate.into(), period: Duration::from_secs(1) };
        arrivals.admit(client_network(client), allowance, 1, now)
    }
}
