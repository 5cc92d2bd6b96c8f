//! `gupd policy import`: a LiveUpdate policy of a manager becomes a configuration. What it writes has passed the check of
//! `gupd check`, and nothing is written otherwise. The report names the setting of each value of the policy, and the
//! values without one.

mod mapping;
mod sepm;
#[cfg(test)]
mod tests;
mod translation;
mod untranslated;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use self::translation::{Assumptions, BandwidthUnit, ConfigDraft, ImportFinding, TimeUnit};
use crate::config_text::{check, write_new};
use crate::table::{self, printable};
use crate::{CommandError, print_line, to_json};

/// Flags of `gupd policy import`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gupd policy import policy.json --upstream https://sepm.example.com:8014 > gupd.toml\n  \
                  gupd policy import policy.json --upstream https://sepm.example.com:8014 --time-unit hours --output \
                  gupd.toml\n\nThe manager does not document the units of times and of the bandwidth: compare them with \
                  its console."
)]
pub(crate) struct ImportFlags {
    /// Response of GET /sepm/api/v1/policies/lu/{id}.
    #[arg(value_name = "FILE")]
    policy: PathBuf,
    /// Manager or LiveUpdate server, which the policy does not name; repeatable, in order of priority.
    #[arg(long, value_name = "URL", required = true)]
    upstream: Vec<String>,
    /// Time zone of the site [default: that of the machine].
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Unit of delete_unused_content_after and download_from_default_after.
    #[arg(long, value_name = "UNIT", value_enum, default_value_t = TimeUnit::Seconds)]
    time_unit: TimeUnit,
    /// Unit of max_bandwidth_allowed, a second.
    #[arg(long, value_name = "UNIT", value_enum, default_value_t = BandwidthUnit::Kbit)]
    bandwidth_unit: BandwidthUnit,
    /// Prefix length of the client subnets of explicit mappings, which the policy does not name.
    #[arg(long, value_name = "BITS", default_value_t = 24, value_parser = clap::value_parser!(u8).range(8..=32))]
    mapping_prefix: u8,
    /// The configuration; "-" for standard output, with the values without a counterpart as comments.
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Report of an import.
#[derive(Debug, Serialize)]
struct ImportReport<'a> {
    /// The configuration, if no file has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration: Option<&'a str>,
    findings: &'a [ImportFinding],
}

pub(super) fn run(flags: &ImportFlags) -> Result<(), CommandError> {
    let (text, findings) = import(flags)?;
    let is_printed = flags.output == Path::new("-");
    if !is_printed {
        write_new(&flags.output, &text)?;
    }
    if flags.json {
        let configuration = is_printed.then_some(&*text);
        print_line(&to_json(&ImportReport { configuration, findings: &findings })?);
    } else if is_printed {
        print_line(text.trim_end());
    } else {
        print_line(&report(&findings));
        print_line(&format!("\n{} written: run gupd doctor, then gupd serve", flags.output.display()));
    }
    Ok(())
}

/// Returns the checked configuration and the report.
fn import(flags: &ImportFlags) -> Result<(String, Vec<ImportFinding>), CommandError> {
    let failed = |message: String| {
        let message = printable(&message);
        CommandError::Configuration(format!("{}: {message}", flags.policy.display()))
    };
    let (policy, all) = sepm::read(&flags.policy).map_err(failed)?;
    let assumed = Assumptions {
        upstreams: flags.upstream.clone(),
        time_zone: flags.time_zone.clone(),
        time_unit: flags.time_unit,
        bandwidth_unit: flags.bandwidth_unit,
        mapping_prefix: flags.mapping_prefix,
    };
    let mut draft = ConfigDraft::new(&policy, &assumed).map_err(failed)?;
    untranslated::add(&all, &mut draft);
    let text = draft.text(&policy, &assumed.upstreams);
    check(&text)?;
    Ok((text, draft.findings))
}

fn report(findings: &[ImportFinding]) -> String {
    let mut table = table::new(&["POLICY", "VALUE", "SETTING", "NOTE"], &[]);
    for ImportFinding { field, value, setting, note } in findings {
        table.add_row([field, value, setting.as_deref().unwrap_or("no counterpart"), note]);
    }
    table::text(&table)
}
