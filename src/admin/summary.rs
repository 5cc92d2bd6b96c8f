//! The daily summary: at a local time of the site one log line, a file in the store's folder, and a notification to the
//! administrator's web service. Each is made once a day, also if the clock is set back. Summaries of days on
//! which the relay did not run are left out.

use std::path::Path;

use gupd_config::clock::UnixMillis;
use gupd_config::{Config, SummarySettings, Trust};
use gupd_ledger::{EventChange, EventQuery, QueryError, SiteSums, TrafficQuery};
use gupd_net::listen::LifecycleStage;
use gupd_net::webhook::post_json;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;
use tokio::task::{JoinSet, spawn_blocking};

use super::AdminApi;
use super::status::{ClientSummary, StatusFinding, observe, timestamp};

/// Time that a summary covers.
const PERIOD: UnixMillis = 86_400_000;

/// Maximum number of events that are read, and thereby of `alarms_raised`.
const MAX_EVENTS: usize = 1_000;

/// Name of the file in the folder of the store; each summary replaces the one before.
const FILE: &str = "summary.json";

/// A day of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DailySummary {
    /// Beginning of the day, RFC 3339.
    since: String,
    /// Its end.
    until: String,
    /// State at the end in one sentence.
    sentence: String,
    /// Bytes received from upstreams.
    wan_received: u64,
    /// Responses to clients.
    #[serde(flatten)]
    clients_total: ClientTotals,
    /// Clients by state; `None` without rings.
    clients: Option<ClientSummary>,
    /// The alarms at the end.
    alarms: Vec<StatusFinding>,
    /// Alarms that were raised within the day.
    alarms_raised: usize,
}

/// Responses to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct ClientTotals {
    lan_sent: u64,
    saved: u64,
    saved_percent: u64,
    requests: u64,
    hits: u64,
}

/// Time of the next summary.
#[derive(Debug, Default)]
pub(crate) struct SummarySchedule {
    /// Minute of the day.
    at: Option<u16>,
    next: Option<UnixMillis>,
}

impl SummarySchedule {
    /// Returns true once for each local time `at` that has come.
    pub(crate) fn take_due(&mut self, settings: &SummarySettings, zone: &TimeZone, now: UnixMillis) -> bool {
        if self.at != settings.at {
            (self.at, self.next) = (settings.at, settings.at.and_then(|at| next(at, zone, now)));
        }
        let is_due = self.next.is_some_and(|next| now >= next);
        if is_due {
            self.next = self.at.and_then(|at| next(at, zone, now));
        }
        is_due
    }
}

/// Returns the first time after `now` at which the local clock shows this minute of a day.
fn next(minute: u16, zone: &TimeZone, now: UnixMillis) -> Option<UnixMillis> {
    let local = Timestamp::from_millisecond(now).ok()?.to_zoned(zone.clone());
    let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
    let at = |days: i64| {
        let date = local.date().checked_add(days.days()).ok()?;
        // A time that spring skips is moved by the length of the gap.
        Some(date.at(hour, minute, 0, 0).to_zoned(zone.clone()).ok()?.timestamp().as_millisecond())
    };
    (0..=2).filter_map(at).find(|at| *at > now)
}

impl AdminApi {
    /// Returns true once for each time of a summary. A process that is being replaced, or stops, makes none.
    pub(crate) fn take_due_summary(&self, schedule: &mut SummarySchedule) -> bool {
        let generation = self.generations.load_full();
        let config = &generation.config;
        let is_due = schedule.take_due(&config.summary, &config.site.time_zone, self.clock.now());
        is_due && *self.stage.borrow() == LifecycleStage::Serving
    }

    /// Makes the summary of the last day, logs it, writes the file and sends the notification as a task of `tasks`.
    pub(crate) async fn summarize(&self, tasks: &mut JoinSet<()>) {
        let summary = match self.daily_summary().await {
            Ok(summary) => summary,
            Err(error) => return tracing::warn!(%error, "daily summary not made"),
        };
        summary.log();
        let config = &self.generations.load().config;
        let json = match serde_json::to_string(&summary) {
            Ok(json) => json,
            Err(error) => return tracing::error!(%error, "daily summary not made"),
        };
        if let Err(error) = write(config, json.clone()).await {
            tracing::warn!(%error, "daily summary not written");
        }
        if let Some(url) = config.summary.webhook.clone() {
            let trust = Trust { ca: config.summary.webhook_ca.clone(), ..Trust::default() };
            tasks.spawn(async move {
                match post_json(&url, &trust, json).await {
                    Ok(()) => tracing::info!("daily summary sent"),
                    // The URL may have a secret.
                    Err(error) => tracing::warn!(host = url.host(), %error, "daily summary not sent"),
                }
            });
        }
    }

