//! Reports from the ledger's file. A report on one client or object reads the rows of their names; any other reads the
//! line, whose sums are exact.

use std::collections::HashMap;

use rusqlite::{Connection, Row, params};

use crate::report::{
    CauseRow, ClientRow, GroupRow, MAX_ROWS, ObjectRow, RatePoint, SiteSums, TrafficPoint, TrafficQuery,
    TrafficReport, TrafficSums, TypeRow, WaitRow, timestamp,
};
use gupd_config::clock::UnixMillis;
use gupd_net::traffic::{TransferCause, WaitReason};

const SUMS: &str = "sum(transfers), sum(received), sum(sent), sum(followers)";

/// Longest time with points of an hour; points of a longer time are days.
const HOURS_UP_TO: i64 = 8 * 86_400;

/// Answers a query. The report lacks what this process knows itself.
pub(crate) fn report(
    connection: &Connection,
    query: &TrafficQuery,
    now: UnixMillis,
) -> rusqlite::Result<TrafficReport> {
    let since = query.since.div_euclid(1_000);
    let client = query.client.as_deref();
    let (group, object) = (query.group.as_deref(), query.object.as_deref());
    let interval_seconds = if now.div_euclid(1_000) - since > HOURS_UP_TO { 86_400 } else { 3_600 };
    let sums = TrafficReport {
        since: timestamp(query.since),
        until: timestamp(now),
        wan: line_sums(connection, since, false)?,
        peers: line_sums(connection, since, true)?,
        clients_total: site_sums(connection, since)?,
        interval_seconds,
        ..TrafficReport::default()
    };
    let top = query.top.min(MAX_ROWS);
    if top == 0 {
        return Ok(sums);
    }
    let causes = match (client, group, object) {
        (Some(client), ..) => client_causes(connection, since, client, top)?,
        (None, Some(group), _) => group_causes(connection, since, group, top)?,
        (None, None, Some(object)) => object_causes(connection, since, object, top)?,
        (None, None, None) => line_causes(connection, since, top)?,
    };
    let sums = TrafficReport { causes, sent_by_type: sent_by_type(connection, since, top)?, ..sums };
    if query.without_names {
        return Ok(sums);
    }
    Ok(TrafficReport {
        // Clients, groups and objects are counted each for itself.
        clients: match group.or(object) {
            None => clients(connection, since, client, top)?,
            Some(_) => Vec::new(),
        },
        groups: match client.or(object) {
            None => groups(connection, since, group, top)?,
            Some(_) => Vec::new(),
        },
        objects: match client.or(group) {
            None => objects(connection, since, object, top)?,
            Some(_) => Vec::new(),
        },
        waits: if group.is_some() { Vec::new() } else { waits(connection, since, client, top)? },
        points: points(connection, since, interval_seconds)?,
        ..sums
    })
}

fn line_sums(connection: &Connection, since: i64, is_peer: bool) -> rusqlite::Result<TrafficSums> {
    // `step` is part of the condition so that the primary key finds the rows.
    let sql = format!("SELECT {SUMS} FROM line WHERE step IN (60, 3600, 86400) AND at >= ?1 AND peer = ?2");
    connection.prepare_cached(&sql)?.query_row(params![floor(since), is_peer], |row| sums(row, 0))
}

fn site_sums(connection: &Connection, since: i64) -> rusqlite::Result<SiteSums> {
    let mut statement = connection.prepare_cached(
        "SELECT sum(sent), sum(saved), sum(requests), sum(hits) FROM site
         WHERE step IN (60, 3600, 86400) AND at >= ?1 AND content_type = ''",
    )?;
    statement.query_row([floor(since)], |row| {
        Ok(SiteSums {
            sent: count(row, 0)?,
            saved: count(row, 1)?,
            requests: count(row, 2)?,
            hits: count(row, 3)?,
        })
    })
}

fn sent_by_type(connection: &Connection, since: i64, top: usize) -> rusqlite::Result<Vec<TypeRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT content_type, sum(sent) FROM site
         WHERE step IN (60, 3600, 86400) AND at >= ?1 AND content_type <> '' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?2",
    )?;
    let row = |row: &Row<'_>| Ok(TypeRow { content_type: row.get(0)?, sent: count(row, 1)? });
    statement.query_map(params![floor(since), top as i64], row)?.collect()
}

