//! A manager's policy as a configuration. Each value of the policy ends in one [`ImportFinding`]: the setting that it became, or
//! the reason why it has none. Units are not documented, so those of times and rates are given by the administrator.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::mapping;
use super::sepm::{Frequency, GroupUpdateProvider, LuPolicy, LuSchedule};
use crate::config_text::quoted;
use crate::table::printable;
use gupd_config::units::{MIB, Rate, Size, Time};

/// Default port of a Group Update Provider.
const PORT: u16 = 2967;

/// Longest name that a comment shows.
const MAX_SHOWN: usize = 80;

/// Seconds.
const HOUR: u64 = 3_600;

pub(super) const GUP: &str = "windows.server.gup";
const SCHEDULE: &str = "windows.schedule";

/// What the policy does not say.
#[derive(Debug)]
pub(super) struct Assumptions {
    pub(super) upstreams: Vec<String>,
    pub(super) time_zone: Option<String>,
    pub(super) time_unit: TimeUnit,
    pub(super) bandwidth_unit: BandwidthUnit,
    /// Length of the client subnets of explicit mappings that have none.
    pub(super) mapping_prefix: u8,
}

/// Unit of the policy's times without one.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum TimeUnit {
    Milliseconds,
    Seconds,
    Minutes,
    Hours,
    Days,
}

/// Unit of the policy's bandwidth.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum BandwidthUnit {
    /// Kilobits a second.
    Kbit,
    /// Kilobytes a second.
    Kbyte,
}

/// A value of the policy, and the setting that it became.
#[derive(Debug, Serialize)]
pub(super) struct ImportFinding {
    pub(super) field: String,
    pub(super) value: String,
    /// `None`: it has no counterpart.
    pub(super) setting: Option<String>,
    pub(super) note: String,
}

/// A configuration in the making: sections in the order of their first setting.
#[derive(Debug, Default)]
pub(super) struct ConfigDraft {
    sections: Vec<(&'static str, Vec<String>)>,
    pub(super) groups: String,
    pub(super) findings: Vec<ImportFinding>,
}

/// A field of the policy with its value.
struct Field<'a> {
    part: &'a str,
    name: &'a str,
    value: String,
}

impl ConfigDraft {
    /// Translates a policy.
    ///
    /// # Errors
    /// When a value cannot be right, such as port 70000; the message names its field.
    pub(super) fn new(policy: &LuPolicy, assumed: &Assumptions) -> Result<Self, String> {
        let mut draft = Self::default();
        if policy.enabled == Some(false) {
            draft.drop_field("", "enabled", "false", "the manager does not apply this policy to any client");
        }
        let windows = &policy.configuration.windows;
        if windows.server.gup.is_none() && windows.schedule.is_none() {
            return Err(
                "configuration.windows: has neither a gup nor a schedule: import another policy".to_owned()
            );
        }
        if let Some(gup) = &windows.server.gup {
            draft.ports(gup)?;
            draft.cache(gup, assumed);
            draft.downloads(gup);
            draft.bandwidth(gup, assumed);
            draft.bypass(gup, assumed);
        }
        if let Some(schedule) = &windows.schedule {
            draft.schedule(schedule)?;
        }
        if let Some(zone) = &assumed.time_zone {
            draft.add(
                "site",
                "Times of day in this file are times of this zone.",
                "time_zone",
                &quoted(zone),
            );
        }
        let explicit = windows.server.gup.as_ref().and_then(|gup| gup.explicit_gup.as_ref());
        let mappings = explicit.and_then(|explicit| explicit.explicit_mappings.as_deref());
        mapping::add(mappings.unwrap_or_default(), assumed.mapping_prefix, &mut draft)?;
        Ok(draft)
    }

    /// Returns the file.
    pub(super) fn text(&self, policy: &LuPolicy, upstreams: &[String]) -> String {
        let name = shortened(policy.name.as_deref().unwrap_or("without a name"));
        let mut text = format!(
            "# Written by gupd policy import from the LiveUpdate policy {name}.\n\
             # Every setting with its reason: config/gupd.toml of the package.\n"
        );
        for url in upstreams {
            text += "\n# Manager or LiveUpdate server. The first one is asked first.\n[[upstream]]\nurl = ";
            text += &quoted(url);
            text.push('\n');
        }
        for (section, lines) in &self.sections {
            text += &format!("\n[{section}]\n{}\n", lines.join("\n"));
        }
        text += &self.groups;
        let untranslated: Vec<_> = self.findings.iter().filter(|one| one.setting.is_none()).collect();
        if !untranslated.is_empty() {
            text += "\n# Values of the policy without a counterpart here:\n";
        }
        for ImportFinding { field, value, note, .. } in untranslated {
            text += &format!("# - {field} = {value}: {note}\n");
        }
        text
    }

