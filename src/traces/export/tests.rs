//! Spans against a collector in this process, over a real socket.

use std::convert::Infallible;
use std::net::SocketAddr;

use gupd_config::{Clock, TraceSettings};
use http::{Method, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prometheus::Registry;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::{FillSpan, RequestSpan, Tracer};

/// A collector that answers each batch with this status.
struct Collector {
    address: SocketAddr,
    batches: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
    accepting: JoinHandle<()>,
}

impl Collector {
    async fn start(status: StatusCode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, batches) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let sender = sender.clone();
                    async move {
                        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/v1/traces"));
                        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        sender.send(ExportTraceServiceRequest::decode(body).unwrap()).unwrap();
                        let mut response = Response::new(Empty::<Bytes>::new());
                        *response.status_mut() = status;
                        Ok::<_, Infallible>(response)
                    }
                });
                // One connection after the other, as the exporter makes them.
                let _closed = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        Self { address, batches, accepting }
    }

    fn settings(&self, ratio: f64) -> TraceSettings {
        settings(&format!("http://{}/v1/traces", self.address), ratio)
    }

    /// The spans of the next batch, with the names of the resource.
    async fn next_batch(&mut self) -> Vec<Span> {
        let batch = self.batches.recv().await.unwrap();
        let [of_resource] = batch.resource_spans.as_slice() else { panic!("{batch:?}") };
        let resource = format!("{:?}", of_resource.resource);
        assert!(resource.contains("service.name") && resource.contains("gupd"), "{resource}");
        of_resource.scope_spans.iter().flat_map(|of_scope| of_scope.spans.clone()).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn settings(endpoint: &str, ratio: f64) -> TraceSettings {
    TraceSettings { endpoint: Some(endpoint.parse().unwrap()), ratio, location: None }
}

fn start(settings: &TraceSettings) -> (Tracer, ExportTask, Arc<TraceMetrics>) {
    let metrics = Arc::new(TraceMetrics::register(&Registry::new()).unwrap());
    let clock = Clock::manual(1_000_000_000);
    let (tracer, task) = Tracer::new(settings, metrics.clone(), clock).unwrap().unwrap();
    (tracer, task, metrics)
}

fn request() -> RequestSpan<'static> {
    RequestSpan {
        method: &Method::GET,
        path: "/content/full.zip",
        version: Version::HTTP_11,
        client: [10, 0, 0, 7].into(),
        group: None,
        class: "payload",
        content_type: Some("virus-definitions-64"),
        outcome: "miss",
        upstream: Some("manager"),
        status: StatusCode::OK,
        bytes: 4_096,
        broken: None,
        duration: Duration::from_millis(250),
    }
}

fn fill() -> FillSpan<'static> {
    FillSpan {
        path: "/content/full.zip",
        class: "payload",
        content_type: "virus-definitions-64",
        outcome: "broken-off",
        is_failure: true,
        upstream: Some("manager"),
        bytes: 1_024,
        followers: 3,
        duration: Duration::from_secs(2),
    }
}

fn attributes(span: &Span) -> Vec<(String, String)> {
    let value = |value: &Option<opentelemetry_proto::tonic::common::v1::AnyValue>| format!("{value:?}");
    span.attributes.iter().map(|attribute| (attribute.key.clone(), value(&attribute.value))).collect()
}

fn assert_attribute(span: &Span, key: &str, expected: &str) {
    let attributes = attributes(span);
    let found = attributes.iter().find(|(name, _)| name == key);
    assert!(found.is_some_and(|(_, value)| value.contains(expected)), "{key} of {attributes:?}");
}

#[tokio::test]
async fn request_and_fill_reach_the_collector_with_their_facts() {
    let mut collector = Collector::start(StatusCode::OK).await;
    let (tracer, task, metrics) = start(&collector.settings(1.0));
    tracer.record_request(request);
    tracer.record_fill(fill);
    let end = CancellationToken::new();
    end.cancel();
    task.run(end).await;
    let spans = collector.next_batch().await;
    let [of_request, of_fill] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((of_request.name.as_str(), of_fill.name.as_str()), ("GET", "fill"));
    assert_ne!(of_request.trace_id, of_fill.trace_id);
    for (key, expected) in [
        ("http.request.method", "\"GET\""),
        ("url.path", "/content/full.zip"),
        ("client.address", "10.0.0.7"),
        ("http.response.status_code", "200"),
        ("http.response.body.size", "4096"),
        ("gupd.class", "payload"),
        ("gupd.cache", "miss"),
        ("gupd.upstream", "manager"),
    ] {
        assert_attribute(of_request, key, expected);
    }
    for (key, expected) in [
        ("gupd.fill.outcome", "broken-off"),
        ("error.type", "broken-off"),
        ("gupd.fill.followers", "3"),
        ("http.response.body.size", "1024"),
    ] {
        assert_attribute(of_fill, key, expected);
    }
    assert_eq!(of_request.end_time_unix_nano, 1_000_000_000_000_000);
    assert_eq!(of_request.end_time_unix_nano - of_request.start_time_unix_nano, 250_000_000);
    assert_eq!(metrics.exported.get(), 2);
}

#[tokio::test]
async fn batch_is_sent_while_the_relay_runs() {
    let mut collector = Collector::start(StatusCode::OK).await;
    let (tracer, task, _) = start(&collector.settings(1.0));
    let end = CancellationToken::new();
    let running = tokio::spawn(task.run(end.clone()));
    (0..MAX_BATCH + 1).for_each(|_| tracer.record_request(request));
    assert_eq!(collector.next_batch().await.len(), MAX_BATCH);
    assert_eq!(collector.next_batch().await.len(), 1);
    end.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn spans_beyond_the_queue_are_dropped_and_counted() {
    let (tracer, _task, metrics) = start(&settings("http://127.0.0.1:9/v1/traces", 1.0));
    (0..5_000).for_each(|_| tracer.record_request(request));
    assert_eq!(metrics.dropped.get(), 5_000 - 2_048);
}

#[tokio::test]
async fn unsampled_request_builds_no_span() {
    let (tracer, _task, metrics) = start(&settings("http://127.0.0.1:9/v1/traces", 0.0));
    tracer.record_request(|| panic!("built"));
    assert_eq!(metrics.dropped.get(), 0);
}

#[tokio::test]
async fn failed_batches_are_counted_and_not_repeated() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refusing = Collector::start(StatusCode::SERVICE_UNAVAILABLE).await;
    for endpoint in [format!("http://{closed}/v1/traces"), format!("http://{}/v1/traces", refusing.address)] {
        let (tracer, task, metrics) = start(&settings(&endpoint, 1.0));
        (0..MAX_BATCH + 1).for_each(|_| tracer.record_request(request));
        let end = CancellationToken::new();
        end.cancel();
        task.run(end).await;
        assert_eq!((metrics.failed.get(), metrics.exported.get()), (513, 0), "{endpoint}");
    }
}

#[tokio::test]
async fn silent_collector_holds_up_the_end_for_two_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (tracer, task, metrics) = start(&settings(&format!("http://{}/", silent.local_addr().unwrap()), 1.0));
    tracer.record_request(request);
    let end = CancellationToken::new();
    end.cancel();
    task.run(end).await;
    assert_eq!(metrics.failed.get(), 1);
}
