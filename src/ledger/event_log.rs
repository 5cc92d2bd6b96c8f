//! The events in the ledger's file. Which alarms are raised is read from the file alone, so a restart, or two processes
//! during an upgrade, raise none twice. Events are ordered by their numbers: the clock may be set back. While the file
//! cannot be written, observations wait in memory, at most [`MAX_PENDING`].

use std::collections::VecDeque;

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};

use crate::event::{AlarmCondition, AlarmObservation, Event, EventChange, EventPage, EventQuery, Severity};
use gupd_config::clock::UnixMillis;

/// Events that are kept, besides those of alarms that are raised now: at 20 a day those of some months.
const MAX_EVENTS: i64 = 2_000;

/// Maximum number of alarms that are raised at one time.
const MAX_ALARMS: usize = 256;

/// Maximum characters of a text.
const MAX_TEXT: usize = 300;

/// Maximum number of events in a page.
const MAX_PAGE: usize = 1_000;

/// Maximum number of observations and notes that wait for the file.
const MAX_PENDING: usize = 64;

// Added to files of earlier versions, which do not read it: the version of the schema stays.
const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS events ( -- active: an alarm that is raised now
        id INTEGER PRIMARY KEY, at INTEGER NOT NULL, change TEXT NOT NULL, severity TEXT NOT NULL, kind TEXT NOT NULL,
        subject TEXT NOT NULL, message TEXT NOT NULL, action TEXT NOT NULL, raised INTEGER, active INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS active_events ON events (kind, subject) WHERE active = 1;
";

const COLUMNS: &str = "id, at, change, severity, kind, subject, message, action, raised";

/// What waits to be written, and the observation that was written last.
#[derive(Debug, Default)]
pub(crate) struct PendingEvents {
    waiting: VecDeque<(UnixMillis, EventEntry)>,
    written: Option<AlarmObservation>,
}

/// An observation or a note.
#[derive(Clone, Debug)]
pub(crate) enum EventEntry {
    Observation(AlarmObservation),
    Note(AlarmCondition),
}

impl PendingEvents {
    /// Adds an entry. An observation that equals the last one changes nothing.
    pub(crate) fn push(&mut self, at: UnixMillis, entry: EventEntry) {
        if let EventEntry::Observation(observation) = &entry {
            let latest = self.waiting.iter().rev().find_map(|(_, entry)| match entry {
                EventEntry::Observation(observation) => Some(observation),
                EventEntry::Note(_) => None,
            });
            if latest.or(self.written.as_ref()) == Some(observation) {
                return;
            }
        }
        if self.waiting.len() >= MAX_PENDING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((at, entry));
    }

    /// Writes what waits. Returns the new events.
    pub(crate) fn write(&mut self, connection: &mut Connection) -> rusqlite::Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some((at, entry)) = self.waiting.front() {
            events.extend(write(connection, *at, entry)?);
            if let Some((_, EventEntry::Observation(observation))) = self.waiting.pop_front() {
                self.written = Some(observation);
            }
        }
        Ok(events)
    }
}

/// Creates the table where it is missing.
pub(crate) fn create(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(TABLE)
}

/// Returns the newest events and the alarms of now.
pub(crate) fn page(connection: &Connection, query: EventQuery) -> rusqlite::Result<EventPage> {
    let select = |condition: &str| format!("SELECT {COLUMNS} FROM events WHERE {condition}");
    let alarms = format!("{} LIMIT {MAX_ALARMS}", select("active = 1 ORDER BY id DESC"));
    let alarms =
        connection.prepare_cached(&alarms)?.query_map([], event)?.collect::<rusqlite::Result<_>>()?;
    let events = format!("{} LIMIT ?2", select("id < ?1 ORDER BY id DESC"));
    let limit = i64::try_from(query.limit.min(MAX_PAGE)).unwrap_or(0);
    let events = connection
        .prepare_cached(&events)?
        .query_map(params![query.before.unwrap_or(i64::MAX), limit], event)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(EventPage { alarms, events })
}

fn write(connection: &mut Connection, at: UnixMillis, entry: &EventEntry) -> rusqlite::Result<Vec<Event>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let events = match entry {
        EventEntry::Note(note) => vec![insert(&transaction, at, EventChange::Noted, note, None)?],
        EventEntry::Observation(observation) => observe(&transaction, at, observation)?,
    };
    if !events.is_empty() {
        let prune = "DELETE FROM events WHERE active = 0 AND id <= (SELECT max(id) FROM events) - ?1";
        transaction.prepare_cached(prune)?.execute([MAX_EVENTS])?;
    }
    transaction.commit()?;
    Ok(events)
}

