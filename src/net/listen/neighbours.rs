//! Hosts of the relay's own link, by the addresses that they take. The kernel knows the hardware address behind each,
//! and all addresses of one hardware address are one client. The table is read off the path of requests, so an address
//! counts as without it for about a second. So does each address behind a router, which the kernel does not know.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::log_limit::LogLimit;
use gupd_config::{ClientIdentity, client_network, hardware_network};

/// Time between two readings. One takes 4 ms for a thousand neighbours on a busy machine.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of neighbours that are read: ten times what kernels keep by default.
const MAX_NEIGHBOURS: usize = 10_000;

/// Bytes of an answer of the kernel. It sends at most half of this at once.
const ANSWER: usize = 64 << 10;

/// Maximum time for an answer. The kernel has it at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Time between two log lines about a table that cannot be read.
const LOG_INTERVAL: Duration = Duration::from_secs(3_600);

/// Bytes of the head of each message (`struct nlmsghdr`), and of a neighbour's own (`struct ndmsg`).
const MESSAGE_HEAD: usize = 16;
const NEIGHBOUR_HEAD: usize = 12;

/// Types of messages (rtnetlink(7)).
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Flags of a request for the whole table (`NLM_F_REQUEST | NLM_F_DUMP`).
const WHOLE_TABLE: u16 = 0x301;

