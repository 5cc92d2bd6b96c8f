//! A request of a client whose response has not ended yet. It holds what is known when the response begins, and becomes
//! one client observation when the response has ended.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Clients, Identity, Outcome, Sighting, Sought};
use gupd_config::clock::UnixMillis;
use gupd_http::status::FinishedResponse;

/// A request that is recorded once its response has ended.
#[derive(Debug)]
pub struct ObservedRequest {
    clients: Clients,
    client: Identity,
    address: IpAddr,
    group: Arc<str>,
    at: UnixMillis,
    sees: Option<u64>,
    sought: Sought,
}

impl ObservedRequest {
    /// A request that arrived at `at` from a client of this group, with its address and the names in its certificate.
    /// `sees` is the revision that was visible to the client then.
    pub fn new(
        clients: &Clients,
        (address, names): (IpAddr, &[Box<str>]),
        group: &Arc<str>,
        at: UnixMillis,
        sees: Option<u64>,
        sought: Sought,
    ) -> Self {
        Self {
            clients: clients.clone(),
            client: Identity::of(address, names),
            address: address.to_canonical(),
            group: group.clone(),
            at,
            sees,
            sought,
        }
    }

    /// Records how the response ended. Never waits.
    pub fn record(self, response: FinishedResponse) {
        let Self { clients, client, address, group, at, sees, sought } = self;
        let end = Outcome::of(sought, response);
        clients.sighted(Sighting { client, address, group, at, sees, sought, bytes: response.bytes, end });
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::super::sample::{self, THRESHOLDS};
    use super::super::{Settings, Tracker};
    use super::*;
    use crate::metrics::RolloutMetrics;
    use gupd_config::clock::Clock;
    use gupd_http::status::{CacheStatus, ResponseEnd};

    #[test]
    fn finished_request_is_recorded_with_its_client() {
        let metrics = Arc::new(RolloutMetrics::register(&prometheus::Registry::new()).unwrap());
        let settings = Settings { max_clients: 10, thresholds: THRESHOLDS };
        let clock = Clock::manual(sample::T0);
        let (clients, mut tracker) = Tracker::new(settings, Arc::new(|_, _| None), metrics, clock);
        let (address, group, sought) = (IpAddr::from([10, 0, 0, 1]), "pilot".into(), Sought::payload("/ /a"));
        ObservedRequest::new(&clients, (address, &[]), &group, sample::T0, Some(7), sought).record(
            FinishedResponse {
                status: StatusCode::OK,
                cache: Some(CacheStatus::Hit),
                end: ResponseEnd::Complete,
                is_damaged: false,
                has_last_byte: true,
                bytes: 5,
            },
        );
        let expected = Sighting {
            client: "10.0.0.1".parse().unwrap(),
            address,
            group,
            at: sample::T0,
            sees: Some(7),
            sought,
            bytes: 5,
            end: Outcome::Given,
        };
        assert_eq!(tracker.told(), Some(expected));
    }
}
