//! `GET /api/v1/fills`: the running fills with progress, rate, waiting requests and expected end. Paths say what clients
//! take, so the response is for requests with the admin token and for those of this machine.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::response::Response;
use gupd_cache::fill::RunningFill;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::auth::ReadAccess;
use super::openapi::Failure;
use super::{AdminApi, json_response};

/// Maximum number of fills in a report.
const MAX_FILLS: usize = 1_000;

/// The running fills.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FillReport {
    /// Number of running fills.
    pub running: u64,
    /// At most 1,000 of them, those with the most waiting requests first.
    pub fills: Vec<FillStatus>,
}

/// A running fill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FillStatus {
    /// Path of the object.
    pub object: String,
    /// Its content type.
    pub content_type: String,
    /// Upstream that was asked last; `None` while the fill is queued.
    pub upstream: Option<String>,
    /// Bytes that have arrived.
    pub arrived: u64,
    /// Length of the content, if it is known.
    pub length: Option<u64>,
    /// Mean rate of the last seconds.
    pub bytes_per_second: u64,
    /// Requests that wait for it or read from it.
    pub waiters: u64,
    /// Seconds since its start.
    pub seconds: u64,
    /// Seconds until its end at this rate; `None` if that is unknown.
    pub seconds_left: Option<u64>,
}

/// The bytes of running fills a few seconds ago. Fills that have ended are forgotten at the next reading.
#[derive(Debug, Default)]
pub struct FillMeter(Mutex<HashMap<u64, Reading>>);

/// The bytes of a fill at two times.
#[derive(Clone, Copy, Debug)]
struct Reading {
    before: (Instant, u64),
    last: (Instant, u64),
}

impl FillMeter {
    /// Reads the bytes of the running fills.
    pub(crate) fn record(&self, fills: &[RunningFill], now: Instant) {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = fills.iter().map(|fill| {
            let last = (now, fill.arrived);
            let before = readings.get(&fill.number).map_or_else(|| begin(fill, now), |reading| reading.last);
            (fill.number, Reading { before, last })
        });
        *readings = next.collect();
    }

    /// Returns the status of running fills.
    pub(crate) fn report(&self, fills: Vec<RunningFill>, running: u64, now: Instant) -> FillReport {
        let readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fills = fills.into_iter().map(|fill| {
            let known = readings.get(&fill.number);
            let (since, before) = known.map_or_else(|| begin(&fill, now), |reading| reading.before);
            status(fill, since, before, now)
        });
        FillReport { running, fills: fills.collect() }
    }
}

/// Returns the beginning of a fill, for one that was not read before.
fn begin(fill: &RunningFill, now: Instant) -> (Instant, u64) {
    (now.checked_sub(fill.elapsed).unwrap_or(now), fill.resumed_from)
}

fn status(fill: RunningFill, since: Instant, before: u64, now: Instant) -> FillStatus {
    let millis = u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
    let grown = fill.arrived.saturating_sub(before);
    let bytes_per_second = grown.saturating_mul(1_000).checked_div(millis).unwrap_or(0);
    let left = fill.length.map(|length| length.saturating_sub(fill.arrived));
    FillStatus {
        object: fill.object,
        content_type: fill.content_type.to_string(),
        upstream: fill.upstream.map(|upstream| upstream.to_string()),
        arrived: fill.arrived,
        length: fill.length,
        bytes_per_second,
        waiters: u64::try_from(fill.followers).unwrap_or(u64::MAX),
        seconds: fill.elapsed.as_secs(),
        seconds_left: left.and_then(|left| left.checked_div(bytes_per_second)),
    }
}

impl AdminApi {
    /// Returns the running fills.
    pub(crate) fn running_fills(&self) -> FillReport {
        let running = u64::try_from(self.fills.metrics().running.get()).unwrap_or(0);
        self.fill_meter.report(self.fills.running(MAX_FILLS), running, Instant::now())
    }

    pub(crate) fn record_fills(&self, now: Instant) {
        self.fill_meter.record(&self.fills.running(MAX_FILLS), now);
    }
}

#[utoipa::path(
    get, path = "/api/v1/fills", operation_id = "fills",
    responses((status = 200, body = FillReport), Failure),
)]
pub(super) async fn list(_: ReadAccess, State(api): State<AdminApi>) -> Response {
    json_response(&api.running_fills())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fill(number: u64, arrived: u64, length: Option<u64>, elapsed: u64) -> RunningFill {
        RunningFill {
            number,
            object: "/content/full.zip".to_owned(),
            content_type: "virus-definitions".into(),
            upstream: Some("sepm".into()),
            arrived,
            length,
            resumed_from: 0,
            followers: 3,
            elapsed: Duration::from_secs(elapsed),
        }
    }

    #[test]
    fn rate_and_end_follow_the_last_seconds() {
        let (meter, start) = (FillMeter::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let report = |fill: RunningFill, now| meter.report(vec![fill], 1, now).fills.remove(0);
        let fresh = report(fill(1, 1_000, Some(9_000), 10), at(10));
        assert_eq!((fresh.bytes_per_second, fresh.seconds_left, fresh.waiters), (100, Some(80), 3));
        meter.record(&[fill(1, 1_000, Some(9_000), 10)], at(10));
        meter.record(&[fill(1, 2_000, Some(9_000), 15)], at(15));
        let faster = report(fill(1, 4_000, Some(9_000), 20), at(20));
        assert_eq!((faster.bytes_per_second, faster.seconds_left), (300, Some(16)));
        meter.record(&[], at(21));
        assert!(meter.0.lock().unwrap().is_empty(), "an ended fill is forgotten");
    }

    #[test]
    fn fill_without_length_or_bytes_has_no_end() {
        let meter = FillMeter::default();
        let report = |fill: RunningFill| meter.report(vec![fill], 1, Instant::now()).fills.remove(0);
        assert_eq!(report(fill(1, 500, None, 5)).seconds_left, None);
        assert_eq!(report(fill(2, 0, Some(5), 0)).seconds_left, None);
        assert_eq!(report(fill(3, 9, Some(5), 3)).seconds_left, Some(0), "more than was announced");
    }
}
