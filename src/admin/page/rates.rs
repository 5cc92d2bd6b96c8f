//! The day of the site on the overview: the rates of both lines against their limits, and today's schedule. The axis is the
//! local clock from midnight to midnight, of 23, 24 or 25 hours. A table has the same figures.

use std::fmt::Write;

use gupd_config::policy::calendar::Calendar;
use gupd_config::units::Rate;
use gupd_config::{Ceiling, Config, RateSchedule, Week};
use gupd_ledger::RatePoint;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{Markup, html};

use super::chart::{HEIGHT, LEFT, WIDTH, clock_ticks, tick};
use super::text::{rate, time};

/// Seconds of a column.
pub(super) const INTERVAL: i64 = 900;

/// Space below the chart for the clock.
const BOTTOM: i64 = 24;

/// Maximum number of parts into which schedules divide a day. Windows have minutes.
const MAX_PARTS: usize = 200;

/// Groups whose windows are listed.
const MAX_GROUPS: usize = 20;

/// A day in seconds since 1970, from midnight to midnight at the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SiteDay {
    pub(super) begin: i64,
    pub(super) end: i64,
    pub(super) now: i64,
}

/// One line in the chart.
struct LineChart<'a> {
    name: &'static str,
    limit: &'a RateSchedule,
    /// Bytes of a point.
    value: fn(&RatePoint) -> u64,
    /// Parts of the day in which the relay makes no requests of its own.
    closed: Vec<(i64, i64)>,
}

impl SiteDay {
    /// Returns the day of this time; `None` for a time that no calendar has.
    pub(super) fn at(now_millis: i64, zone: &TimeZone) -> Option<Self> {
        let now = Timestamp::from_millisecond(now_millis).ok()?.to_zoned(zone.clone());
        let begin = now.start_of_day().ok()?;
        let end = now.tomorrow().ok()?.start_of_day().ok()?;
        let seconds = |zoned: &jiff::Zoned| zoned.timestamp().as_second();
        Some(Self { begin: seconds(&begin), end: seconds(&end), now: seconds(&now) })
    }

    fn x(self, at: i64) -> f64 {
        let part = (at - self.begin).clamp(0, self.end - self.begin) as f64 / (self.end - self.begin) as f64;
        LEFT as f64 + part * (WIDTH - LEFT) as f64
    }

    /// Returns the parts of the day in which a schedule has one value.
    fn parts<T: Copy + PartialEq>(self, week: &Week<T>, calendar: &Calendar) -> Vec<(i64, i64, T)> {
        let (mut parts, mut at) = (Vec::new(), self.begin);
        while at < self.end && parts.len() < MAX_PARTS {
            let current = calendar.current(week, at * 1_000);
            let until = current.until.map_or(self.end, |until| (until / 1_000).clamp(at + 1, self.end));
            parts.push((at, until, current.value));
            at = until;
        }
        parts
    }
}

/// Draws both lines, and lists the schedule of the day.
pub(super) fn show(day: SiteDay, points: &[RatePoint], config: &Config) -> Markup {
    let zone = &config.site.time_zone;
    let calendar = Calendar::new(zone.clone());
    let closed = day.parts(&config.wan.windows, &calendar).into_iter();
    let closed = closed.filter(|(.., is_open)| !is_open).map(|(from, until, _)| (from, until)).collect();
    let wan = LineChart { name: "WAN", limit: &config.wan.limit, value: |point| point.received, closed };
    let lan =
        LineChart { name: "LAN", limit: &config.lan.limit, value: |point| point.sent, closed: Vec::new() };
    html! {
        section aria-labelledby="today" {
            h2 id="today" { "Today" }
            (wan.draw(day, points, &calendar, zone))
            (lan.draw(day, points, &calendar, zone))
            (schedule(day, config, &calendar))
            (table(day, points, zone))
        }
    }
}

