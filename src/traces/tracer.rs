//! The sampling of spans and their queue. A request that is not sampled costs one random number.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;

use crate::export::{ExportTask, ExporterError};
use crate::metrics::TraceMetrics;
use crate::span::{FillSpan, RequestSpan, SpanFacts};
use gupd_config::{Clock, TraceSettings};

/// Maximum number of spans that wait for the collector: about 2 MiB.
const MAX_QUEUED: usize = 2_048;

/// Takes the spans of finished requests and fills.
#[derive(Debug)]
pub struct Tracer {
    queue: mpsc::Sender<SpanData>,
    /// Bound of the trace ID: lower ones are sampled, as by OpenTelemetry's `TraceIdRatioBased`.
    sampled_below: u64,
    scope: InstrumentationScope,
    metrics: Arc<TraceMetrics>,
    clock: Clock,
}

impl Tracer {
    /// Creates a tracer and the task that exports its spans; `None` without a collector.
    ///
    /// # Errors
    /// When the exporter cannot be set up.
    pub fn new(
        settings: &TraceSettings,
        metrics: Arc<TraceMetrics>,
        clock: Clock,
    ) -> Result<Option<(Self, ExportTask)>, ExporterError> {
        let Some(endpoint) = &settings.endpoint else { return Ok(None) };
        let (queue, spans) = mpsc::channel(MAX_QUEUED);
        let task = ExportTask::new(endpoint, spans, metrics.clone())?;
        let scope = InstrumentationScope::builder("gupd").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Some((Self { queue, sampled_below: bound(settings.ratio), scope, metrics, clock }, task)))
    }

    /// Records a finished request, if it is sampled. `span` is called only then. Never blocks.
    pub fn record_request<'a>(&self, span: impl FnOnce() -> RequestSpan<'a>) {
        self.record(|| span().facts());
    }

    /// Records a finished fill, if it is sampled. `span` is called only then. Never blocks.
    pub fn record_fill<'a>(&self, span: impl FnOnce() -> FillSpan<'a>) {
        self.record(|| span().facts());
    }

    fn record(&self, facts: impl FnOnce() -> SpanFacts) {
        let ids = RandomIdGenerator::default();
        let trace = ids.new_trace_id();
        if !is_sampled(trace, self.sampled_below) {
            return;
        }
        // A slot first: without one, the span is not built.
        match self.queue.try_reserve() {
            Ok(slot) => slot.send(self.span(trace, ids.new_span_id(), facts())),
            Err(_full_or_closed) => self.metrics.dropped.inc(),
        }
    }

    fn span(&self, trace: TraceId, span: SpanId, facts: SpanFacts) -> SpanData {
        let now = u64::try_from(self.clock.now()).unwrap_or(0);
        let end_time = UNIX_EPOCH + Duration::from_millis(now);
        SpanData {
            span_context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: facts.kind,
            name: facts.name.into(),
            start_time: end_time.checked_sub(facts.duration).unwrap_or(end_time),
            end_time,
            attributes: facts.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: facts.status,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

/// Returns the bound of the IDs of sampled traces, of 2^63.
fn bound(ratio: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the ratio is from 0 to 1")]
    let bound = (ratio * (1_u64 << 63) as f64) as u64;
    bound
}

fn is_sampled(trace: TraceId, sampled_below: u64) -> bool {
    let [_, _, _, _, _, _, _, _, low @ ..] = trace.to_bytes();
    u64::from_be_bytes(low) >> 1 < sampled_below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_of_sampled_traces_is_the_ratio() {
        let ids = RandomIdGenerator::default();
        for (ratio, least, most) in
            [(0.0, 0, 0), (0.1, 800, 1_200), (0.5, 4_600, 5_400), (1.0, 10_000, 10_000)]
        {
            let sampled = (0..10_000).filter(|_| is_sampled(ids.new_trace_id(), bound(ratio))).count();
            assert!((least..=most).contains(&sampled), "{ratio}: {sampled} of 10,000");
        }
    }
}
