//! The meter of one response body: it counts received bytes in the metric and records them under their cause. What it
//! has counted is recorded about once a second and at the end, so that a download of hours shows while it runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::{RequestBody, Upstream, UpstreamRequest, Upstreams};
use crate::traffic::{TrafficCounts, TrafficRecorder, TransferCause, TransferLabels, TransferRecord};
use gupd_config::clock::{Clock, UnixMillis};
use prometheus::{IntCounter, IntCounterVec};

/// Interval of records of a running transfer.
const INTERVAL: Duration = Duration::from_secs(1);

/// Maximum bytes of a recorded path; the rest is cut off.
const MAX_PATH: usize = 512;

/// Counts the bytes of one response.
#[derive(Debug)]
pub(super) struct TransferMeter {
    traffic: Arc<TrafficRecorder>,
    counter: IntCounter,
    cause_bytes: IntCounterVec,
    clock: Clock,
    record: TransferRecord,
    request_body: RequestBody,
    /// Bytes that the relay has and the response repeats.
    known: u64,
    unrecorded: TrafficCounts,
    wasted: u64,
    recorded_at: Instant,
}

impl TransferMeter {
    /// Creates the meter of a response with this status to `outgoing`. `is_empty` is true if it has no content.
    pub(super) fn new(
        upstreams: &Upstreams,
        upstream: &Upstream,
        outgoing: &UpstreamRequest,
        status: StatusCode,
        is_empty: bool,
    ) -> Self {
        let traffic = upstreams.metrics.traffic.clone();
        let mut record = TransferRecord::new(upstream, outgoing);
        // A manager under load answers with an empty delta (KB152365).
        let is_missing =
            matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) || status.is_success() && is_empty;
        traffic.explain(upstreams.clock.now(), &mut record, is_missing);
        Self {
            traffic,
            counter: upstream.received.clone(),
            cause_bytes: upstreams.metrics.upstream.cause_bytes.clone(),
            clock: upstreams.clock.clone(),
            record,
            request_body: outgoing.body.clone(),
            known: 0,
            unrecorded: TrafficCounts::default(),
            wasted: 0,
            recorded_at: Instant::now(),
        }
    }

    /// Counts the next bytes as repeated ones that the relay has.
    pub(super) fn expect_known(&mut self, bytes: u64) {
        self.known = bytes;
    }

    /// Counts received bytes.
    pub(super) fn received(&mut self, bytes: u64) {
        self.counter.inc_by(bytes);
        let wasted = self.known.min(bytes);
        self.known = self.known.saturating_sub(wasted);
        self.wasted = self.wasted.saturating_add(wasted);
        let new = bytes.saturating_sub(wasted);
        self.unrecorded.received = self.unrecorded.received.saturating_add(new);
        if self.recorded_at.elapsed() >= INTERVAL {
            self.record();
        }
    }

    fn record(&mut self) {
        let now: UnixMillis = self.clock.now();
        self.recorded_at = Instant::now();
        let counts = std::mem::take(&mut self.unrecorded);
        if counts != TrafficCounts::default() {
            self.add(now, self.record.labels.cause, counts);
        }
        let wasted = TrafficCounts { received: std::mem::take(&mut self.wasted), ..TrafficCounts::default() };
        if wasted.received > 0 {
            self.add(now, TransferCause::ResumeWaste, wasted);
        }
    }

    fn add(&self, now: UnixMillis, cause: TransferCause, counts: TrafficCounts) {
        // What a peer sends stays on the LAN.
        if !self.record.is_peer {
            self.cause_bytes.with_label_values(&[cause.as_str()]).inc_by(counts.received);
        }
        self.traffic.add(now, &self.record, cause, counts);
    }
}

impl Drop for TransferMeter {
    fn drop(&mut self) {
        self.unrecorded.transfers = 1;
        self.unrecorded.sent = self.request_body.sent_bytes();
        self.record();
    }
}

impl TransferRecord {
    /// The record of a request to this upstream.
    pub(super) fn new(upstream: &Upstream, outgoing: &UpstreamRequest) -> Self {
        let path = outgoing.target.path();
        let end = (0..=MAX_PATH.min(path.len())).rev().find(|end| path.is_char_boundary(*end)).unwrap_or(0);
        let cause = if upstream.is_tier() { TransferCause::Tier } else { outgoing.labels.cause };
        Self {
            upstream: upstream.name.clone(),
            is_peer: upstream.stays_on_lan(),
            labels: TransferLabels { cause, ..outgoing.labels.clone() },
            client: outgoing.client,
            object: Arc::from(path.get(..end).unwrap_or_default()),
            from_revision: None,
        }
    }
}

impl Upstreams {
    /// Returns the recorder of traffic.
    pub fn traffic(&self) -> &Arc<TrafficRecorder> {
        &self.metrics.traffic
    }

    /// Records how many other clients a transfer has served.
    pub fn record_followers(&self, upstream: &Upstream, outgoing: &UpstreamRequest, followers: u64) {
        if followers > 0 {
            let (now, mut record) = (self.clock.now(), TransferRecord::new(upstream, outgoing));
            self.metrics.traffic.explain(now, &mut record, false);
            let counts = TrafficCounts { followers, ..TrafficCounts::default() };
            self.metrics.traffic.add(now, &record, record.labels.cause, counts);
        }
    }
}