impl LineChart<'_> {
    fn draw(&self, day: SiteDay, points: &[RatePoint], calendar: &Calendar, zone: &TimeZone) -> Markup {
        let limits = day.parts(self.limit, calendar);
        let highest = limits.iter().filter_map(|(.., limit)| bytes_of(*limit)).max().unwrap_or(0);
        let points = points.iter().filter(|point| (day.begin..day.end).contains(&point.at));
        let columns: Vec<_> =
            points.map(|point| (point.at, (self.value)(point) / INTERVAL.unsigned_abs())).collect();
        let most = columns.iter().map(|(_, rate)| *rate).max().unwrap_or(0).max(highest).max(1);
        let y = |rate: u64| HEIGHT as f64 * (1.0 - rate as f64 / most as f64 * 0.95);
        let now = day.x(day.now);
        html! {
            figure {
                svg viewBox=(format!("0 0 {WIDTH} {}", HEIGHT + BOTTOM)) role="img"
                    aria-label=(format!("{} rate today against its limit; the table below has the same figures", self.name)) {
                    @for (from, until) in &self.closed {
                        rect class="closed" x=(format!("{:.1}", day.x(*from))) y="0" height=(HEIGHT)
                            width=(format!("{:.1}", day.x(*until) - day.x(*from))) {
                            title { "wan.windows: no requests of the relay's own" }
                        }
                    }
                    @for part in 0..=2_u64 {
                        @let level = y(most / 2 * part);
                        line class="grid" x1=(LEFT) x2=(WIDTH) y1=(format!("{level:.1}")) y2=(format!("{level:.1}")) {}
                        text class="tick" x=(LEFT - 6) y=(format!("{:.1}", level.max(10.0))) text-anchor="end" {
                            (rate(most / 2 * part))
                        }
                    }
                    @for (at, value) in &columns {
                        rect class="c0" x=(format!("{:.1}", day.x(*at))) y=(format!("{:.1}", y(*value)))
                            width=(format!("{:.1}", (day.x(at + INTERVAL) - day.x(*at) - 0.5).max(0.5)))
                            height=(format!("{:.1}", HEIGHT as f64 - y(*value))) {
                            title { (time(at * 1_000, zone, "%H:%M")) ": " (rate(*value)) }
                        }
                    }
                    @if highest > 0 { path class="limit" d=(limit_path(&limits, day, y)) {} }
                    line class="now" x1=(format!("{now:.1}")) x2=(format!("{now:.1}")) y1="0" y2=(HEIGHT) {}
                    @for (at, label) in clock_ticks(day.begin, day.end, zone) {
                        (tick(day.x(at), &label))
                    }
                }
                figcaption {
                    span class="key" { span class="swatch c0" {} (self.name) }
                    @if highest > 0 { span class="key" { span class="swatch limit" {} "limit" } }
                    @if !self.closed.is_empty() { span class="key" { span class="swatch closed" {} "no own requests" } }
                }
            }
        }
    }
}

fn limit_path(limits: &[(i64, i64, Ceiling)], day: SiteDay, y: impl Fn(u64) -> f64) -> String {
    let mut path = String::new();
    let mut is_drawn = false;
    for (from, until, limit) in limits {
        let Some(limit) = bytes_of(*limit) else {
            is_drawn = false;
            continue;
        };
        // Writing to a string cannot fail.
        let _ = write!(
            path,
            "{}{:.1} {:.1}H{:.1}",
            if is_drawn { 'L' } else { 'M' },
            day.x(*from),
            y(limit),
            day.x(*until)
        );
        is_drawn = true;
    }
    path
}

/// Lists limits and windows of the day, as far as they change.
fn schedule(day: SiteDay, config: &Config, calendar: &Calendar) -> Markup {
    let zone = &config.site.time_zone;
    let clock = |at: i64| if at == day.end { "24:00".to_owned() } else { time(at * 1_000, zone, "%H:%M") };
    let span = |from: i64, until: i64| format!("{}–{}", clock(from), clock(until));
    let limits = |limit: &RateSchedule| {
        let parts = day.parts(limit, calendar).into_iter();
        let words = parts.map(|(from, until, limit)| {
            format!("{} {}", span(from, until), bytes_of(limit).map_or_else(|| "unlimited".to_owned(), rate))
        });
        words.collect::<Vec<_>>().join(", ")
    };
    let windows = |windows: &Week<bool>| {
        let open = day.parts(windows, calendar).into_iter().filter(|(.., is_open)| *is_open);
        let words: Vec<_> = open.map(|(from, until, _)| span(from, until)).collect();
        if words.is_empty() { "closed".to_owned() } else { words.join(", ") }
    };
    let groups = config.groups.iter().filter(|group| group.windows.as_constant().is_none());
    let rows = [("WAN limit", &config.wan.limit), ("LAN limit", &config.lan.limit)]
        .into_iter()
        .filter(|(_, limit)| limit.as_constant().is_none())
        .map(|(name, limit)| (name.to_owned(), limits(limit)));
    let own = (config.wan.windows.as_constant().is_none())
        .then(|| ("Requests of the relay's own".to_owned(), windows(&config.wan.windows)));
    let groups =
        groups.take(MAX_GROUPS).map(|group| (format!("Window of {}", group.name), windows(&group.windows)));
    let rows: Vec<_> = rows.chain(own).chain(groups).collect();
    html! {
        @if !rows.is_empty() {
            dl class="schedule" { @for (name, words) in &rows { dt { (name) } dd { (words) } } }
        }
    }
}

