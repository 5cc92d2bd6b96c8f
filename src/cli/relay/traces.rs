//! The traces of a relay: one tracer for requests and fills, and the task that exports its spans.

use std::sync::Arc;

use super::RelayMetrics;
use gupd_config::{Clock, Config};
use gupd_traces::{ExportTask, ExporterError, Tracer};

/// Sets the tracer of requests and fills. Returns its task; `None` without a collector.
pub(super) fn start(
    config: &Config,
    metrics: &RelayMetrics,
    clock: &Clock,
) -> Result<Option<ExportTask>, ExporterError> {
    let traces = Tracer::new(&config.traces, metrics.traces.clone(), clock.clone())?;
    let Some((tracer, task)) = traces else { return Ok(None) };
    let tracer = Arc::new(tracer);
    // The metrics are new, so neither has a tracer yet.
    let _unset = metrics.requests.tracer.set(tracer.clone());
    let _unset = metrics.fills.tracer.set(tracer);
    Ok(Some(task))
}