    /// Notes a value that has no counterpart.
    pub(super) fn drop_field(&mut self, part: &str, name: &str, value: &str, note: &str) {
        let field = if part.is_empty() { name.to_owned() } else { format!("{part}.{name}") };
        self.findings.push(ImportFinding {
            field: shortened(&field),
            value: shortened(value),
            setting: None,
            note: note.to_owned(),
        });
    }

    fn take(&mut self, from: Field<'_>, section: &'static str, key: &str, value: &str, note: &str) {
        let Field { part, name, value: given } = from;
        let setting = Some(format!("{section}.{key} = {value}"));
        self.add(section, &format!("Policy: {name} = {given}. {note}"), key, value);
        let field = format!("{part}.{name}");
        self.findings.push(ImportFinding { field, value: given, setting, note: note.to_owned() });
    }

    fn add(&mut self, section: &'static str, comment: &str, key: &str, value: &str) {
        let lines = [format!("# {comment}"), format!("{key} = {value}")];
        match self.sections.iter_mut().find(|(name, _)| *name == section) {
            Some((_, present)) => present.extend(lines),
            None => self.sections.push((section, lines.into())),
        }
    }

    fn ports(&mut self, gup: &GroupUpdateProvider) -> Result<(), String> {
        let default = port("default_port", gup.default_port)?;
        let explicit = gup.explicit_gup.as_ref().and_then(|explicit| explicit.explicit_mappings.as_ref());
        let mut ports = vec![default];
        for mapping in explicit.into_iter().flatten() {
            let other = mapping.port.map(|given| port("explicit_mappings.port", Some(given))).transpose()?;
            ports.extend(other.filter(|port| !ports.contains(port)));
        }
        let addresses: Vec<String> = ports.iter().map(|port| format!("\"0.0.0.0:{port}\"")).collect();
        let given = gup.default_port.map_or_else(|| "none".to_owned(), |port| port.to_string());
        let field = Field { part: GUP, name: "default_port", value: given };
        let note = "Clients of the policy find the relay at this port, and at those of explicit mappings.";
        self.take(field, "server", "listen", &format!("[{}]", addresses.join(", ")), note);
        Ok(())
    }

    fn cache(&mut self, gup: &GroupUpdateProvider, assumed: &Assumptions) {
        if let Some(size) = gup.max_disk_cache_size {
            match u64::try_from(size) {
                Ok(size @ 1..=1_073_741_824) => {
                    let quota = size.max(64) * MIB;
                    let field = Field { part: GUP, name: "max_disk_cache_size", value: format!("{size} MB") };
                    let note =
                        "The relay may use more than a Windows client: 40GiB hold a month of full sets.";
                    self.take(field, "store", "quota", &quoted(&Size(quota).to_string()), note);
                }
                _ => self.drop_field(
                    GUP,
                    "max_disk_cache_size",
                    &size.to_string(),
                    "no limit: store.quota is 40GiB",
                ),
            }
        }
        let Some(given) = gup.delete_unused_content_after else { return };
        let name = "delete_unused_content_after";
        match assumed.time_unit.time(given, Duration::from_secs(3_600)) {
            Some(time) => {
                let field = Field { part: GUP, name, value: given.to_string() };
                let note = format!("Read as {}.", assumed.time_unit.name());
                self.take(field, "store", "max_unused", &quoted(&Time(time).to_string()), &note);
            }
            None => self.drop_time(name, given, assumed),
        }
    }

    fn drop_time(&mut self, name: &str, given: i64, assumed: &Assumptions) {
        let unit = assumed.time_unit.name();
        self.drop_field(GUP, name, &given.to_string(), &format!("not plausible as {unit}: pass --time-unit"));
    }

    fn downloads(&mut self, gup: &GroupUpdateProvider) {
        let Some(given) = gup.max_simultaneous_download else { return };
        let name = "max_simultaneous_download";
        match given {
            1..=1_000_000 => {
                let note = "Further downloads wait in a queue. Raise it: the relay serves hundreds at once.";
                let field = Field { part: GUP, name, value: given.to_string() };
                self.take(field, "lan", "max_downloads", &given.to_string(), note);
            }
            _ => self.drop_field(GUP, name, &given.to_string(), "no limit: lan.max_downloads is unlimited"),
        }
    }

    fn bandwidth(&mut self, gup: &GroupUpdateProvider, assumed: &Assumptions) {
        let Some(given) = gup.max_bandwidth_allowed else { return };
        let (unit, factor) = match assumed.bandwidth_unit {
            BandwidthUnit::Kbit => ("kbit/s", 125),
            BandwidthUnit::Kbyte => ("KB/s", 1_000),
        };
        let name = "max_bandwidth_allowed";
        match u64::try_from(given).map(|given| given.saturating_mul(factor)) {
            Ok(rate @ 1..=1_000_000_000_000) => {
                let note = format!("Read as {unit}. It holds for everything from the managers.");
                let value = quoted(&Rate(rate.max(1_024)).to_string());
                self.take(Field { part: GUP, name, value: given.to_string() }, "wan", "limit", &value, &note);
            }
            _ => self.drop_field(GUP, name, &given.to_string(), "no limit: wan.limit is unlimited"),
        }
    }

