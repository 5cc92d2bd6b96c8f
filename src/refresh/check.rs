//! Checks of stored payloads: one conditional request after the other, in the order of the index, to find a payload that
//! changed under its name. The relay would never ask for it otherwise. The rate is a setting; a check that brings content
//! is followed by a pause in proportion, so that a manager with new validators for old bytes costs a bounded share of the line.

use std::hash::{BuildHasher, RandomState};

use http::{StatusCode, header};

use super::{RefreshWorker, TaskSettings};
use gupd_config::clock::UnixMillis;
use gupd_http::internal;
use gupd_proxy::background::CheckOutcome;
use gupd_store::Object;

/// Milliseconds of a day.
const DAY: u64 = 86_400_000;

/// Bytes that checks may bring in a day, on average: two full sets.
const BYTES_A_DAY: u64 = 256 << 20;

/// Maximum number of pages of the index read for one check: most objects are payloads.
const MAX_PAGES: usize = 16;

/// Progress of the checks through the index.
#[derive(Debug)]
pub(super) struct PayloadChecks {
    /// Time of the next check; `None` without checks.
    next: Option<UnixMillis>,
    /// Row of the last object.
    after: i64,
}

impl PayloadChecks {
    /// Plans the first check, at a random time within the first interval: sites start together.
    pub(super) fn new(settings: &TaskSettings, now: UnixMillis) -> Self {
        let first = interval(settings).map(|interval| RandomState::new().hash_one(now) % interval.max(1));
        Self { next: first.map(|wait| later(now, wait)), after: 0 }
    }

    /// Time of the next check.
    pub(super) fn next(&self) -> Option<UnixMillis> {
        self.next
    }
}

/// Milliseconds between two checks; `None` without checks.
fn interval(settings: &TaskSettings) -> Option<u64> {
    DAY.checked_div(settings.checks_per_day.into())
}

fn later(now: UnixMillis, wait: u64) -> UnixMillis {
    now.saturating_add(i64::try_from(wait).unwrap_or(i64::MAX))
}

/// Returns the wait after a check that brought this many bytes.
fn wait_after(interval: u64, bytes: u64) -> u64 {
    let share = u128::from(bytes) * u128::from(DAY) / u128::from(BYTES_A_DAY);
    interval.max(u64::try_from(share).unwrap_or(u64::MAX))
}

impl RefreshWorker {
    /// Checks the next payload and plans the one after it. Nothing is asked outside windows.
    pub(super) async fn check_payload(&self, settings: &TaskSettings, checks: &mut PayloadChecks) {
        let now = self.clock.now();
        let Some(interval) = interval(settings) else {
            checks.next = None;
            return;
        };
        // Before the request: if this future is dropped, the check is over.
        checks.next = Some(later(now, interval));
        if settings.schedule.closes(now).is_none() || self.store.degradation().is_some() {
            return;
        }
        let Some(object) = self.next_payload(&mut checks.after).await else { return };
        let outcome = match self.background.check_payload(&object).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::debug!(%error, key = &*object.key, "payload not checked");
                CheckOutcome::Failed
            }
        };
        let bytes = if outcome.has_content() { object.len } else { 0 };
        checks.next = Some(later(now, wait_after(interval, bytes)));
        self.metrics.payload_checks.with_label_values(&[outcome.as_str()]).inc();
        if outcome == CheckOutcome::Changed {
            tracing::error!(key = &*object.key, "check found a payload that changed under its name");
        }
    }

    /// Returns the next stored payload with a validator. Without one, a check would bring all of it.
    async fn next_payload(&self, after: &mut i64) -> Option<Object> {
        for _ in 0..MAX_PAGES {
            let page = self.store.page(*after).await.ok()?;
            let Some(last) = page.last() else {
                *after = 0;
                return None;
            };
            let end = last.id;
            let has_validator = |object: &Object| {
                [header::ETAG, header::LAST_MODIFIED].iter().any(|name| object.headers.contains_key(name))
            };
            let is_payload = |object: &Object| {
                object.status == StatusCode::OK
                    && has_validator(object)
                    // Clients have those revalidated.
                    && !object.headers.contains_key(internal::MUTABLE)
                    && self.background.is_payload_key(&object.key)
            };
            if let Some(object) = page.into_iter().find(is_payload) {
                *after = object.id;
                return Some(object);
            }
            *after = end;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_of_checks_is_bounded_by_the_day() {
        let hour = DAY / 24;
        assert_eq!(wait_after(hour, 0), hour);
        assert_eq!(wait_after(hour, 1 << 20), hour);
        assert_eq!(wait_after(hour, 128 << 20), DAY / 2);
        assert_eq!(wait_after(hour, 1 << 40), DAY * 4096);
        assert!(wait_after(hour, u64::MAX) > DAY);
    }
}
