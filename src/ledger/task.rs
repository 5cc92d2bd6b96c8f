//! The task that owns the ledger's file. It writes what was recorded once a minute, before it answers a query, and at
//! its end. While the file cannot be written, records wait in memory, which bounds them.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::database::{Database, LedgerError};
use crate::event::{AlarmCondition, AlarmObservation, Event, EventChange, EventPage, EventQuery, Severity};
use crate::event_log::{EventEntry, PendingEvents};
use crate::incidents::IncidentReport;
use crate::metrics::LedgerMetrics;
use crate::query;
use crate::report::{RatePoint, TrafficQuery, TrafficReport};
use gupd_config::Config;
use gupd_config::clock::{Clock, UnixMillis};
use gupd_net::traffic::{TrafficBatch, TrafficRecorder};

/// Interval of writes, and so the history that a crash can cost.
const INTERVAL: Duration = Duration::from_secs(60);

/// Milliseconds without another attempt after the file could not be opened. SQLite repeats its reads for seconds on a
/// failing disk, and each request of the status page waits for that.
const REOPEN_PAUSE: i64 = 5_000;

/// Maximum number of queries that wait.
const MAX_WAITING: usize = 16;

/// Name of the file in the folder of the store.
const FILE: &str = "ledger.db";

/// Counts of responses to clients since the start of the process, as the metrics have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteSample {
    /// Bytes sent to clients.
    pub sent: u64,
    /// Those of them that did not cross the WAN again.
    pub saved: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests answered from the store.
    pub hits: u64,
    /// Bytes sent by content type.
    pub sent_by_type: Vec<(Arc<str>, u64)>,
}

/// Reads the counts of responses to clients.
pub type SiteSampler = dyn Fn() -> SiteSample + Send + Sync;

/// Reason that a query has no result.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Too many queries wait.
    #[error("too many queries of the ledger wait: try again")]
    Busy,
    /// The relay is stopping.
    #[error("the relay is stopping")]
    Stopping,
    /// The file cannot be written or read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Handle for queries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger(mpsc::Sender<LedgerRequest>);

/// Channel for the result of a request.
type Reply<T> = oneshot::Sender<Result<T, QueryError>>;

#[derive(Debug)]
enum LedgerRequest {
    Traffic { query: TrafficQuery, reply: Reply<TrafficReport> },
    Incidents { reply: Reply<IncidentReport> },
    Rates { since: UnixMillis, interval: i64, reply: Reply<Vec<RatePoint>> },
    Deferrals { since: UnixMillis, reply: Reply<HashMap<String, u64>> },
    Events { entry: Option<EventEntry>, query: EventQuery, reply: Reply<EventPage> },
}

/// Owner of the file.
pub struct LedgerTask {
    queries: mpsc::Receiver<LedgerRequest>,
    metrics: Arc<LedgerMetrics>,
    writer: Option<LedgerWriter>,
}

/// What a write needs, on a thread for blocking calls.
struct LedgerWriter {
    path: PathBuf,
    max_size: u64,
    traffic: Arc<TrafficRecorder>,
    sampler: Box<SiteSampler>,
    clock: Clock,
    database: Option<Database>,
    /// Time and error of the last opening, if it failed.
    unopened: Option<(UnixMillis, String)>,
    /// Device and number of the folder. A disk that is away must not get a second file in its mount point.
    folder: Option<(u64, u64)>,
    /// The counts that have been written.
    written: SiteSample,
    process_received: u64,
    is_failing: bool,
    events: PendingEvents,
}

impl Ledger {
    /// Creates the ledger in the folder of the store. The task must be run.
    pub fn new(
        config: &Config,
        traffic: Arc<TrafficRecorder>,
        sampler: Box<SiteSampler>,
        metrics: Arc<LedgerMetrics>,
        clock: Clock,
    ) -> (Self, LedgerTask) {
        traffic.start();
        let (sender, queries) = mpsc::channel(MAX_WAITING);
        let writer = LedgerWriter {
            path: config.store.dir.join(FILE),
            max_size: config.ledger.max_size,
            traffic,
            sampler,
            clock,
            database: None,
            unopened: None,
            folder: None,
            written: SiteSample::default(),
            process_received: 0,
            is_failing: false,
            events: PendingEvents::default(),
        };
        (Self(sender), LedgerTask { queries, metrics, writer: Some(writer) })
    }

    /// Returns the traffic up to now.
    ///
    /// # Errors
    /// When the file cannot be read or written, or the relay is stopping.
    pub async fn query(&self, query: TrafficQuery) -> Result<TrafficReport, QueryError> {
        self.request(|reply| LedgerRequest::Traffic { query, reply }).await
    }