/// Compares the conditions with the alarms that are raised, and records the differences.
fn observe(
    transaction: &Transaction<'_>,
    at: UnixMillis,
    observation: &AlarmObservation,
) -> rusqlite::Result<Vec<Event>> {
    let active = format!("SELECT {COLUMNS} FROM events WHERE active = 1 ORDER BY id");
    let active: Vec<Event> =
        transaction.prepare_cached(&active)?.query_map([], event)?.collect::<rusqlite::Result<_>>()?;
    let mut deactivate = transaction.prepare_cached("UPDATE events SET active = 0 WHERE id = ?1")?;
    let mut events = Vec::new();
    let conditions = &observation.conditions[..observation.conditions.len().min(MAX_ALARMS)];
    let is_of = |event: &Event, condition: &AlarmCondition| {
        event.kind == condition.kind && event.subject == shorten(&condition.subject)
    };
    for event in &active {
        let is_undecided = observation.undecided.contains(&&*event.kind);
        if is_undecided || conditions.iter().any(|condition| is_of(event, condition)) {
            continue;
        }
        deactivate.execute([event.id])?;
        let Event { kind, subject, severity, message, .. } = event.clone();
        let over = AlarmCondition { kind, subject, severity, message, action: String::new() };
        events.push(insert(transaction, at, EventChange::Cleared, &over, Some(event.at))?);
    }
    for (number, condition) in conditions.iter().enumerate() {
        let is_repeated = conditions[..number].iter().any(|other| other.is_same_alarm(condition));
        match active.iter().find(|event| is_of(event, condition)) {
            _ if is_repeated => {}
            Some(event) if event.severity == condition.severity => {}
            known => {
                // An alarm that becomes more or less urgent is raised again.
                known.map(|event| deactivate.execute([event.id])).transpose()?;
                events.push(insert(transaction, at, EventChange::Raised, condition, None)?);
            }
        }
    }
    Ok(events)
}

fn insert(
    transaction: &Transaction<'_>,
    at: UnixMillis,
    change: EventChange,
    condition: &AlarmCondition,
    raised: Option<UnixMillis>,
) -> rusqlite::Result<Event> {
    let AlarmCondition { kind, subject, severity, message, action } = condition;
    let [subject, message, action] = [subject, message, action].map(|text| shorten(text).to_owned());
    let mut add =
        transaction.prepare_cached("INSERT INTO events VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    let is_active = change == EventChange::Raised;
    let labels = (change.as_str(), severity.as_str());
    add.execute(params![at, labels.0, labels.1, kind, subject, message, action, raised, is_active])?;
    let (id, kind, severity) = (transaction.last_insert_rowid(), kind.clone(), *severity);
    Ok(Event { id, at, change, severity, kind, subject, message, action, raised })
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: row.get(0)?,
        at: row.get(1)?,
        change: EventChange::from_label(&row.get::<_, String>(2)?),
        severity: Severity::from_label(&row.get::<_, String>(3)?),
        kind: row.get(4)?,
        subject: row.get(5)?,
        message: row.get(6)?,
        action: row.get(7)?,
        raised: row.get(8)?,
    })
}