/// Returns how often each client was deferred since a time in seconds, by its address.
pub(crate) fn deferrals(connection: &Connection, since: i64) -> rusqlite::Result<HashMap<String, u64>> {
    let mut statement = connection.prepare_cached(
        "SELECT client, sum(waits) FROM waits WHERE step IN (3600, 86400) AND at >= ?1 AND reason = ?2 GROUP BY 1",
    )?;
    let row = |row: &Row<'_>| Ok((row.get(0)?, count(row, 1)?));
    statement.query_map(params![floor_of_hour(since), WaitReason::Deferred.as_str()], row)?.collect()
}

fn line_causes(connection: &Connection, since: i64, top: usize) -> rusqlite::Result<Vec<CauseRow>> {
    let sql = format!(
        "SELECT cause, upstream, peer, content_type, form, '', {SUMS} FROM line
         WHERE step IN (60, 3600, 86400) AND at >= ?1 GROUP BY 1, 2, 3, 4, 5 ORDER BY 8 DESC, 7 DESC LIMIT ?2"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_map(params![floor(since), top as i64], cause_row)?.collect()
}

fn client_causes(
    connection: &Connection,
    since: i64,
    client: &str,
    top: usize,
) -> rusqlite::Result<Vec<CauseRow>> {
    let sql = format!(
        "SELECT cause, '', 0, content_type, '', from_revision, {SUMS} FROM clients
         WHERE step IN (3600, 86400) AND at >= ?1 AND client = ?2
         GROUP BY 1, 4, 6 ORDER BY 8 DESC, 7 DESC LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_map(params![floor_of_hour(since), client, top as i64], cause_row)?.collect()
}

fn group_causes(
    connection: &Connection,
    since: i64,
    group: &str,
    top: usize,
) -> rusqlite::Result<Vec<CauseRow>> {
    let sql = format!(
        "SELECT cause, '', 0, content_type, '', '', {SUMS} FROM client_groups
         WHERE step IN (3600, 86400) AND at >= ?1 AND client_group = ?2
         GROUP BY 1, 4 ORDER BY 8 DESC, 7 DESC LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_map(params![floor_of_hour(since), group, top as i64], cause_row)?.collect()
}

fn object_causes(
    connection: &Connection,
    since: i64,
    object: &str,
    top: usize,
) -> rusqlite::Result<Vec<CauseRow>> {
    let sql = format!(
        "SELECT cause, '', 0, '', '', from_revision, {SUMS} FROM objects
         WHERE step IN (3600, 86400) AND at >= ?1 AND instr(object, ?2) > 0
         GROUP BY 1, 6 ORDER BY 8 DESC, 7 DESC LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_map(params![floor_of_hour(since), object, top as i64], cause_row)?.collect()
}

fn clients(
    connection: &Connection,
    since: i64,
    client: Option<&str>,
    top: usize,
) -> rusqlite::Result<Vec<ClientRow>> {
    let sql = format!(
        "SELECT client, {SUMS} FROM clients
         WHERE step IN (3600, 86400) AND at >= ?1 AND (?2 IS NULL OR client = ?2)
         GROUP BY 1 ORDER BY 3 DESC, 1 LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let row = |row: &Row<'_>| Ok(ClientRow { client: row.get(0)?, sums: sums(row, 1)? });
    statement.query_map(params![floor_of_hour(since), client, top as i64], row)?.collect()
}

fn groups(
    connection: &Connection,
    since: i64,
    group: Option<&str>,
    top: usize,
) -> rusqlite::Result<Vec<GroupRow>> {
    // As for objects.
    let mut statement = connection.prepare_cached(
        "SELECT client_group, cause, sum(t), sum(r), sum(s), sum(f), max(r) FROM (
             SELECT client_group, cause, sum(transfers) AS t, sum(received) AS r, sum(sent) AS s, sum(followers) AS f
             FROM client_groups WHERE step IN (3600, 86400) AND at >= ?1 AND (?2 IS NULL OR client_group = ?2)
             GROUP BY 1, 2)
         GROUP BY 1 ORDER BY 4 DESC, 1 LIMIT ?3",
    )?;
    let row = |row: &Row<'_>| Ok(GroupRow { group: row.get(0)?, cause: row.get(1)?, sums: sums(row, 2)? });
    statement.query_map(params![floor_of_hour(since), group, top as i64], row)?.collect()
}

fn objects(
    connection: &Connection,
    since: i64,
    object: Option<&str>,
    top: usize,
) -> rusqlite::Result<Vec<ObjectRow>> {
    // With `max`, SQLite takes the other columns from the row that has it.
    let mut statement = connection.prepare_cached(
        "SELECT object, cause, sum(t), sum(r), sum(s), sum(f), max(r) FROM (
             SELECT object, cause, sum(transfers) AS t, sum(received) AS r, sum(sent) AS s, sum(followers) AS f
             FROM objects WHERE step IN (3600, 86400) AND at >= ?1 AND (?2 IS NULL OR instr(object, ?2) > 0)
             GROUP BY 1, 2)
         GROUP BY 1 ORDER BY 4 DESC, 1 LIMIT ?3",
    )?;
    let row = |row: &Row<'_>| Ok(ObjectRow { object: row.get(0)?, cause: row.get(1)?, sums: sums(row, 2)? });
    statement.query_map(params![floor_of_hour(since), object, top as i64], row)?.collect()
}

fn waits(
    connection: &Connection,
    since: i64,
    client: Option<&str>,
    top: usize,
) -> rusqlite::Result<Vec<WaitRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT client, reason, sum(waits), sum(millis) FROM waits
         WHERE step IN (3600, 86400) AND at >= ?1 AND (?2 IS NULL OR client = ?2)
         GROUP BY 1, 2 ORDER BY 4 DESC, 1, 2 LIMIT ?3",
    )?;
    let row = |row: &Row<'_>| {
        Ok(WaitRow {
            client: row.get(0)?,
            reason: row.get(1)?,
            waits: count(row, 2)?,
            millis: count(row, 3)?,
        })
    };
    statement.query_map(params![floor_of_hour(since), client, top as i64], row)?.collect()
}