    /// Returns the bytes over both lines since a time, by intervals of this many seconds.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn rates(&self, since: UnixMillis, interval: i64) -> Result<Vec<RatePoint>, QueryError> {
        self.request(|reply| LedgerRequest::Rates { since, interval, reply }).await
    }

    /// Returns how often each client was deferred since a time, by its address.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn deferrals(&self, since: UnixMillis) -> Result<HashMap<String, u64>, QueryError> {
        self.request(|reply| LedgerRequest::Deferrals { since, reply }).await
    }

    /// Returns what clients did in the last day that administrators look for.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn incidents(&self) -> Result<IncidentReport, QueryError> {
        self.request(|reply| LedgerRequest::Incidents { reply }).await
    }

    /// Returns events, and the alarms that are raised now.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn events(&self, query: EventQuery) -> Result<EventPage, QueryError> {
        self.request(|reply| LedgerRequest::Events { entry: None, query, reply }).await
    }

    /// Records the conditions of now: alarms are raised and cleared. Returns the events after that. While the file
    /// cannot be written, the observation waits.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn observe(
        &self,
        observation: AlarmObservation,
        query: EventQuery,
    ) -> Result<EventPage, QueryError> {
        let entry = Some(EventEntry::Observation(observation));
        self.request(|reply| LedgerRequest::Events { entry, query, reply }).await
    }

    /// Records an event that does not last.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn note(&self, event: AlarmCondition) -> Result<(), QueryError> {
        let (entry, query) = (Some(EventEntry::Note(event)), EventQuery::default());
        self.request(|reply| LedgerRequest::Events { entry, query, reply }).await.map(drop)
    }

    async fn request<T>(&self, request: impl FnOnce(Reply<T>) -> LedgerRequest) -> Result<T, QueryError> {
        let (reply, result) = oneshot::channel();
        self.0.try_send(request(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => QueryError::Busy,
            mpsc::error::TrySendError::Closed(_) => QueryError::Stopping,
        })?;
        result.await.map_err(|_| QueryError::Stopping)?
    }
}

impl fmt::Debug for LedgerTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerTask").finish_non_exhaustive()
    }
}

impl LedgerTask {
    /// Writes and answers until `stop` is cancelled, then writes what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.write(None).await,
                request = self.queries.recv() => match request {
                    Some(request) => self.write(Some(request)).await,
                    // Every handle is gone; writes go on.
                    None => {
                        stop.cancelled().await;
                        break;
                    }
                },
            }
        }
        self.write(None).await;
    }

    async fn write(&mut self, request: Option<LedgerRequest>) {
        // Lost only if an earlier write panicked.
        let Some(mut writer) = self.writer.take() else { return };
        let metrics = self.metrics.clone();
        let written = spawn_blocking(move || {
            let is_written = writer.handle(request);
            let used = writer.database.as_ref().and_then(|database| database.used_bytes().ok());
            metrics.bytes.set(used.map_or(0, |used| i64::try_from(used).unwrap_or(i64::MAX)));
            metrics.failures.inc_by((!is_written).into());
            writer
        });
        self.writer = written.await.ok();
    }
}

impl LedgerWriter {
    /// Answers a request after what was recorded is written. Returns false if that fails. Events are answered without
    /// the records of traffic: alarms are observed far more often.
    fn handle(&mut self, request: Option<LedgerRequest>) -> bool {
        let now = self.clock.now();
        // The requester may be gone.
        match request {
            Some(LedgerRequest::Events { entry, query, reply }) => {
                entry.into_iter().for_each(|entry| self.events.push(now, entry));
                let written = self.write_events();
                let is_written = written.is_ok();
                // Events that were written before can be read even if no more can be written.
                let page = match &self.database {
                    Some(database) => database.event_page(query),
                    None => written.map(|()| EventPage::default()),
                };
                let _gone = reply.send(page.map_err(QueryError::from));
                is_written
            }
            request => {
                let written = self.write();
                let is_written = written.is_ok();
                match request {
                    Some(LedgerRequest::Traffic { query, reply }) => {
                        let answer = written.and_then(|()| self.answer(&query));
                        let _gone = reply.send(answer.map_err(QueryError::from));
                    }
                    Some(LedgerRequest::Rates { since, interval, reply }) => {
                        let answer = written.and_then(|()| self.open()?.rates(since, interval));
                        let _gone = reply.send(answer.map_err(QueryError::from));
                    }
                    Some(LedgerRequest::Deferrals { since, reply }) => {
                        let answer = written.and_then(|()| self.open()?.deferrals(since));
                        let _gone = reply.send(answer.map_err(QueryError::from));
                    }
                    Some(LedgerRequest::Incidents { reply }) => {
                        let answer = written.and_then(|()| self.open()?.incidents(now));
                        let _gone = reply.send(answer.map_err(QueryError::from));
                    }
                    Some(LedgerRequest::Events { .. }) | None => {}
                }
                is_written
            }
        }
    }

