//! `[ledger]`, `[alarms]` and `[traces]`: history, alarms and traces for administrators. Every
//! program reads `[traces]`; one without the feature `otlp` refuses an endpoint.

use std::time::Duration;

use http::Uri;

use crate::defaults;
use crate::document::Document;
use crate::problem::{Location, Problem};
use crate::reader::{size, time};
use crate::summary::service_url;

/// `[ledger]`
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerSettings {
    /// Maximum bytes of the ledger on disk, 16 MiB to 16 GiB.
    pub max_size: u64,
}

pub(crate) fn read_ledger(document: &mut Document) -> LedgerSettings {
    let mut s = document.take_section("ledger");
    let ledger = LedgerSettings { max_size: size(&mut s, "max_size", defaults::LEDGER_SIZE) };
    document.close(s);
    ledger
}

/// `[alarms]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmSettings {
    /// Time for which the line may be saturated, 1 m to 7 d.
    pub saturated_after: Duration,
    /// Time for which no refresh of catalogs may succeed, 10 m to 30 d.
    pub catalogs_after: Duration,
}

pub(crate) fn read_alarms(document: &mut Document) -> AlarmSettings {
    let mut s = document.take_section("alarms");
    let alarms = AlarmSettings {
        saturated_after: time(&mut s, "saturated_after", defaults::SATURATED_AFTER),
        catalogs_after: time(&mut s, "catalogs_after", defaults::CATALOGS_AFTER),
    };
    document.close(s);
    alarms
}

/// `[traces]`
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// URL that gets spans by OTLP over HTTP; `None` for no traces.
    pub endpoint: Option<Uri>,
    /// Share of requests and fills that are traced, 0 to 1.
    pub ratio: f64,
    /// Location of `endpoint`.
    pub location: Option<Location>,
}

impl TraceSettings {
    /// Returns the problem of these settings for a program without the feature `otlp`.
    pub fn unsupported(&self) -> Option<Problem> {
        self.endpoint.as_ref().map(|_| Problem {
            location: self.location.clone(),
            key: Some("traces.endpoint".to_owned()),
            message: "this program cannot export traces: use one that was built with --features otlp, or remove the key"
                .to_owned(),
        })
    }
}

pub(crate) fn read_traces(document: &mut Document) -> TraceSettings {
    let mut s = document.take_section("traces");
    let endpoint = s.read("endpoint", |text| service_url(text, "http://127.0.0.1:4318/v1/traces"));
    let traces = TraceSettings {
        location: s.location_of("endpoint").cloned(),
        ratio: s.read("ratio", ratio).unwrap_or(defaults::TRACE_RATIO),
        endpoint,
    };
    document.close(s);
    traces
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("{text:?} is not a ratio: write a number from 0 to 1, such as 0.01"))
}
