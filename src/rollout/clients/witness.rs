//! What is known of a request's client when its response begins, until it has ended and becomes a sighting. Owned by the
//! request's record, which is told how the response was.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, header};

use super::sighting::Response;
use super::{Clients, Identity, Outcome, Sighting, Sought};
use crate::cache::status::CacheStatus;
use crate::clock::UnixMillis;
use crate::telemetry::access::End;

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
    to_the_end: bool,
    damaged: bool,
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
        Self {
            clients: clients.clone(),
            client: Identity::of(address, names),
            address: address.to_canonical(),
            group: group.clone(),
            at,
            sees,
            sought,
            to_the_end: false,
            damaged: false,
        }
    }

    /// The response to `method` has this head.
    pub fn answered(&mut self, method: &Method, status: StatusCode, headers: &HeaderMap) {
        let to_the_end = status == StatusCode::OK
            || status == StatusCode::PARTIAL_CONTENT && is_to_the_end(headers).unwrap_or(false);
        self.to_the_end = *method == Method::GET && to_the_end;
    }

    /// The response broke off because its content was not what it has to be.
    pub fn damaged(&mut self) {
        self.damaged = true;
    }

    /// The request has ended so, and that many bytes of body were sent.
    pub fn ended(self, status: StatusCode, cache: Option<CacheStatus>, end: End, bytes: u64) {
        let Self { clients, client, address, group, at, sees, sought, to_the_end, damaged } = self;
        let end = Outcome::of(sought, Response { status, cache, end, damaged, to_the_end });
        clients.sighted(Sighting { client, address, group, at, sees, sought, bytes, end });
    }
}

/// Whether a part has the content's last byte (RFC 9110 §14.4): who went on with a download has had all of it then.
fn is_to_the_end(headers: &HeaderMap) -> Option<bool> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (span, complete) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (_, last) = span.split_once('-')?;
    Some(last.parse::<u64>().ok()?.checked_add(1)? == complete.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Uri};

    use super::super::sample::{self, THRESHOLDS};
    use super::super::{Settings, Tracker};
    use super::*;
    use crate::clock::Clock;
    use crate::telemetry::Metrics;
    use crate::telemetry::access::Access;

    fn headers(range: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_RANGE, HeaderValue::from_static(range))])
    }

    #[test]
    fn a_part_is_to_the_end_if_it_has_the_last_byte() {
        for (range, expected) in [
            ("bytes 5-9/10", Some(true)),
            ("bytes 0-8/10", Some(false)),
            ("bytes 0-9/*", None),
            ("bytes */10", None),
        ] {
            assert_eq!(is_to_the_end(&headers(range)), expected, "{range}");
        }
    }

    #[test]
    fn a_request_tells_of_its_client_when_its_record_is_dropped() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let settings = Settings { max_clients: 10, thresholds: THRESHOLDS };
        let clock = Clock::manual(sample::T0);
        let (clients, mut tracker) = Tracker::new(settings, Arc::new(|_, _| None), metrics.clone(), clock);
        let address = std::net::SocketAddr::from(([10, 0, 0, 1], 1));
        let mut tell = |method: Method, status: StatusCode, range: &'static str, end: End| {
            let (group, sought) = ("pilot".into(), Sought::payload("/ /a"));
            let mut witness =
                Witness::new(&clients, (address.ip(), &[]), &group, sample::T0, Some(7), sought);
            witness.answered(&method, status, &headers(range));
            let mut access = Access::new(address, &method, &Uri::from_static("/a"), metrics.clone(), false);
            access.witness = Some(Box::new(witness));
            (access.status, access.end, access.sent) = (status, end, 5);
            access.cache = Some(CacheStatus::Hit);
            drop(access);
            tracker.told().unwrap()
        };
        let whole = tell(Method::GET, StatusCode::OK, "", End::Complete);
        let (client, group) = ("10.0.0.1".parse().unwrap(), "pilot".into());
        let expected = Sighting {
            client,
            address: address.ip(),
            group,
            at: sample::T0,
            sees: Some(7),
            sought: Sought::payload("/ /a"),
            bytes: 5,
            end: Outcome::Given,
        };
        assert_eq!(whole, expected);
        for (method, status, range, end, expected) in [
            (Method::HEAD, StatusCode::OK, "", End::Complete, Outcome::Fine),
            (Method::GET, StatusCode::PARTIAL_CONTENT, "bytes 5-9/10", End::Complete, Outcome::Given),
            (Method::GET, StatusCode::PARTIAL_CONTENT, "bytes 0-4/10", End::Complete, Outcome::Fine),
            (Method::GET, StatusCode::OK, "", End::Client, Outcome::Gone),
            (Method::GET, StatusCode::OK, "", End::Upstream, Outcome::Failed),
        ] {
            assert_eq!(tell(method, status, range, end).end, expected);
        }
    }
}