fn points(connection: &Connection, since: i64, interval: i64) -> rusqlite::Result<Vec<TrafficPoint>> {
    let mut statement = connection.prepare_cached(
        "SELECT at - at % ?2, cause, sum(received) FROM line
         WHERE step IN (60, 3600, 86400) AND at >= ?1 AND peer = 0
         GROUP BY 1, 2 HAVING sum(received) > 0 ORDER BY 1, 2",
    )?;
    let row =
        |row: &Row<'_>| Ok(TrafficPoint { at: row.get(0)?, cause: row.get(1)?, received: count(row, 2)? });
    statement.query_map([floor(since), interval], row)?.collect()
}

/// Returns the bytes over both lines since a time in seconds, by intervals of at least a minute.
pub(crate) fn rates(connection: &Connection, since: i64, interval: i64) -> rusqlite::Result<Vec<RatePoint>> {
    let mut statement = connection.prepare_cached(
        "SELECT at, sum(received), sum(sent) FROM (
             SELECT at - at % ?2 AS at, received, 0 AS sent FROM line
             WHERE step IN (60, 3600, 86400) AND at >= ?1 AND peer = 0
             UNION ALL SELECT at - at % ?2, 0, sent FROM site
             WHERE step IN (60, 3600, 86400) AND at >= ?1 AND content_type = '')
         GROUP BY 1 ORDER BY 1",
    )?;
    let row =
        |row: &Row<'_>| Ok(RatePoint { at: row.get(0)?, received: count(row, 1)?, sent: count(row, 2)? });
    statement.query_map([floor(since), interval.max(60)], row)?.collect()
}

fn cause_row(row: &Row<'_>) -> rusqlite::Result<CauseRow> {
    let cause: String = row.get(0)?;
    let from_revision: String = row.get(5)?;
    let known = TransferCause::ALL.into_iter().find(|known| known.as_str() == cause);
    let explanation = match known {
        Some(TransferCause::NoDelta) if !from_revision.is_empty() => {
            format!("{} from revision {from_revision}", TransferCause::NoDelta.explanation())
        }
        Some(known) => known.explanation().to_owned(),
        None => "recorded by another version of gupd".to_owned(),
    };
    Ok(CauseRow {
        cause,
        explanation,
        upstream: row.get(1)?,
        is_peer: row.get(2)?,
        content_type: row.get(3)?,
        form: row.get(4)?,
        from_revision,
        sums: sums(row, 6)?,
    })
}

fn sums(row: &Row<'_>, first: usize) -> rusqlite::Result<TrafficSums> {
    Ok(TrafficSums {
        transfers: count(row, first)?,
        received: count(row, first + 1)?,
        sent: count(row, first + 2)?,
        followers: count(row, first + 3)?,
    })
}

/// Reads a sum; that of no rows is `NULL`.
fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let sum: Option<i64> = row.get(column)?;
    Ok(u64::try_from(sum.unwrap_or(0)).unwrap_or(0))
}

/// Returns the beginning of the minute. An interval counts if it begins within the time.
fn floor(since: i64) -> i64 {
    since - since.rem_euclid(60)
}

fn floor_of_hour(since: i64) -> i64 {
    since - since.rem_euclid(3_600)
}