    fn write(&mut self) -> Result<(), LedgerError> {
        let (batch, sample) = (self.traffic.take(), (self.sampler)());
        let result = self.try_write(&batch, &sample);
        match &result {
            Ok(()) => {
                self.process_received += batch.wan_received();
                self.written = sample;
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("ledger is written again");
                }
            }
            Err(error) => {
                self.traffic.put_back(batch);
                self.fail(error);
            }
        }
        result.and_then(|()| self.write_events())
    }

    fn write_events(&mut self) -> Result<(), LedgerError> {
        let (mut pending, now) = (std::mem::take(&mut self.events), self.clock.now());
        let written = self.open().and_then(|database| database.write_events(&mut pending, now));
        self.events = pending;
        match written {
            Ok(events) => {
                events.iter().for_each(log_event);
                Ok(())
            }
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    fn fail(&mut self, error: &LedgerError) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(%error, "ledger cannot be written; its records wait in memory");
        }
        // It is put aside when it is opened again. After other failures the open file is kept: on a disk that fails,
        // opening it is slower than any write.
        if error.is_unreadable() {
            self.database = None;
        }
    }

    /// Returns the open file.
    fn open(&mut self) -> Result<&mut Database, LedgerError> {
        drop(self.database.take_if(|database| !database.is_in_place()));
        match &mut self.database {
            Some(database) => Ok(database),
            closed => {
                check_folder(&self.path, &mut self.folder)?;
                let now = self.clock.now();
                if let Some((failed_at, error)) = &self.unopened
                    && (0..REOPEN_PAUSE).contains(&(now - failed_at))
                {
                    return Err(LedgerError::unopened(&self.path, error));
                }
                let opened = Database::open(&self.path, self.max_size);
                // SQLite may take seconds to fail: the pause begins now.
                self.unopened = opened.as_ref().err().map(|error| (self.clock.now(), error.reason()));
                Ok(closed.insert(opened?))
            }
        }
    }

    fn try_write(&mut self, batch: &TrafficBatch, sample: &SiteSample) -> Result<(), LedgerError> {
        let (site, now) = (sample.since(&self.written), self.clock.now());
        self.open()?.write(batch, &site, now)
    }

    fn answer(&self, query: &TrafficQuery) -> Result<TrafficReport, LedgerError> {
        let Some(database) = &self.database else { return Ok(TrafficReport::default()) };
        let report = query::report(&database.connection, query, self.clock.now());
        let report = report.map_err(|error| database.error(error))?;
        Ok(TrafficReport { process_received: self.process_received, ..report })
    }
}

fn log_event(event: &Event) {
    let Event { kind, subject, message: alarm, action, .. } = event;
    match (event.change, event.severity) {
        (EventChange::Raised, Severity::Critical | Severity::Warning) => {
            tracing::warn!(kind, subject, alarm, action, "alarm raised");
        }
        (EventChange::Raised, Severity::Notice) => {
            tracing::info!(kind, subject, alarm, action, "alarm raised");
        }
        (EventChange::Cleared, _) => tracing::info!(kind, subject, alarm, "alarm cleared"),
        // Logged where it happens.
        (EventChange::Noted, _) => {}
    }
}

/// Checks that the folder of the file is the one that had it.
fn check_folder(path: &Path, known: &mut Option<(u64, u64)>) -> Result<(), LedgerError> {
    let folder = path.parent().unwrap_or(path);
    let metadata =
        std::fs::metadata(folder).map_err(|error| LedgerError::unopened(path, &error.to_string()))?;
    let identity = (metadata.dev(), metadata.ino());
    if *known.get_or_insert(identity) == identity {
        return Ok(());
    }
    Err(LedgerError::unopened(path, "another folder is in the place of store.dir"))
}

impl SiteSample {
    /// Returns the counts since an earlier sample.
    fn since(&self, earlier: &Self) -> Self {
        let by_type = self.sent_by_type.iter().map(|(content_type, sent)| {
            let before = earlier.sent_by_type.iter().find(|(name, _)| name == content_type);
            (content_type.clone(), sent.saturating_sub(before.map_or(0, |(_, sent)| *sent)))
        });
        Self {
            sent: self.sent.saturating_sub(earlier.sent),
            saved: self.saved.saturating_sub(earlier.saved),
            requests: self.requests.saturating_sub(earlier.requests),
            hits: self.hits.saturating_sub(earlier.hits),
            sent_by_type: by_type.collect(),
        }
    }
}

#[cfg(test)]
mod tests;
