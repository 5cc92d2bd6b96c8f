//! `GET /api/v1/content`: stored objects and bytes by content type, and those evicted since the start of the relay. A
//! count of stored objects reads the whole index, so one count serves many requests: counts take a hundredth of the
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use gupd_store::{RemovalStats, Store, StoreError};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::auth::ReadAccess;
use super::openapi::Failure;
use super::{AdminApi, json_response, problem};

/// Time between two counts, in times of the last one.
const PAUSE: u32 = 100;

/// Stored and evicted content by type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentReport {
    /// Content types, those with the most stored bytes first.
    pub types: Vec<TypeContent>,
}

/// Stored and evicted content of one type. Bytes are those of bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TypeContent {
    /// Content type; empty for paths without a rule.
    pub content_type: String,
    /// Stored objects, without copies of catalogs.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were removed since the start of the relay: for room, unused or damaged.
    pub evicted_objects: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
}

type Sums = BTreeMap<String, RemovalStats>;

/// The last count of stored objects.
#[derive(Debug, Default)]
pub struct ContentMeter(Mutex<Option<Counted>>);

#[derive(Debug)]
struct Counted {
    stored: Sums,
    valid_until: Instant,
}

impl ContentMeter {
    /// Returns the report of a store. Concurrent requests share a count.
    pub(crate) async fn report(&self, store: &Store) -> Result<ContentReport, StoreError> {
        let mut last = self.0.lock().await;
        let stored = match &*last {
            Some(counted) if Instant::now() < counted.valid_until => counted.stored.clone(),
            _ => {
                let begun = Instant::now();
                let stored = store.stored_by_type().await?;
                let pause = begun.elapsed().saturating_mul(PAUSE).min(Duration::from_secs(3_600));
                *last = Some(Counted { stored: stored.clone(), valid_until: Instant::now() + pause });
                stored
            }
        };
        Ok(report(&stored, &store.evicted_by_type()))
    }
}

fn report(stored: &Sums, evicted: &Sums) -> ContentReport {
    let names: BTreeSet<_> = stored.keys().chain(evicted.keys()).collect();
    let sums = |of: &Sums, name: &str| of.get(name).copied().unwrap_or_default();
    let mut types: Vec<_> = names
        .into_iter()
        .map(|name| {
            let (stored, evicted) = (sums(stored, name), sums(evicted, name));
            TypeContent {
                content_type: name.clone(),
                objects: stored.objects,
                bytes: stored.bytes,
                evicted_objects: evicted.objects,
                evicted_bytes: evicted.bytes,
            }
        })
        .collect();
    types.sort_by_key(|content| std::cmp::Reverse(content.bytes));
    ContentReport { types }
}

impl AdminApi {
    /// Returns stored and evicted content by type.
    pub(crate) async fn content_report(&self) -> Result<ContentReport, StoreError> {
        self.content_meter.report(&self.store).await
    }
}

#[utoipa::path(
    get, path = "/api/v1/content", operation_id = "content",
    responses((status = 200, body = ContentReport), Failure),
)]
pub(super) async fn list(_: ReadAccess, State(api): State<AdminApi>) -> Response {
    match api.content_report().await {
        Ok(report) => json_response(&report),
        Err(error) => problem::respond((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_has_types_that_are_stored_or_evicted() {
        let sums = |types: &[(&str, u64, u64)]| -> Sums {
            let sums = types
                .iter()
                .map(|&(name, objects, bytes)| (name.to_owned(), RemovalStats { objects, bytes }));
            sums.collect()
        };
        let report =
            report(&sums(&[("ips", 2, 20), ("virus", 3, 300)]), &sums(&[("", 1, 5), ("ips", 4, 40)]));
        let rows: Vec<_> = report
            .types
            .iter()
            .map(|row| (&*row.content_type, row.objects, row.bytes, row.evicted_objects, row.evicted_bytes))
            .collect();
        assert_eq!(rows, [("virus", 3, 300, 0, 0), ("ips", 2, 20, 4, 40), ("", 0, 0, 1, 5)]);
    }
}
