//! Sightings for the tests of this folder.

use std::time::Duration;

use proptest::prelude::*;

use super::sighting::{Outcome, Sighting, Sought};
use super::{Identity, Thresholds};
use gupd_config::clock::UnixMillis;

/// A time in 2026.
pub(super) const T0: UnixMillis = 1_780_000_000_000;

pub(super) const HOUR: UnixMillis = 3_600_000;

pub(super) const THRESHOLDS: Thresholds = Thresholds {
    behind: Duration::from_secs(24 * 3600),
    unseen: Duration::from_secs(7 * 24 * 3600),
    failing: Thresholds::FAILING,
    repeats: 3,
};

/// A client is given a catalog of a revision.
pub(super) fn catalog(sees: u64) -> Sighting {
    sighting("10.0.0.1", sees, Sought::Catalog, Outcome::Given)
}

/// A client asks for a delta, which ends so.
pub(super) fn payload(sees: u64, end: Outcome) -> Sighting {
    sighting("10.0.0.1", sees, Sought::payload("/ /content/{a}/2/xdelta1.dax"), end)
}

/// A client takes a full set.
pub(super) fn full_set(sees: u64) -> Sighting {
    sighting("10.0.0.1", sees, Sought::payload("/ /content/{a}/2/full.zip"), Outcome::Given)
}

pub(super) fn sighting(client: &str, sees: u64, sought: Sought, end: Outcome) -> Sighting {
    let client: Identity = client.parse().unwrap();
    let address = client.to_string().parse().unwrap_or([10, 0, 0, 1].into());
    Sighting { client, address, group: "pilot".into(), at: T0, sees: Some(sees), sought, bytes: 0, end }
}

/// Up to `most` sightings of one client.
pub(super) fn sightings(most: usize) -> impl Strategy<Value = Vec<Sighting>> {
    let sought = prop_oneof![
        Just(Sought::Catalog),
        Just(Sought::Other),
        (0..3_u64, any::<bool>()).prop_map(|(object, full)| Sought::Payload { object, full }),
    ];
    let end = prop::sample::select(vec![
        Outcome::Given,
        Outcome::Fine,
        Outcome::Failed,
        Outcome::Damaged,
        Outcome::Deferred,
        Outcome::Denied,
        Outcome::Gone,
    ]);
    let one = (prop::option::of(1..4_u64), sought, end, -HOUR..HOUR, any::<u32>());
    let one = one.prop_map(|(sees, sought, end, after, bytes)| Sighting {
        sees,
        at: T0 + after,
        bytes: bytes.into(),
        ..sighting("10.0.0.1", 0, sought, end)
    });
    prop::collection::vec(one, 1..=most)
}
