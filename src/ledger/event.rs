//! Events: what happened to a relay, in sentences, and the alarms that are raised now. An alarm is a condition that
//! lasts; its beginning and its end are both events. This file has the types, `event_log` stores them.

use gupd_config::clock::UnixMillis;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Urgency of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Clients get less than they should.
    Critical,
    /// Clients will get less if nothing is done.
    Warning,
    /// Worth knowing.
    Notice,
}

/// Kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventChange {
    /// An alarm was raised.
    Raised,
    /// An alarm is over.
    Cleared,
    /// Something happened that does not last.
    Noted,
}

/// A condition that is an alarm while it lasts. Two conditions of equal kind and subject are one alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmCondition {
    /// Its kind, such as `upstream-failing`.
    pub kind: String,
    /// The upstream, ring or certificate that it is about; empty for the relay.
    pub subject: String,
    /// How urgent it is.
    pub severity: Severity,
    /// What happened.
    pub message: String,
    /// What to do.
    pub action: String,
}

/// All conditions of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlarmObservation {
    /// The conditions that last.
    pub conditions: Vec<AlarmCondition>,
    /// Kinds of which it is not known whether they last, as in the first minute of a process. Their alarms stay.
    pub undecided: Vec<&'static str>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number; a later event has a larger one, whatever the clock says.
    pub id: i64,
    /// When it happened.
    pub at: UnixMillis,
    /// Whether something began, ended or happened.
    pub change: EventChange,
    /// How urgent it is.
    pub severity: Severity,
    /// Its kind.
    pub kind: String,
    /// The upstream, ring or certificate that it is about; empty for the relay.
    pub subject: String,
    /// What happened. That of a cleared alarm is the sentence with which it was raised.
    pub message: String,
    /// What to do; empty if there is nothing.
    pub action: String,
    /// When the alarm was raised; for a cleared alarm.
    pub raised: Option<UnixMillis>,
}

/// Selects events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only events before that of this number.
    pub before: Option<i64>,
    /// Maximum number of events, at most 1,000.
    pub limit: usize,
}

/// Events, and the alarms that are raised now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The events that raised the alarms of now.
    pub alarms: Vec<Event>,
    /// The events, the latest first.
    pub events: Vec<Event>,
}

impl AlarmCondition {
    pub(crate) fn is_same_alarm(&self, other: &Self) -> bool {
        self.kind == other.kind && self.subject == other.subject
    }
}

impl Severity {
    /// Returns the word in reports and in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }

    pub(crate) fn from_label(label: &str) -> Self {
        let all = [Self::Critical, Self::Warning, Self::Notice];
        all.into_iter().find(|severity| severity.as_str() == label).unwrap_or(Self::Notice)
    }
}

impl EventChange {
    /// Returns the word in reports and in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Cleared => "cleared",
            Self::Noted => "noted",
        }
    }

    pub(crate) fn from_label(label: &str) -> Self {
        let all = [Self::Raised, Self::Cleared, Self::Noted];
        all.into_iter().find(|change| change.as_str() == label).unwrap_or(Self::Noted)
    }
}
