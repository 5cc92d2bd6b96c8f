//! `[clients]`: how much each client may cost the relay and its upstreams in a time. An amount that is `None` is
//! unlimited.

use crate::defaults::{self, Bounds};
use crate::document::Document;
use crate::reader::{count_within_or_unlimited, size_or_unlimited};

/// `[clients]`
#[derive(Clone, Debug, PartialEq)]
pub struct ClientSettings {
    /// Names an hour that no client asked for lately.
    pub new_names: Option<u32>,
    /// Negative responses of upstreams a minute.
    pub absent_names: Option<u32>,
    /// Bytes a day that are stored for the client; a quarter of the store's quota by default, or 4 GiB if that is more.
    pub new_bytes: Option<u64>,
    /// Requests a second that go upstream.
    pub upstream_requests: Option<u32>,
    /// Bytes of request bodies an hour.
    pub uploads: Option<u64>,
}

pub(crate) fn read_clients(document: &mut Document, quota: u64) -> ClientSettings {
    let mut s = document.take_section("clients");
    let quarter = Bounds { default: (quota / 4).max(defaults::LEAST_NEW_BYTES), ..defaults::NEW_BYTES };
    let clients = ClientSettings {
        new_names: count_within_or_unlimited(&mut s, "new_names", defaults::NEW_NAMES),
        absent_names: count_within_or_unlimited(&mut s, "absent_names", defaults::ABSENT_NAMES),
        new_bytes: size_or_unlimited(&mut s, "new_bytes", quarter),
        upstream_requests: count_within_or_unlimited(
            &mut s,
            "upstream_requests",
            defaults::UPSTREAM_REQUESTS,
        ),
        uploads: size_or_unlimited(&mut s, "uploads", defaults::UPLOADS),
    };
    document.close(s);
    clients
}
