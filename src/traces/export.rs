//! The export of spans in batches. A batch is sent when it is full or a second old. While the collector does not answer,
//! spans wait in the queue, and then are dropped where they begin.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::metrics::TraceMetrics;
use gupd_config::Trust;
use gupd_net::webhook;

/// Maximum number of spans of a batch.
const MAX_BATCH: usize = 512;

/// Time for which a batch collects spans.
const BATCH_TIME: Duration = Duration::from_secs(1);

/// Time for which the collector may take a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the batches that are left when the relay ends.
const LAST_EXPORTS: Duration = Duration::from_secs(2);

/// Error that keeps the exporter from being set up.
#[derive(Debug, thiserror::Error)]
#[error("traces: the exporter cannot be set up: {0}")]
pub struct ExporterError(#[from] ExporterBuildError);

/// Sends spans to the collector.
#[derive(Debug)]
pub struct ExportTask {
    spans: mpsc::Receiver<SpanData>,
    exporter: SpanExporter,
    metrics: Arc<TraceMetrics>,
    /// True after a batch that failed, so that the log has the first failure of many.
    is_failing: bool,
}

impl ExportTask {
    pub(crate) fn new(
        endpoint: &Uri,
        spans: mpsc::Receiver<SpanData>,
        metrics: Arc<TraceMetrics>,
    ) -> Result<Self, ExporterError> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(CollectorClient)
            .with_endpoint(endpoint.to_string())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(EXPORT_TIMEOUT)
            // Its pauses would block the runtime's thread.
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        exporter.set_resource(&Resource::builder().with_service_name("gupd").build());
        Ok(Self { spans, exporter, metrics, is_failing: false })
    }

    /// Exports spans until `end`, and then those that are left.
    pub async fn run(mut self, end: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                received = self.spans.recv_many(&mut batch, MAX_BATCH) => if received == 0 { return },
                () = end.cancelled() => break,
            }
            self.complete(&mut batch, &end).await;
            self.export(std::mem::take(&mut batch), &end).await;
        }
        self.spans.close();
        while self.spans.recv_many(&mut batch, MAX_BATCH).await > 0 {
            // A collector that does not answer holds up the end once.
            if self.is_failing {
                self.metrics.failed.inc_by(batch.len() as u64);
                batch.clear();
            } else {
                self.export(std::mem::take(&mut batch), &end).await;
            }
        }
    }

    /// Collects spans until the batch is full or old enough.
    async fn complete(&mut self, batch: &mut Vec<SpanData>, end: &CancellationToken) {
        let until = Instant::now() + BATCH_TIME;
        while let left @ 1.. = MAX_BATCH.saturating_sub(batch.len()) {
            tokio::select! {
                received = timeout_at(until, self.spans.recv_many(batch, left)) => {
                    if received.unwrap_or(0) == 0 {
                        return;
                    }
                }
                () = end.cancelled() => return,
            }
        }
    }

    async fn export(&mut self, batch: Vec<SpanData>, end: &CancellationToken) {
        let spans = batch.len() as u64;
        let ended = async {
            end.cancelled().await;
            sleep(LAST_EXPORTS).await;
        };
        let result = tokio::select! {
            result = self.exporter.export(batch) => result.map_err(|error| error.to_string()),
            () = sleep(EXPORT_TIMEOUT) => Err("the collector did not answer in time".to_owned()),
            () = ended => Err("the relay ended first".to_owned()),
        };
        match result {
            Ok(()) => {
                self.metrics.exported.inc_by(spans);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("traces exported again");
                }
            }
            Err(error) => {
                self.metrics.failed.inc_by(spans);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(error, spans, "traces not exported");
                }
            }
        }
    }
}

/// The relay's own client: no second HTTP client in the program.
#[derive(Debug)]
struct CollectorClient;

#[async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let status = webhook::post(request, &Trust::default()).await?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = status;
        Ok(response)
    }
}

#[cfg(test)]
mod tests;
