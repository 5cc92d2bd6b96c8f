//! The record of full sets that clients took, from the store or not. The alarm about many of them reads it from the
//! ledger. A response of at least a MiB takes the recorder's lock once, at its end; smaller ones take no lock.

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;

use crate::access::RequestObserver;
use crate::exchange::Exchange;
use crate::reply::Reply;
use gupd_config::policy::PayloadForm;
use gupd_http::status::{FinishedResponse, ResponseEnd};
use gupd_net::traffic::{Incident, IncidentCounts, TrafficRecorder};

/// Least bytes of a response that is recorded. Smaller full sets, such as those of small content types, load no line.
const LEAST: u64 = 1 << 20;

/// Records a full set once its response has ended.
#[derive(Debug)]
struct FullSetObserver {
    traffic: Arc<TrafficRecorder>,
    client: IpAddr,
    content_type: Arc<str>,
    next: Option<Box<dyn RequestObserver>>,
}

/// Registers an observer for the end of a response that brings a full set.
pub(crate) fn observe_full_set(exchange: &mut Exchange<'_>, reply: &Reply) {
    let Some(classification) = reply.classification() else { return };
    if classification.form != PayloadForm::Full
        || *exchange.method != Method::GET
        || !reply.brings_content()
        || reply.expected().is_some_and(|bytes| bytes < LEAST)
    {
        return;
    }
    exchange.observer = Some(Box::new(FullSetObserver {
        traffic: exchange.generation.upstreams.traffic().clone(),
        client: exchange.address(),
        content_type: classification.content_type.clone(),
        next: exchange.observer.take(),
    }));
}

impl RequestObserver for FullSetObserver {
    fn finished(self: Box<Self>, response: FinishedResponse) {
        // A client that resumes takes one full set in several responses: the last one counts it.
        let is_whole = response.has_last_byte && response.end == ResponseEnd::Complete;
        let counts = IncidentCounts { count: is_whole.into(), bytes: response.bytes };
        if response.bytes > 0 {
            self.traffic.add_incident(self.client, Incident::FullSet, &self.content_type, counts);
        }
        if let Some(next) = self.next {
            next.finished(response);
        }
    }
}
