//! The recorder of traffic, shared by all transfers of a relay. Its lock is held for arithmetic only, and no request
//! that is answered from the store takes it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Incident, IncidentCounts, TrafficBatch, TrafficCounts, TransferCause, TransferRecord, WaitReason,
};
use gupd_config::clock::UnixMillis;
use gupd_config::policy::PayloadForm;

/// Maximum number of remembered missing deltas: some days of a manager's revisions.
const MAX_MISSING: usize = 256;

/// Time for which a missing delta explains a full set of its revision.
const EXPLAINS: UnixMillis = 3_600_000;

/// Aggregates transfers and waits until they are taken. It records nothing before [`start`](TrafficRecorder::start):
/// a guard or a command has nothing that would take the records.
#[derive(Debug, Default)]
pub struct TrafficRecorder(Mutex<RecorderState>);

#[derive(Debug, Default)]
struct RecorderState {
    is_started: bool,
    batch: TrafficBatch,
    missing: VecDeque<MissingDelta>,
}

/// A delta that an upstream did not have.
#[derive(Debug)]
struct MissingDelta {
    folder: Arc<str>,
    from_revision: Option<Arc<str>>,
    at: UnixMillis,
}

impl TrafficRecorder {
    /// Begins to record.
    pub fn start(&self) {
        self.state().is_started = true;
    }

    /// Adds a transfer, or a part of it.
    pub fn add(&self, at: UnixMillis, record: &TransferRecord, cause: TransferCause, counts: TrafficCounts) {
        let mut state = self.state();
        if state.is_started {
            state.batch.add(at, record, cause, counts);
        }
    }

    /// Adds a wait of a client.
    pub fn add_wait(&self, at: UnixMillis, client: IpAddr, reason: WaitReason, millis: u64) {
        let mut state = self.state();
        if state.is_started {
            state.batch.add_wait(at, client, reason, millis);
        }
    }

    /// Adds an incident of a client.
    pub fn add_incident(
        &self,
        client: IpAddr,
        incident: Incident,
        content_type: &Arc<str>,
        counts: IncidentCounts,
    ) {
        let mut state = self.state();
        if state.is_started {
            state.batch.add_incident(client, incident, content_type, counts);
        }
    }

    /// Adds a refused request or connection: the address of the client is not served.
    pub fn add_refused(&self, client: IpAddr) {
        let counts = IncidentCounts { count: 1, bytes: 0 };
        self.add_incident(client, Incident::Refused, &Arc::default(), counts);
    }

    /// Explains a full set by a delta that its manager lacked, and remembers a missing delta. `is_missing` is true if
    /// the upstream has no content for the request.
    pub fn explain(&self, at: UnixMillis, record: &mut TransferRecord, is_missing: bool) {
        match record.labels.form {
            Some(PayloadForm::Delta) => {
                record.from_revision = source_revision(&record.object);
                if is_missing {
                    self.state().remember_missing(record, at);
                }
            }
            Some(PayloadForm::Full) if record.labels.cause == TransferCause::FullSet => {
                let state = self.state();
                let folder = folder(&record.object);
                let missing = state.missing.iter().rev().find(|delta| *delta.folder == *folder);
                if let Some(delta) = missing.filter(|delta| at.saturating_sub(delta.at) <= EXPLAINS) {
                    record.labels.cause = TransferCause::NoDelta;
                    record.from_revision.clone_from(&delta.from_revision);
                }
            }
            Some(PayloadForm::Full | PayloadForm::Other) | None => {}
        }
    }

    /// Takes everything that was recorded since the last call.
    pub fn take(&self) -> TrafficBatch {
        std::mem::take(&mut self.state().batch)
    }

    /// Returns a batch that could not be written.
    pub fn put_back(&self, batch: TrafficBatch) {
        self.state().batch.merge(batch);
    }

    fn state(&self) -> MutexGuard<'_, RecorderState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecorderState {
    fn remember_missing(&mut self, record: &TransferRecord, at: UnixMillis) {
        let folder = folder(&record.object);
        self.missing.retain(|delta| *delta.folder != *folder || delta.from_revision != record.from_revision);
        if self.missing.len() >= MAX_MISSING {
            self.missing.pop_front();
        }
        let from_revision = record.from_revision.clone();
        self.missing.push_back(MissingDelta { folder: folder.into(), from_revision, at });
    }
}