    fn bypass(&mut self, gup: &GroupUpdateProvider, assumed: &Assumptions) {
        let Some(given) = gup.download_from_default_after else { return };
        let name = "download_from_default_after";
        let field = Field { part: GUP, name, value: given.to_string() };
        match assumed.time_unit.time(given, Duration::from_secs(60)) {
            _ if given <= 0 => {
                let note =
                    "Clients never leave the relay for the manager, so the guard must not redirect them.";
                self.take(field, "guard", "answer", "\"relay\"", note);
            }
            Some(time) => {
                let note = format!(
                    "Clients reach the manager after {}, so the guard may redirect them. The policy keeps that time.",
                    Time(time)
                );
                self.take(field, "guard", "answer", "\"redirect\"", &note);
            }
            None => self.drop_time(name, given, assumed),
        }
    }

    fn schedule(&mut self, schedule: &LuSchedule) -> Result<(), String> {
        let Some(frequency) = schedule.frequency else { return Ok(()) };
        let within = |name: &str, given: Option<i64>, max: i64| match given.unwrap_or(0) {
            given if (0..=max).contains(&given) => Ok(given as u64),
            given => Err(format!("{SCHEDULE}.{name}: {given} is not within 0 to {max}: correct it")),
        };
        let time = format!(
            "{:02}:{:02}",
            within("start_hour", schedule.start_hour, 23)?,
            within("start_minute", schedule.start_minute, 59)?
        );
        let hours = within("download_interval", schedule.download_interval, 720)?;
        let (value, period) = match frequency {
            Frequency::Continuous => ("continuous".to_owned(), 0),
            Frequency::Hourly if hours == 0 => ("every 4h".to_owned(), 4 * HOUR),
            Frequency::Hourly => (format!("every {}", Time(Duration::from_secs(hours * HOUR))), hours * HOUR),
            Frequency::Daily => (format!("daily {time}"), 24 * HOUR),
            Frequency::Weekly => {
                let day =
                    schedule.day.ok_or(format!("{SCHEDULE}.day: missing in a weekly schedule: add it"))?;
                (format!("weekly {} {time}", day.name()), 168 * HOUR)
            }
        };
        let given = format!("{frequency:?}").to_uppercase();
        let field = Field { part: SCHEDULE, name: "frequency", value: given };
        let note =
            "The relay asks the managers then, also if no client does. Clients keep their own schedule.";
        self.take(field, "refresh", "schedule", &quoted(&value), note);
        // Windows of a weekly schedule are days.
        let unit = if frequency == Frequency::Weekly { 24 * HOUR } else { HOUR };
        for (name, key, given, max) in [
            ("randomize_window", "random", schedule.randomize_window, period / 2),
            ("retry_window", "retry_window", schedule.retry_window, 168 * HOUR),
        ] {
            let Some(given) = given else { continue };
            let seconds = within(name, Some(given), 8_760)? * unit;
            if frequency == Frequency::Continuous {
                self.drop_field(
                    SCHEDULE,
                    name,
                    &given.to_string(),
                    "no counterpart in a continuous schedule",
                );
                continue;
            }
            let value = quoted(&Time(Duration::from_secs(seconds.min(max))).to_string());
            let note = match seconds > max {
                true => "Shortened to the maximum of the relay.",
                false if unit == HOUR => "Read as hours.",
                false => "Read as days.",
            };
            self.take(Field { part: SCHEDULE, name, value: given.to_string() }, "refresh", key, &value, note);
        }
        Ok(())
    }
}

impl TimeUnit {
    /// Returns a time of at least `min` and at most ten years.
    fn time(self, value: i64, min: Duration) -> Option<Duration> {
        let millis: u64 = match self {
            Self::Milliseconds => 1,
            Self::Seconds => 1_000,
            Self::Minutes => 60_000,
            Self::Hours => 3_600_000,
            Self::Days => 86_400_000,
        };
        let time = Duration::from_millis(u64::try_from(value).ok()?.checked_mul(millis)?);
        (min..=Duration::from_secs(3_650 * 86_400)).contains(&time).then_some(time)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "milliseconds",
            Self::Seconds => "seconds",
            Self::Minutes => "minutes",
            Self::Hours => "hours",
            Self::Days => "days",
        }
    }
}

fn port(name: &str, given: Option<i64>) -> Result<u16, String> {
    let Some(given) = given else { return Ok(PORT) };
    let port = u16::try_from(given).ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("{GUP}.{name}: {given} is not a port: correct it to 1 to 65535"))
}

/// Returns text for a comment or a cell: printable, and cut.
pub(super) fn shortened(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
