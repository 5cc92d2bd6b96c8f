//! A client's row as bytes, in the store. Little-endian, without its key, which is the client. What is not such a row is
//! `None`, whatever it is: these are observations, and the next request makes them anew.
//!
//! ```text
//! version 1 (1) · flags (1) · address as IPv6 (16) · first seen, last seen (8 each) · bytes (8)
//! · errors, errors in a row (4 each) · sees: revision, since (8 each), if flagged · given: as sees
//! · objects taken (1), each: hash (8) · times (2) · full (1) · group, to the end, in UTF-8
//! ```

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::row::{Row, Since};
use super::taken::{Object, Taken};

const VERSION: u8 = 1;

const FAILED: u8 = 1;
const DAMAGED: u8 = 2;
const SEES: u8 = 4;
const GIVEN: u8 = 8;

/// Bytes of a group's name in a row; the configuration has no longer one.
const MAX_GROUP: usize = 1 << 10;

/// The row as bytes.
pub(super) fn encode(row: &Row) -> Vec<u8> {
    let flags = [
        (row.failed, FAILED),
        (row.damaged, DAMAGED),
        (row.sees.is_some(), SEES),
        (row.given.is_some(), GIVEN),
    ];
    let flags = flags.into_iter().fold(0, |flags, (is, flag)| if is { flags | flag } else { flags });
    let address = match row.address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut bytes = Vec::with_capacity(128 + row.group.len());
    bytes.extend([VERSION, flags]);
    bytes.extend(address.octets());
    bytes.extend(row.first_seen.to_le_bytes());
    bytes.extend(row.last_seen.to_le_bytes());
    bytes.extend(row.bytes.to_le_bytes());
    bytes.extend(row.errors.to_le_bytes());
    bytes.extend(row.errors_in_a_row.to_le_bytes());
    for since in [row.sees, row.given].into_iter().flatten() {
        bytes.extend(since.revision.to_le_bytes());
        bytes.extend(since.at.to_le_bytes());
    }
    let objects = row.taken.objects();
    bytes.push(objects.len() as u8);
    for object in objects {
        bytes.extend(object.hash.to_le_bytes());
        bytes.extend(object.times.to_le_bytes());
        bytes.push(u8::from(object.full));
    }
    bytes.extend(row.group.as_bytes());
    bytes
}

/// The row of these bytes.
pub(super) fn decode(bytes: &[u8]) -> Option<Row> {
    let mut rest = Rest(bytes);
    let [version, flags] = rest.take()?;
    if version != VERSION || flags & !(FAILED | DAMAGED | SEES | GIVEN) != 0 {
        return None;
    }
    let address = IpAddr::V6(Ipv6Addr::from(rest.take::<16>()?)).to_canonical();
    let first_seen = i64::from_le_bytes(rest.take()?);
    let last_seen = i64::from_le_bytes(rest.take()?);
    let sent = u64::from_le_bytes(rest.take()?);
    let errors = u32::from_le_bytes(rest.take()?);
    let errors_in_a_row = u32::from_le_bytes(rest.take()?);
    let sees = rest.since(flags & SEES != 0)?;
    let given = rest.since(flags & GIVEN != 0)?;
    let [count] = rest.take()?;
    let mut taken = Taken::default();
    for _ in 0..count {
        let hash = u64::from_le_bytes(rest.take()?);
        let times = u16::from_le_bytes(rest.take()?);
        let full = match rest.take()? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        if !taken.push(Object { hash, times, full }) {
            return None;
        }
    }
    let group = std::str::from_utf8(rest.0).ok().filter(|group| group.len() <= MAX_GROUP)?;
    Some(Row {
        address,
        group: Arc::from(group),
        first_seen,
        last_seen,
        sees,
        given,
        bytes: sent,
        errors,
        errors_in_a_row,
        failed: flags & FAILED != 0,
        damaged: flags & DAMAGED != 0,
        taken,
    })
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn since(&mut self, is_there: bool) -> Option<Option<Since>> {
        if !is_there {
            return Some(None);
        }
        let revision = u64::from_le_bytes(self.take()?);
        Some(Some(Since { revision, at: i64::from_le_bytes(self.take()?) }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample::{self, T0};
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_row_comes_back_as_it_was(sightings in sample::sightings(20), address: IpAddr, group in "\\PC{0,20}") {
            let mut row = Row::new(&sightings[0], T0);
            sightings.iter().for_each(|sighting| row.record(sighting, T0));
            (row.address, row.group) = (address.to_canonical(), group.into());
            prop_assert_eq!(decode(&encode(&row)), Some(row));
        }

        #[test]
        fn bytes_that_are_no_row_are_none_or_some_row_that_is_written_as_it_was_read(
            sightings in sample::sightings(20),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut: prop::sample::Index,
            is_cut: bool,
        ) {
            let mut row = Row::new(&sightings[0], T0);
            sightings.iter().for_each(|sighting| row.record(sighting, T0));
            let mut bytes = encode(&row);
            for (at, bits) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Some(row) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&row)), Some(row));
            }
        }

        #[test]
        fn noise_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = bytes;
            let _any = decode(&bytes);
            if let Some(version) = bytes.first_mut() {
                *version = VERSION;
                let _any = decode(&bytes);
            }
        }
    }
}
