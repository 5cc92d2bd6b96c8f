//! `GET /api/v1/events`: the alarms of now, and what happened, the latest first. `limit=` is the maximum number of events,
//! `before=` the number of an event: only earlier ones are returned. Events name clients, so they are for requests with
//! the admin token and for those of this machine.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::ReadAccess;
use super::openapi::Failure;
use super::status::{StatusFinding, observe, timestamp};
use super::{AdminApi, json_response, problem, query_pairs};
use gupd_ledger::{Event, EventChange, EventPage, EventQuery, QueryError, Severity};

/// Events without `limit=`.
const DEFAULT_LIMIT: usize = 100;

/// Alarms and events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventReport {
    /// Time of the report, RFC 3339.
    pub time: String,
    /// The alarms of now, the most severe first.
    pub alarms: Vec<StatusFinding>,
    /// The events, the latest first.
    pub events: Vec<EventRow>,
    /// Reason that there are no events; `None` if they could be read.
    pub error: Option<String>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventRow {
    /// Its number. A later event has a larger one, even if the clock was set back.
    pub id: i64,
    /// When it happened, RFC 3339.
    pub time: String,
    /// Whether an alarm was raised or cleared, or something happened that does not last.
    pub change: EventChange,
    /// How urgent it is.
    pub severity: Severity,
    /// Its kind, such as `upstream-failing`.
    pub kind: String,
    /// The upstream, ring or certificate that it is about; empty for the relay.
    pub subject: String,
    /// What happened. That of a cleared alarm is the sentence with which it was raised.
    pub message: String,
    /// What to do; empty if there is nothing.
    pub action: String,
    /// When the alarm was raised, RFC 3339; for a cleared alarm.
    pub raised: Option<String>,
}

impl From<Event> for EventRow {
    fn from(event: Event) -> Self {
        let Event { id, at, change, severity, kind, subject, message, action, raised } = event;
        let (time, raised) = (timestamp(at), raised.map(timestamp));
        Self { id, time, change, severity, kind, subject, message, action, raised }
    }
}

#[utoipa::path(
    get, path = "/api/v1/events", operation_id = "events",
    params(
        ("limit" = Option<u32>, Query, description = "Maximum number of events"),
        ("before" = Option<i64>, Query, description = "Only events before this one"),
    ),
    responses((status = 200, body = EventReport), Failure),
)]
pub(super) async fn list(_: ReadAccess, State(api): State<AdminApi>, uri: Uri) -> Response {
    let query = match parse_query(uri.query()) {
        Ok(query) => query,
        Err(message) => return problem::respond((StatusCode::BAD_REQUEST, message)),
    };
    let (report, page) = observe(&api, query).await;
    let (events, error) = match page {
        Ok(EventPage { events, .. }) => (events.into_iter().map(EventRow::from).collect(), None),
        Err(error @ (QueryError::Busy | QueryError::Stopping | QueryError::Ledger(_))) => {
            (Vec::new(), Some(error.to_string()))
        }
    };
    let alarms = report.findings.into_iter().filter(StatusFinding::is_alarm).collect();
    json_response(&EventReport { time: report.time, alarms, events, error })
}

/// Parses the query; an error is one line.
fn parse_query(query: Option<&str>) -> Result<EventQuery, String> {
    let mut parsed = EventQuery { before: None, limit: DEFAULT_LIMIT };
    for (name, value) in query_pairs(query) {
        let not_a_number = |_| format!("{name}: {value:?} is not a number");
        match name {
            "limit" => parsed.limit = value.parse().map_err(not_a_number)?,
            "before" => parsed.before = Some(value.parse().map_err(not_a_number)?),
            _ => return Err(format!("{name:?} is not a parameter: use limit or before")),
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_selects_events() {
        assert_eq!(parse_query(None), Ok(EventQuery { before: None, limit: DEFAULT_LIMIT }));
        assert_eq!(parse_query(Some("limit=5&before=9")), Ok(EventQuery { before: Some(9), limit: 5 }));
        for (query, expected) in
            [("limit=-1", "not a number"), ("before=", "not a number"), ("since=1h", "use limit or before")]
        {
            let error = parse_query(Some(query)).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }
}