fn table(day: SiteDay, points: &[RatePoint], zone: &TimeZone) -> Markup {
    let points = points.iter().filter(|point| (day.begin..day.end).contains(&point.at));
    let mean = |bytes: u64| rate(bytes / INTERVAL.unsigned_abs());
    html! {
        details {
            summary { "Table of these figures" }
            div class="scroll" tabindex="0" role="region" aria-label="Rates of today" {
                table {
                    thead { tr {
                        th scope="col" { "From" } th scope="col" class="number" { "WAN" } th scope="col" class="number" { "LAN" }
                    } }
                    tbody {
                        @for point in points.rev() {
                            tr {
                                th scope="row" { (time(point.at * 1_000, zone, "%H:%M")) }
                                td class="number" { (mean(point.received)) }
                                td class="number" { (mean(point.sent)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn bytes_of(limit: Ceiling) -> Option<u64> {
    match limit {
        Ceiling::Rate(Rate(bytes)) => Some(bytes),
        Ceiling::Unlimited => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gupd.toml");
        let text = format!(
            "[[upstream]]\nurl = \"http://manager:8014\"\n[site]\ntime_zone = \"Europe/Berlin\"\n{text}"
        );
        std::fs::write(&file, text).unwrap();
        Config::load(&gupd_config::Overrides::default(), Some(&file), std::iter::empty()).unwrap()
    }

    fn day(text: &str) -> SiteDay {
        let now: Timestamp = text.parse().unwrap();
        SiteDay::at(now.as_millisecond(), &TimeZone::get("Europe/Berlin").unwrap()).unwrap()
    }

    #[test]
    fn day_has_the_hours_of_the_local_clock() {
        for (now, hours) in
            [("2026-03-29T12:00:00Z", 23), ("2026-10-25T12:00:00Z", 25), ("2026-06-01T22:30:00Z", 24)]
        {
            let day = day(now);
            assert_eq!((day.end - day.begin) / 3_600, hours, "{now}");
            assert!((day.begin..day.end).contains(&day.now));
        }
        assert_eq!(SiteDay::at(i64::MAX, &TimeZone::UTC), None);
    }

    #[test]
    fn limits_and_windows_of_the_day_are_drawn_and_listed() {
        let config = config(
            "[wan]\nlimit = [\"2Mbit/s mon-fri 07:00-19:00\", \"8Mbit/s\"]\nwindows = [\"mon-sun 20:00-24:00\"]\n\
             [[group]]\nname = \"branch\"\nsubnets = \"10.1.0.0/16\"\nwindows = [\"mon-fri 20:00-06:00\"]\n",
        );
        let day = day("2026-06-03T10:00:00Z");
        let point = RatePoint { at: day.begin + 9 * 3_600, received: 900 * 125_000, sent: 900 * 1_000_000 };
        let text = show(day, &[point], &config).into_string();
        for expected in [
            "<dt>WAN limit</dt><dd>00:00–07:00 8.00 Mbit/s, 07:00–19:00 2.00 Mbit/s, 19:00–24:00 8.00 Mbit/s</dd>",
            "<dt>Requests of the relay's own</dt><dd>20:00–24:00</dd>",
            "<dt>Window of branch</dt><dd>00:00–06:00, 20:00–24:00</dd>",
            "<title>09:00: 1.00 Mbit/s</title>",
            "class=\"closed\"",
            ">06:00</text>",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        assert_eq!(text.matches("class=\"limit\"").count(), 1, "{text}");
    }

    #[test]
    fn unlimited_idle_day_and_foreign_points_are_drawn() {
        let config = config("");
        let day = day("2026-10-25T12:00:00Z");
        let foreign = [i64::MIN, -1, 0, i64::MAX].map(|at| RatePoint { at, received: u64::MAX, sent: 1 });
        for points in [&[][..], &foreign] {
            let text = show(day, points, &config).into_string();
            assert!(!text.contains("NaN") && !text.contains("inf") && !text.contains("<dl"), "{text}");
        }
    }
}
