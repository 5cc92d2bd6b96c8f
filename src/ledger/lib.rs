//! The ledger: every byte that crossed the line, by cause, client and object, kept for two years in a bounded file.
//!
//! Transfers record themselves in a [`TrafficRecorder`](gupd_net::traffic::TrafficRecorder). One task takes the records
//! once a minute and adds them to SQLite, so a crash loses a minute at most. Points of a minute become hours and then
//! days as they age; only the largest clients and objects keep their names. Sums stay exact meanwhile.
//!
//! It also keeps the events: what happened to the relay, and which alarms are raised.
//!
//! Start with [`Ledger`], the handle for queries, and [`LedgerTask`], the owner of the file.

mod compaction;
mod database;
mod event;
mod event_log;
mod incidents;
pub mod metrics;
mod query;
mod report;
mod task;

pub use self::database::LedgerError;
pub use self::event::{
    AlarmCondition, AlarmObservation, Event, EventChange, EventPage, EventQuery, Severity,
};
pub use self::incidents::{FullSetClients, IncidentReport, RefusedClients};
pub use self::report::{
    CauseRow, ClientRow, GroupRow, ObjectRow, RatePoint, SiteSums, TrafficPoint, TrafficQuery, TrafficReport,
    TrafficSums, TypeRow, WaitRow,
};
pub use self::task::{Ledger, LedgerTask, QueryError, SiteSample, SiteSampler};