/// Attributes of a neighbour: its address and its hardware address.
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// States of a neighbour with a known hardware address: reachable, stale, delay, probe and permanent.
const IS_COMPLETE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;

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
    pub fn network_of(&self, client: IpAddr) -> IpAddr {
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
            let hosts = match spawn_blocking(read_table).await {
                Ok(Ok(hosts)) => hosts,
                Ok(Err(error)) => {
                    if let Some(suppressed) = failures.admit(Instant::now()) {
                        tracing::warn!(%error, suppressed, "cannot read the table of neighbours: addresses are the identity of clients");
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

/// Asks the kernel for its neighbours of IPv4 and IPv6.
fn read_table() -> io::Result<Hosts> {
    // Without a protocol it is `NETLINK_ROUTE`, number 0.
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    rustix::net::send(&socket, &request(), SendFlags::empty())?;
    let (mut hosts, mut answer) = (Hosts::new(), vec![0; ANSWER]);
    while hosts.len() < MAX_NEIGHBOURS {
        let (length, _) = rustix::net::recv(&socket, &mut *answer, RecvFlags::empty())?;
        if read_answer(answer.get(..length).unwrap_or_default(), &mut hosts)? {
            break;
        }
    }
    Ok(hosts)
}

/// The request for the whole table, of every family of addresses.
fn request() -> Vec<u8> {
    let length = (MESSAGE_HEAD as u32).saturating_add(NEIGHBOUR_HEAD as u32);
    let mut request = Vec::from(length.to_ne_bytes());
    request.extend(RTM_GETNEIGH.to_ne_bytes());
    request.extend(WHOLE_TABLE.to_ne_bytes());
    // Number, sender and the neighbour's head stay zero.
    request.resize(length as usize, 0);
    request
}

/// Adds the neighbours of an answer. Returns true if it is the last one.
fn read_answer(mut messages: &[u8], hosts: &mut Hosts) -> io::Result<bool> {
    while let Some((message, rest)) = split_padded(messages, read_u32(messages, 0), MESSAGE_HEAD) {
        match read_u16(message, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let error = read_u32(message, MESSAGE_HEAD).unwrap_or(0).cast_signed();
                return Err(io::Error::from_raw_os_error(error.saturating_neg()));
            }
            Some(RTM_NEWNEIGH) => hosts.extend(read_neighbour(message)),
            _ => {}
        }
        messages = rest;
    }
    Ok(false)
}

fn read_neighbour(message: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let is_known = read_u16(message, MESSAGE_HEAD.checked_add(8)?)? & IS_COMPLETE != 0;
    let mut attributes = message.get(MESSAGE_HEAD.checked_add(NEIGHBOUR_HEAD)?..)?;
    let (mut address, mut hardware) = (None, None);
    while let Some((attribute, rest)) = split_padded(attributes, read_u16(attributes, 0).map(u32::from), 4) {
        let value = attribute.get(4..)?;
        match read_u16(attribute, 2)? {
            NDA_DST => address = read_address(value),
            NDA_LLADDR => hardware = <[u8; 6]>::try_from(value).ok(),
            _ => {}
        }
        attributes = rest;
    }
    let hardware = hardware.filter(|hardware| is_known && *hardware != [0; 6])?;
    Some((address?, hardware_network(hardware)))
}

fn read_address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// Splits the first part of this length off, which is padded to four bytes. `None` if there is none with a whole head.
fn split_padded(octets: &[u8], length: Option<u32>, head: usize) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(length?).ok().filter(|length| *length >= head)?;
    let part = octets.get(..length)?;
    Some((part, octets.get(length.checked_next_multiple_of(4)?..).unwrap_or_default()))
}

fn read_u16(octets: &[u8], at: usize) -> Option<u16> {
    octets.get(at..)?.first_chunk().map(|octets| u16::from_ne_bytes(*octets))
}

fn read_u32(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..)?.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: u16 = 0x04;
    const FAILED: u16 = 0x20;
    const NOARP: u16 = 0x40;

    /// Adds an attribute with this content.
    fn attribute(message: &mut Vec<u8>, kind: u16, content: &[u8]) {
        message.extend((content.len() as u16 + 4).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(content);
        message.resize(message.len().next_multiple_of(4), 0);
    }

    /// A message of this type about a neighbour.
    fn message(kind: u16, state: u16, address: IpAddr, hardware: &[u8]) -> Vec<u8> {
        let mut message = vec![0; MESSAGE_HEAD + NEIGHBOUR_HEAD];
        message[MESSAGE_HEAD + 8..][..2].copy_from_slice(&state.to_ne_bytes());
        match address {
            IpAddr::V4(address) => attribute(&mut message, NDA_DST, &address.octets()),
            IpAddr::V6(address) => attribute(&mut message, NDA_DST, &address.octets()),
        }
        attribute(&mut message, 3, &[0; 16]);
        attribute(&mut message, NDA_LLADDR, hardware);
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message
    }

    fn sample() -> Vec<u8> {
        let (one, two) = ([0x52, 0x54, 0, 0, 0, 1], [0x52, 0x54, 0, 0, 0, 2]);
        let infiniband = [7; 20];
        let neighbours: [(u16, u16, &str, &[u8]); 12] = [
            (RTM_NEWNEIGH, STALE, "10.0.0.1", &one),
            (RTM_NEWNEIGH, STALE, "10.0.0.2", &two),
            (RTM_NEWNEIGH, 0x80, "10.0.0.3", &one),
            (RTM_NEWNEIGH, FAILED, "10.0.0.4", &one),
            (RTM_NEWNEIGH, STALE, "10.0.0.5", &[0; 6]),
            (RTM_NEWNEIGH, STALE, "10.0.0.6", &infiniband),
            (RTM_NEWNEIGH, STALE, "10.0.0.7", &one[..5]),
            (RTM_NEWNEIGH, NOARP, "10.0.0.8", &one),
            (RTM_GETNEIGH, STALE, "10.0.0.9", &one),
            (RTM_NEWNEIGH, STALE, "fd00::1", &one),
            (RTM_NEWNEIGH, STALE, "fd00::2", &two),
            (RTM_NEWNEIGH, STALE, "fe80::1", &one),
        ];
        let messages = neighbours.into_iter();
        messages
            .flat_map(|(kind, state, address, hardware)| {
                message(kind, state, address.parse().unwrap(), hardware)
            })
            .collect()
    }

    #[test]
    fn addresses_of_one_hardware_address_are_one_client() {
        let (neighbours, mut hosts) = (Neighbours::default(), Hosts::new());
        assert!(!read_answer(&sample(), &mut hosts).unwrap());
        neighbours.hosts.store(Arc::new(hosts));
        let of = |address: &str| neighbours.network_of(address.parse().unwrap());
        let unchanged = |address: &str| client_network(address.parse().unwrap());
        assert_eq!(of("10.0.0.1"), unchanged("10.0.0.1"), "by default the address is the identity");
        neighbours.configure(ClientIdentity::Mac);
        for (address, other) in [("10.0.0.3", "10.0.0.2"), ("fd00::1", "fd00::2"), ("fe80::1", "fd00::2")] {
            assert!(of(address) == of("10.0.0.1") && of(address) != of(other), "{address}");
        }
        assert_eq!(of("fd00::2"), of("10.0.0.2"), "both families of a host are one client");
        assert_eq!(of("10.0.0.1"), client_network(of("10.0.0.1")), "the identity is its own");
        for unknown in (4..=9).map(|last| format!("10.0.0.{last}")).chain(["fd00::3".to_owned()]) {
            assert_eq!(of(&unknown), unchanged(&unknown), "{unknown}");
        }
        assert_eq!(of("::ffff:10.0.0.3"), of("10.0.0.1"));
        neighbours.configure(ClientIdentity::Address);
        assert_ne!(of("10.0.0.1"), of("10.0.0.3"));
    }

    #[test]
    fn damaged_answer_has_fewer_neighbours_and_no_panic() {
        let sample = sample();
        for end in 0..sample.len() {
            let mut hosts = Hosts::new();
            assert!(!read_answer(&sample[..end], &mut hosts).unwrap() && hosts.len() <= 6, "{end}");
            for octet in [0, 1, 3, 0xff] {
                let mut damaged = sample.clone();
                damaged[end] = octet;
                // A flipped type may be an error or the end.
                let _any = read_answer(&damaged, &mut hosts);
            }
        }
    }

    #[test]
    fn last_answer_and_refusal_are_told_apart() {
        let mut done = message(NLMSG_DONE, 0, [10, 0, 0, 1].into(), &[1; 6]);
        assert!(read_answer(&done, &mut Hosts::new()).unwrap());
        done[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        done[MESSAGE_HEAD..][..4].copy_from_slice(&(-13i32).to_ne_bytes());
        let error = read_answer(&done, &mut Hosts::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn table_of_this_machine_is_read() {
        assert!(read_table().is_ok());
    }
}