    async fn daily_summary(&self) -> Result<DailySummary, QueryError> {
        let now = self.clock.now();
        let traffic = TrafficQuery { since: now - PERIOD, ..TrafficQuery::default() };
        let traffic = self.ledger.query(traffic).await?;
        let (report, events) = observe(self, EventQuery { before: None, limit: MAX_EVENTS }).await;
        let raised = events?.events.into_iter().filter(|event| event.change == EventChange::Raised);
        let SiteSums { sent, saved, requests, hits } = traffic.clients_total;
        Ok(DailySummary {
            since: timestamp(now - PERIOD),
            until: timestamp(now),
            clients: report.clients(),
            sentence: report.sentence,
            wan_received: traffic.wan.received,
            clients_total: ClientTotals {
                lan_sent: sent,
                saved,
                saved_percent: saved.saturating_mul(100).checked_div(sent).unwrap_or(0),
                requests,
                hits,
            },
            alarms_raised: raised.filter(|event| event.at >= now - PERIOD).count(),
            alarms: report.findings.into_iter().filter(StatusFinding::is_alarm).collect(),
        })
    }
}

impl DailySummary {
    fn log(&self) {
        let ClientTotals { lan_sent, saved, saved_percent, .. } = self.clients_total;
        let [current, behind, failing] = self
            .clients
            .map_or([None; 3], |clients| [clients.current, clients.behind, clients.failing].map(Some));
        tracing::info!(
            wan_received = self.wan_received,
            lan_sent,
            saved,
            saved_percent,
            clients_current = current,
            clients_behind = behind,
            clients_failing = failing,
            alarms = self.alarms.len(),
            alarms_raised = self.alarms_raised,
            state = self.sentence,
            "daily summary"
        );
    }
}

/// Replaces the file. A reader sees the old summary or the new one.
async fn write(config: &Config, json: String) -> std::io::Result<()> {
    let file = config.store.dir.join(FILE);
    let written = spawn_blocking(move || replace(&file, &json)).await;
    written.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

fn replace(file: &Path, json: &str) -> std::io::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{json}\n"))?;
    std::fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> UnixMillis {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    #[test]
    fn next_summary_follows_the_local_clock() {
        for (now, minute, expected) in [
            ("2026-06-01T04:59:59Z", 7 * 60, "2026-06-01T05:00:00Z"),
            ("2026-06-01T05:00:00Z", 7 * 60, "2026-06-02T05:00:00Z"),
            ("2026-12-01T05:00:00Z", 7 * 60, "2026-12-01T06:00:00Z"),
            ("2026-03-28T20:00:00Z", 150, "2026-03-29T01:30:00Z"),
            ("2026-10-24T20:00:00Z", 150, "2026-10-25T00:30:00Z"),
            ("2026-10-25T00:30:00Z", 150, "2026-10-26T01:30:00Z"),
        ] {
            assert_eq!(next(minute, &berlin(), millis(now)), Some(millis(expected)), "{now}");
        }
        assert_eq!(next(0, &berlin(), i64::MAX), None);
    }

    #[test]
    fn summary_is_due_once_a_day_whatever_the_clock_does() {
        let (mut schedule, zone) = (SummarySchedule::default(), berlin());
        let settings = SummarySettings { at: Some(7 * 60), webhook: None, webhook_ca: None };
        let mut due =
            |text: &str, settings: &SummarySettings| schedule.take_due(settings, &zone, millis(text));
        assert!(!due("2026-06-01T04:00:00Z", &settings));
        assert!(due("2026-06-01T05:00:03Z", &settings));
        assert!(!due("2026-06-01T05:00:08Z", &settings));
        // Set back by a day, and forward by ten.
        assert!(!due("2026-05-31T05:00:08Z", &settings));
        assert!(due("2026-06-11T09:00:00Z", &settings));
        assert!(!due("2026-06-11T09:00:05Z", &settings));
        let off = SummarySettings { at: None, webhook: None, webhook_ca: None };
        assert!(!due("2026-06-20T09:00:00Z", &off));
        assert!(!due("2026-06-20T09:00:00Z", &settings), "turned on again after today's time");
    }
}
