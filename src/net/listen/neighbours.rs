//! Hosts of the relay's own link, by the IPv4 addresses that they take. The kernel knows the hardware address behind each,
//! and all addresses of one hardware address are one client. The table is read off the path of requests, so an address
//! is a client of its own for about a second. So is each address behind a router, which the kernel does not know.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::log_limit::LogLimit;
use gupd_config::{ClientIdentity, client_network, hardware_network};

/// The kernel's table of IPv4 neighbours.
const TABLE: &str = "/proc/net/arp";

/// Time between two readings. One takes 4 ms for a thousand neighbours on a busy machine.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum bytes of the table that are read: ten thousand neighbours, ten times what kernels keep by default.
const MAX_TABLE: u64 = 1 << 20;

/// Time between two log lines about a table that cannot be read.
const LOG_INTERVAL: Duration = Duration::from_secs(3_600);

/// Flag of an entry with a known hardware address (`ATF_COM`).
const IS_COMPLETE: u32 = 0x2;

type Hosts = HashMap<IpAddr, IpAddr>;

/// Neighbours of the relay.
#[derive(Debug, Default)]
pub struct Neighbours {
    is_enabled: AtomicBool,
    enabled: Notify,
    /// Address by which a client counts, by the address that it has.
    hosts: ArcSwap<Hosts>,
}

impl Neighbours {
    /// Applies a setting.
    pub(super) fn configure(&self, identity: ClientIdentity) {
        self.is_enabled.store(identity == ClientIdentity::Mac, Ordering::Relaxed);
        self.enabled.notify_one();
    }

    /// Returns the address by which the client at an address counts.
    pub(super) fn network_of(&self, client: IpAddr) -> IpAddr {
        if !self.is_enabled.load(Ordering::Relaxed) {
            return client_network(client);
        }
        let host = self.hosts.load().get(&client.to_canonical()).copied();
        host.unwrap_or_else(|| client_network(client))
    }

    /// Reads the table again and again while the setting asks for it.
    pub async fn run(&self) {
        let failures = LogLimit::new(1, LOG_INTERVAL);
        loop {
            if !self.is_enabled.load(Ordering::Relaxed) {
                self.hosts.store(Arc::default());
                self.enabled.notified().await;
                continue;
            }
            let hosts = match spawn_blocking(|| read_table(Path::new(TABLE))).await {
                Ok(Ok(hosts)) => hosts,
                Ok(Err(error)) => {
                    if let Some(suppressed) = failures.admit(Instant::now()) {
                        tracing::warn!(%error, suppressed, "cannot read {TABLE}: addresses are the identity of clients");
                    }
                    Hosts::default()
                }
                Err(_) => return,
            };
            self.hosts.store(Arc::new(hosts));
            sleep(READ_INTERVAL).await;
        }
    }
}

fn read_table(table: &Path) -> io::Result<Hosts> {
    let mut text = String::new();
    File::open(table)?.take(MAX_TABLE).read_to_string(&mut text)?;
    Ok(parse_table(&text))
}

/// Parses the table: a head, then lines of address, type, flags, hardware address, mask and device.
fn parse_table(text: &str) -> Hosts {
    text.lines().skip(1).filter_map(parse_neighbour).collect()
}

fn parse_neighbour(line: &str) -> Option<(IpAddr, IpAddr)> {
    let mut columns = line.split_ascii_whitespace();
    let address: Ipv4Addr = columns.next()?.parse().ok()?;
    let flags = u32::from_str_radix(columns.nth(1)?.strip_prefix("0x")?, 16).ok()?;
    let mut octets = columns.next()?.split(':').map(|octet| u8::from_str_radix(octet, 16));
    let mut hardware = [0; 6];
    for octet in &mut hardware {
        *octet = octets.next()?.ok()?;
    }
    let is_known = flags & IS_COMPLETE != 0 && hardware != [0; 6] && octets.next().is_none();
    is_known.then(|| (address.into(), hardware_network(hardware)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
10.0.0.1         0x1         0x2         52:54:00:00:00:01     *        eth0
10.0.0.2         0x1         0x2         52:54:00:00:00:02     *        eth0
10.0.0.3         0x1         0x6         52:54:00:00:00:01     *        eth0
10.0.0.4         0x1         0x0         52:54:00:00:00:01     *        eth0
10.0.0.5         0x1         0x2         00:00:00:00:00:00     *        eth0
10.0.0.6         0x20        0x2         80:00:02:08:fe:80:00:00:00:00:00:00:00:01 * ib0
10.0.0.7         0x1
not an address   0x1         0x2         52:54:00:00:00:01     *        eth0
10.0.0.8         0x1         0x2         52:54:00:00:00        *        eth0";

    #[test]
    fn addresses_of_one_hardware_address_are_one_client() {
        let neighbours = Neighbours::default();
        neighbours.hosts.store(Arc::new(parse_table(SAMPLE)));
        let of = |last: u8| neighbours.network_of(IpAddr::from([10, 0, 0, last]));
        assert_eq!(of(1), IpAddr::from([10, 0, 0, 1]), "by default the address is the identity");
        neighbours.configure(ClientIdentity::Mac);
        assert!(of(1) == of(3) && of(1) != of(2));
        assert_eq!(of(1), client_network(of(1)), "the identity is its own");
        for unknown in 4..=9 {
            assert_eq!(of(unknown), IpAddr::from([10, 0, 0, unknown]));
        }
        assert_eq!(neighbours.network_of("::ffff:10.0.0.3".parse().unwrap()), of(1));
        neighbours.configure(ClientIdentity::Address);
        assert_ne!(of(1), of(3));
    }

    #[test]
    fn damaged_table_has_fewer_neighbours_and_no_panic() {
        for end in 0..SAMPLE.len() {
            // A cut hardware address of another length can look like one of six octets.
            assert!(parse_table(SAMPLE.get(..end).unwrap()).len() <= 4);
        }
        assert_eq!(parse_table(SAMPLE).len(), 3);
        assert!(read_table(Path::new("/nonexistent/arp")).is_err());
    }

    #[test]
    fn table_of_this_machine_is_read() {
        assert!(read_table(Path::new(TABLE)).is_ok());
    }
}
