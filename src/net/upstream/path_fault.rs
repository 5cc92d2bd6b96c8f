//! Faults that may concern one path or one client only: a stopped service, a page that is not HTTP, a request that an
//! upstream holds open. They become evidence against the whole upstream when unrelated paths fail for several clients
//! and nothing succeeds in between. Pure; one client or one path alone never suffices.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use super::UpstreamRequest;

/// Path and client of a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathFault {
    /// Hash of the area of the site that the path belongs to.
    area: u64,
    /// `None` for the relay's own requests, which count as one client.
    client: Option<IpAddr>,
}

/// Faults since the last success that differ from each other in area and in client.
#[derive(Clone, Debug, Default)]
pub(super) struct IndependentFaults(Vec<PathFault>);

impl PathFault {
    /// The fault of a request.
    pub(super) fn of(outgoing: &UpstreamRequest) -> Self {
        Self::new(outgoing.target.path(), outgoing.client)
    }

    pub(super) fn new(path: &str, client: Option<IpAddr>) -> Self {
        // Managers compare paths without case.
        let path = path.to_ascii_lowercase();
        let mut hasher = DefaultHasher::new();
        area(&path).hash(&mut hasher);
        Self { area: hasher.finish(), client }
    }
}

impl IndependentFaults {
    /// Adds a fault unless an earlier one has its area or its client. Returns the number of faults, at most `limit`.
    pub(super) fn add(&mut self, fault: PathFault, limit: usize) -> usize {
        let is_related = |known: &PathFault| known.area == fault.area || known.client == fault.client;
        if self.0.len() < limit && !self.0.iter().any(is_related) {
            self.0.push(fault);
        }
        self.0.len()
    }

    /// Forgets all faults.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Returns the area of a path: its first folder, which one service answers. A file at the root is an area of its own.
fn area(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    path.split_once('/').map_or(path, |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of independent faults after these requests; `client` is the last byte of its address.
    fn count(requests: &[(&str, u8)], limit: usize) -> usize {
        let mut faults = IndependentFaults::default();
        let fault = |(path, client): &(&str, u8)| {
            PathFault::new(path, (*client > 0).then(|| IpAddr::from([10, 0, 0, *client])))
        };
        requests.iter().map(|request| faults.add(fault(request), limit)).last().unwrap_or(0)
    }

    #[test]
    fn faults_count_if_both_area_and_client_differ() {
        for (requests, expected) in [
            (&[("/a/1", 1), ("/a/2", 2), ("/a/b/c", 3)][..], 1),
            (&[("/a/1", 1), ("/b/1", 1), ("/c", 1)], 1),
            (&[("/a/1", 1), ("/b/1", 2), ("/c", 3)], 3),
            (&[("/1.flg", 1), ("/2.flg", 2), ("/2.flg", 3)], 2),
            (&[("/A/1", 1), ("//a/1", 2)], 1),
            (&[("/a/1", 0), ("/b/1", 0), ("/c/1", 1)], 2),
            (&[("/", 1), ("/", 2)], 1),
            (&[("/a/1", 1), ("/b/1", 2), ("/c/1", 3), ("/d/1", 4), ("/e/1", 5)], 3),
        ] {
            assert_eq!(count(requests, 3), expected, "{requests:?}");
        }
    }
}