fn shorten(text: &str) -> &str {
    text.char_indices().nth(MAX_TEXT).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use EventChange::{Cleared, Noted, Raised};

    fn open() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        let transaction = connection.transaction().unwrap();
        create(&transaction).unwrap();
        transaction.commit().unwrap();
        connection
    }

    fn condition(kind: &str, subject: &str, severity: Severity) -> AlarmCondition {
        let (kind, subject, action) = (kind.to_owned(), subject.to_owned(), "do something".to_owned());
        AlarmCondition { message: format!("{subject} fails"), kind, subject, severity, action }
    }

    fn observation(conditions: &[(&str, &str, Severity)]) -> AlarmObservation {
        let conditions =
            conditions.iter().map(|(kind, subject, severity)| condition(kind, subject, *severity)).collect();
        AlarmObservation { conditions, undecided: Vec::new() }
    }

    fn record(
        connection: &mut Connection,
        at: UnixMillis,
        observation: AlarmObservation,
    ) -> Vec<EventChange> {
        let mut pending = PendingEvents::default();
        pending.push(at, EventEntry::Observation(observation));
        pending.write(connection).unwrap().into_iter().map(|event| event.change).collect()
    }

    fn all(connection: &Connection) -> EventPage {
        page(connection, EventQuery { before: None, limit: MAX_PAGE }).unwrap()
    }

    #[test]
    fn alarm_is_raised_once_and_cleared_once() {
        let mut connection = open();
        let down = observation(&[("upstream", "a", Severity::Warning), ("upstream", "b", Severity::Warning)]);
        assert_eq!(record(&mut connection, 1_000, down.clone()), [Raised, Raised]);
        // As after a restart: nothing but the file is known.
        assert_eq!(record(&mut connection, 2_000, down), []);
        let one = observation(&[("upstream", "a", Severity::Warning)]);
        assert_eq!(record(&mut connection, 61_000, one.clone()), [Cleared]);
        let EventPage { alarms, events } = all(&connection);
        assert_eq!(alarms.iter().map(|alarm| &*alarm.subject).collect::<Vec<_>>(), ["a"]);
        assert_eq!((events[0].change, events[0].at, events[0].raised), (Cleared, 61_000, Some(1_000)));
        assert_eq!((&*events[0].message, &*events[0].action), ("b fails", ""));
        assert_eq!(record(&mut connection, 62_000, one), []);
        assert_eq!(all(&connection).events.len(), 3);
    }

    #[test]
    fn conditions_of_one_kind_and_subject_are_one_alarm() {
        let mut connection = open();
        let twice = [("ring", "rest", Severity::Notice), ("ring", "rest", Severity::Warning)];
        assert_eq!(record(&mut connection, 1, observation(&twice)), [Raised]);
        assert_eq!(record(&mut connection, 2, observation(&twice)), []);
        assert_eq!(record(&mut connection, 3, observation(&[])), [Cleared]);
    }

    #[test]
    fn changed_severity_raises_an_alarm_again() {
        let mut connection = open();
        let with = |severity| observation(&[("certificate", "sepm", severity)]);
        assert_eq!(record(&mut connection, 1, with(Severity::Warning)), [Raised]);
        assert_eq!(record(&mut connection, 2, with(Severity::Critical)), [Raised]);
        assert_eq!(all(&connection).alarms.len(), 1);
        assert_eq!(record(&mut connection, 3, observation(&[])), [Cleared]);
    }

    #[test]
    fn undecided_alarm_stays_until_it_is_decided() {
        let mut connection = open();
        record(&mut connection, 1, observation(&[("line", "", Severity::Warning)]));
        let undecided = AlarmObservation { conditions: Vec::new(), undecided: vec!["line"] };
        assert_eq!(record(&mut connection, 2, undecided.clone()), []);
        assert_eq!(record(&mut connection, 3, observation(&[])), [Cleared]);
        assert_eq!(record(&mut connection, 4, undecided), [], "an undecided condition raises nothing");
    }

    #[test]
    fn clock_set_back_keeps_the_order_of_events() {
        let mut connection = open();
        record(&mut connection, 9_000_000, observation(&[("store", "", Severity::Critical)]));
        assert_eq!(record(&mut connection, 5, observation(&[])), [Cleared]);
        record(&mut connection, -7, observation(&[("store", "", Severity::Critical)]));
        let changes: Vec<_> =
            all(&connection).events.into_iter().map(|event| (event.change, event.at)).collect();
        assert_eq!(changes, [(Raised, -7), (Cleared, 5), (Raised, 9_000_000)]);
    }

    #[test]
    fn events_and_texts_are_bounded_and_raised_alarms_stay() {
        let mut connection = open();
        record(&mut connection, 1, observation(&[("oldest", "", Severity::Notice)]));
        let mut pending = PendingEvents::default();
        for number in 0..MAX_EVENTS + 100 {
            let note = AlarmCondition {
                message: "long é".repeat(1_000),
                ..condition("note", &number.to_string(), Severity::Notice)
            };
            pending.push(number, EventEntry::Note(note));
            pending.write(&mut connection).unwrap();
        }
        let count: i64 = connection.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
        assert_eq!(count, MAX_EVENTS + 1);
        let EventPage { alarms, events } = all(&connection);
        assert_eq!((events.len(), events[0].change, &*alarms[0].kind), (MAX_PAGE, Noted, "oldest"));
        assert_eq!(events[0].message.chars().count(), MAX_TEXT);
        let older = page(&connection, EventQuery { before: Some(events[9].id), limit: 2 }).unwrap().events;
        assert_eq!(older[..], events[10..12]);
        let subjects: Vec<String> = (0..MAX_ALARMS * 2).map(|number| number.to_string()).collect();
        let many: Vec<_> = subjects.iter().map(|subject| ("flood", &**subject, Severity::Notice)).collect();
        record(&mut connection, 2, observation(&many));
        assert!(all(&connection).alarms.len() <= MAX_ALARMS);
    }

    #[test]
    fn observations_wait_while_the_file_cannot_be_written() {
        let mut connection = open();
        let mut pending = PendingEvents::default();
        connection.pragma_update(None, "query_only", true).unwrap();
        for at in 0..1_000 {
            let kind = if at % 2 == 0 { "store" } else { "upstream" };
            pending.push(at, EventEntry::Observation(observation(&[(kind, "", Severity::Warning)])));
            assert!(pending.write(&mut connection).is_err());
        }
        assert_eq!(pending.waiting.len(), MAX_PENDING);
        connection.pragma_update(None, "query_only", false).unwrap();
        assert!(!pending.write(&mut connection).unwrap().is_empty());
        assert_eq!(all(&connection).alarms[0].kind, "upstream", "the last observation holds");
        assert!(pending.write(&mut connection).unwrap().is_empty());
    }
}
