//! Traces: one span for each sampled request and fill, exported by OTLP over HTTP. Part of the program only with its
//! feature `otlp`.
//!
//! Invariant: a span never delays a request. [`Tracer`] drops and counts a span that finds the queue full; the
//! [`ExportTask`] sends batches to the collector, and a batch that fails is lost and counted, never sent again. The
//! sampling decision is a function of the trace's ID, made before anything of the span is built.

mod export;
pub mod metrics;
mod span;
mod tracer;

pub use self::export::{ExportTask, ExporterError};
pub use self::span::{FillSpan, RequestSpan};
pub use self::tracer::Tracer;
