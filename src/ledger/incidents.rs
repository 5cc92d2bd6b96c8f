//! Incidents of clients in the last day: full sets that they took, and requests that were refused because of their
//! address. A client counts once, however often it takes a full set.

use rusqlite::{Connection, params};

use crate::database::{OTHERS, RELAY};
use gupd_net::traffic::{Incident, TransferCause};

const HOUR: i64 = 3_600;

/// Seconds for which full sets and clients are reported.
const DAY: i64 = 24 * HOUR;

/// Seconds for which refused clients are reported.
const REFUSED_FOR: i64 = HOUR;

/// Clients that a report names.
const MAX_NAMED: usize = 3;

/// What clients did that administrators look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncidentReport {
    /// Bytes from upstreams in a day.
    pub received: u64,
    /// Those of full sets.
    pub full_received: u64,
    /// Full sets that clients took in a day.
    pub full_sets: FullSetClients,
    /// Clients that were refused in the last hour.
    pub refused: RefusedClients,
    /// Clients that caused traffic or took a full set in a day.
    pub seen: Vec<String>,
}

/// Clients that took full sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FullSetClients {
    /// Their number.
    pub clients: u64,
    /// Bytes of one full set of each content type for each client.
    pub bytes: u64,
    /// Those with the most bytes.
    pub named: Vec<String>,
    /// A revision from which the manager had no delta.
    pub no_delta_from: Option<String>,
}

/// Clients that were refused because of their address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedClients {
    /// Their number.
    pub clients: u64,
    /// Refused requests and connections.
    pub times: u64,
    /// Those with the most.
    pub named: Vec<String>,
}

/// Reports on the day before `now`, in seconds.
pub(crate) fn report(connection: &Connection, now: i64) -> rusqlite::Result<IncidentReport> {
    let floor = |time: i64| time - time.rem_euclid(HOUR);
    let since = floor(now - DAY);
    let [full, no_delta] = [TransferCause::FullSet, TransferCause::NoDelta].map(TransferCause::as_str);
    let mut received = connection.prepare_cached(
        "SELECT ifnull(sum(received), 0), ifnull(sum(CASE WHEN cause IN (?2, ?3) THEN received END), 0) FROM line
         WHERE step IN (60, 3600, 86400) AND at >= ?1 AND peer = 0",
    )?;
    let (received, full_received) = received.query_row(params![since, full, no_delta], |row| {
        Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)))
    })?;
    Ok(IncidentReport {
        received,
        full_received,
        full_sets: full_sets(connection, since)?,
        refused: refused(connection, floor(now - REFUSED_FOR))?,
        seen: seen(connection, since)?,
    })
}

fn full_sets(connection: &Connection, since: i64) -> rusqlite::Result<FullSetClients> {
    // `others` are many clients: each of their full sets counts.
    let mut statement = connection.prepare_cached(
        "SELECT client, sum(clients), sum(weight) FROM (
             SELECT client, CASE client WHEN ?3 THEN sum(times) ELSE 1 END AS clients,
                 CASE client WHEN ?3 THEN sum(bytes) ELSE sum(bytes) / max(sum(times), 1) END AS weight
             FROM incidents WHERE step IN (3600, 86400) AND at >= ?1 AND incident = ?2 GROUP BY client, content_type)
         GROUP BY 1 ORDER BY 3 DESC, 1",
    )?;
    let mut rows = statement.query(params![since, Incident::FullSet.as_str(), OTHERS])?;
    let mut report = FullSetClients::default();
    while let Some(row) = rows.next()? {
        let client: String = row.get(0)?;
        report.clients += if client == OTHERS { unsigned(row.get(1)?) } else { 1 };
        report.bytes = report.bytes.saturating_add(unsigned(row.get(2)?));
        if report.named.len() < MAX_NAMED && client != OTHERS {
            report.named.push(client);
        }
    }
    let mut from = connection.prepare_cached(
        "SELECT from_revision FROM clients WHERE step IN (3600, 86400) AND at >= ?1 AND cause = ?2
         AND from_revision <> '' GROUP BY 1 ORDER BY sum(received) DESC LIMIT 1",
    )?;
    let mut from = from.query(params![since, TransferCause::NoDelta.as_str()])?;
    report.no_delta_from = from.next()?.map(|row| row.get(0)).transpose()?;
    Ok(report)
}

fn refused(connection: &Connection, since: i64) -> rusqlite::Result<RefusedClients> {
    let mut statement = connection.prepare_cached(
        "SELECT client, sum(times) FROM incidents WHERE step = 3600 AND at >= ?1 AND incident = ?2
         GROUP BY 1 ORDER BY 2 DESC, 1",
    )?;
    let mut rows = statement.query(params![since, Incident::Refused.as_str()])?;
    let mut report = RefusedClients::default();
    while let Some(row) = rows.next()? {
        let client: String = row.get(0)?;
        report.clients += 1;
        report.times += unsigned(row.get(1)?);
        if report.named.len() < MAX_NAMED && client != OTHERS {
            report.named.push(client);
        }
    }
    Ok(report)
}

fn seen(connection: &Connection, since: i64) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT client FROM clients WHERE step = 3600 AND at >= ?1 AND client NOT IN (?2, ?3)
         UNION SELECT client FROM incidents WHERE step = 3600 AND at >= ?1 AND incident = ?4 AND client <> ?3",
    )?;
    statement
        .query_map(params![since, RELAY, OTHERS, Incident::FullSet.as_str()], |row| row.get(0))?
        .collect()
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
