//! What is known of a request's client when its response begins, until it has ended and becomes a sighting. Owned by the
//! request's record, which knows how it ended.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Clients, Identity, Outcome, Response, Sighting, Sought};
use crate::clock::UnixMillis;

/// Tells of a request once it has ended.
#[derive(Debug)]
pub struct Witness {
    clients: Clients,
    client: Identity,
    address: IpAddr,
    group: Arc<str>,
    at: UnixMillis,
    sees: Option<u64>,
    sought: Sought,
}

impl Witness {
    /// Of a request that came at `at` from this address, with these names in the certificate that was shown, of a client
    /// of this group whose view is this revision.
    pub fn new(
        clients: &Clients,
        (address, names): (IpAddr, &[Box<str>]),
        group: &Arc<str>,
        at: UnixMillis,
        sees: Option<u64>,
        sought: Sought,
    ) -> Self {
        let client = Identity::of(address, names);
        let address = address.to_canonical();
        Self { clients: clients.clone(), client, address, group: group.clone(), at, sees, sought }
    }

    /// The request has ended so, and that many bytes of body were sent.
    pub fn ended(self, response: Response, bytes: u64) {
        let Self { clients, client, address, group, at, sees, sought } = self;
        let end = Outcome::of(sought, response);
        clients.sighted(Sighting { client, address, group, at, sees, sought, bytes, end });
    }
}