/// Returns the path of the folder that an object stands in: managers keep deltas beside the full set.
fn folder(object: &str) -> &str {
    object.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Returns the revision that a delta starts from: the last number in its name, if it has more than a few digits.
fn source_revision(object: &str) -> Option<Arc<str>> {
    const MIN_DIGITS: usize = 3;
    let name = object.rsplit('/').next()?;
    let mut numbers = name.split(|char: char| !char.is_ascii_digit());
    numbers.rfind(|number| number.len() >= MIN_DIGITS).map(Arc::from)
}

#[cfg(test)]
mod tests {
    use super::super::TransferLabels;
    use super::*;

    fn record(object: &str, form: PayloadForm, cause: TransferCause) -> TransferRecord {
        TransferRecord {
            upstream: "manager".into(),
            is_peer: false,
            labels: TransferLabels { cause, content_type: None, form: Some(form), group: None },
            client: None,
            object: object.into(),
            from_revision: None,
        }
    }

    #[test]
    fn source_of_a_delta_is_the_last_number_of_its_name() {
        for (object, expected) in [
            ("/content/{A}/240601003/xdelta240531001.dax", Some("240531001")),
            ("/content/{A}/240601003/240531001-240601003.dax", Some("240601003")),
            ("/content/{A}/240601003/delta.dax", None),
            ("/content/{A}/240601003/v2.dax", None),
            ("", None),
        ] {
            assert_eq!(source_revision(object).as_deref(), expected, "{object}");
        }
    }

    #[test]
    fn full_set_is_explained_by_a_missing_delta_of_its_folder() {
        let folder = "/content/{A}/240601003";
        for (is_missing, other, after, expected) in [
            (true, folder, 0, TransferCause::NoDelta),
            (true, folder, EXPLAINS, TransferCause::NoDelta),
            (true, folder, EXPLAINS + 1, TransferCause::FullSet),
            (true, "/content/{B}/240601003", 0, TransferCause::FullSet),
            (false, folder, 0, TransferCause::FullSet),
        ] {
            let recorder = TrafficRecorder::default();
            let path = format!("{other}/xdelta240531001.dax");
            let mut delta = record(&path, PayloadForm::Delta, TransferCause::Miss);
            recorder.explain(1_000, &mut delta, is_missing);
            assert_eq!(delta.from_revision.as_deref(), Some("240531001"));
            let path = format!("{folder}/full.zip");
            let mut full = record(&path, PayloadForm::Full, TransferCause::FullSet);
            recorder.explain(1_000 + after, &mut full, false);
            assert_eq!(full.labels.cause, expected, "{is_missing} {other} {after}");
            let is_explained = expected == TransferCause::NoDelta;
            assert_eq!(full.from_revision.is_some(), is_explained);
        }
    }

    #[test]
    fn missing_deltas_are_bounded() {
        let recorder = TrafficRecorder::default();
        for number in 0..MAX_MISSING * 2 {
            let path = format!("/content/{number}/xdelta240531001.dax");
            recorder.explain(0, &mut record(&path, PayloadForm::Delta, TransferCause::Miss), true);
        }
        assert_eq!(recorder.state().missing.len(), MAX_MISSING);
    }

    #[test]
    fn taken_batch_can_be_put_back() {
        let recorder = TrafficRecorder::default();
        let counts = TrafficCounts { transfers: 1, received: 9, ..TrafficCounts::default() };
        let record = record("/a", PayloadForm::Other, TransferCause::Miss);
        recorder.add(0, &record, TransferCause::Miss, counts);
        assert!(recorder.take().is_empty(), "recorded before the start");
        recorder.start();
        recorder.add(0, &record, TransferCause::Miss, counts);
        let batch = recorder.take();
        assert!(recorder.take().is_empty());
        recorder.add(0, &record, TransferCause::Miss, counts);
        recorder.put_back(batch);
        assert_eq!(recorder.take().wan_received(), 18);
    }
}
