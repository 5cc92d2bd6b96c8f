//! `gupd store warm`: makes the running relay fetch the content of another relay or of the shared tier, in batches.
//! This command remembers nothing and the relay fetches no stored object, so after an interruption the command is run
//! again.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use indicatif::{BinaryBytes, HumanCount, ProgressBar};
use jiff::Timestamp;
use serde_json::json;

use super::{CommandError, bar, warm_source};
use crate::admin_client::{AdminClient, AdminRequest};
use crate::admin_flags::AdminAccess;
use crate::config_file::ConfigFile;
use crate::{print_line, to_json};
use gupd_admin::{FillReport, ProblemDocument, WarmRequest};
use gupd_config::Quantity;
use gupd_config::units::Time;
use gupd_http::key::split_key;
use gupd_refresh::{ContentItem, WarmOutcome, WarmReport, WarmStop};

/// Maximum number of objects of a batch; the relay takes as many.
const BATCH_OBJECTS: usize = 64;

/// Bytes of content in a batch, unless one object has more: the progress bar moves at its end.
const BATCH_BYTES: u64 = 8 << 20;

/// Maximum bytes of a batch as JSON; the relay takes 16 KiB.
const BATCH_TEXT: usize = 15 << 10;

/// Maximum bytes of the relay's response.
const MAX_RESPONSE: usize = 64 << 10;

/// Attempts at a batch: an upgrade or a restart by the guard takes seconds.
const ATTEMPTS: u32 = 5;

/// Time between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// Interval of the questions whether a window has opened.
const WINDOW_POLL: Duration = Duration::from_secs(2);

/// Consecutive failed objects after which the others are not requested.
const MAX_FAILURES: u64 = 8;

/// Flags of a warm start.
#[derive(Debug, Args)]
pub(crate) struct WarmFlags {
    #[command(flatten)]
    file: ConfigFile,
    /// Its content is fetched: admin address of another relay (http://192.0.2.11:9467), or the tier of this one
    /// (tier.url).
    #[arg(long, value_name = "URL")]
    from: String,
    /// File with the admin token of the other relay; one that may only read suffices.
    #[arg(long, value_name = "FILE")]
    from_token_file: Option<PathBuf>,
    /// Issuers of its certificate [default: those of the system].
    #[arg(long, value_name = "PEM")]
    from_ca: Option<PathBuf>,
    /// Only objects that clients received there, or that were published in the tier, within this time.
    #[arg(long, value_name = "AGE", default_value = "7d")]
    since: Time,
    #[command(flatten)]
    access: AdminAccess,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// Numbers of objects by outcome, and the bytes of those that were fetched.
#[derive(Debug, Default)]
struct WarmTotals {
    fetched: u64,
    bytes: u64,
    present: u64,
    absent: u64,
    refused: u64,
    failed: u64,
    /// Failed ones since the last that did not fail.
    failures: u64,
}

pub(super) fn run(flags: &WarmFlags) -> Result<(), CommandError> {
    let config = flags.file.load_without_upstreams(&flags.access.overrides())?;
    let relay = flags.access.client_with_token(&config, &flags.file, "store warm")?;
    // A relay that does not run, a wrong token and a failing store are errors before the list is read.
    if let (_, Some(stop @ WarmStop::StoreDegraded { .. })) = send(&relay, &[], |_| {})? {
        return Err(unreached(&stop, &[]));
    }
    let Time(since) = flags.since;
    let items = if flags.from.starts_with("http://") || flags.from.starts_with("https://") {
        let (ca, token) = (flags.from_ca.as_deref(), flags.from_token_file.as_deref());
        let source =
            AdminClient::for_url(&flags.from, ca, token).map_err(|error| error.with_context("--from"))?;
        if source.address() == relay.address() {
            let text = format!("--from {}: is this relay itself: name another one", flags.from);
            return Err(CommandError::Configuration(text));
        }
        warm_source::list_relay(&source, &flags.from, since)?
    } else {
        warm_source::list_tier(&flags.file, &flags.from, since)?
    };
    let mut totals = WarmTotals::default();
    let bar = bar("warming", items.iter().map(|item| item.bytes).sum());
    bar.enable_steady_tick(RETRY);
    let ended = warm(&relay, items.into(), &mut totals, &bar);
    bar.finish_and_clear();
    print_line(&if flags.json { to_json(&totals.json())? } else { totals.line() });
    ended?;
    match totals.failed {
        0 => Ok(()),
        failed => Err(CommandError::Failed(format!(
            "store warm: {} not fetched, the log of the relay has the reasons: run it again",
            Quantity(failed, "object").with_verb("was", "were")
        ))),
    }
}

/// Has all objects fetched. An error has the reason that some were not reached.
fn warm(
    relay: &AdminClient,
    mut left: VecDeque<ContentItem>,
    totals: &mut WarmTotals,
    bar: &ProgressBar,
) -> Result<(), CommandError> {
    let mut attempts = 0;
    while !left.is_empty() {
        let batch = next_batch(&mut left);
        if batch.is_empty() {
            totals.refused += 1;
            continue;
        }
        let done = bar.position();
        let (outcomes, stop) = match send(relay, &batch, |arrived| bar.set_position(done + arrived)) {
            Ok(answer) => answer,
            Err(CommandError::Failed(_)) if attempts < ATTEMPTS => {
                attempts += 1;
                batch.into_iter().rev().for_each(|item| left.push_front(item));
                sleep(RETRY);
                continue;
            }
            Err(error) => return Err(error.with_context("store warm: run it again to continue")),
        };
        attempts = 0;
        bar.set_position(done);
        let mut pending = Vec::new();
        for (item, outcome) in batch.into_iter().zip(outcomes) {
            if outcome == WarmOutcome::Pending {
                pending.push(item);
            } else {
                totals.add(&item, outcome, bar);
            }
        }
        pending.into_iter().rev().for_each(|item| left.push_front(item));
        let failing = || WarmStop::Failing { detail: "the log of the relay has the reasons".to_owned() };
        match stop.or_else(|| (totals.failures >= MAX_FAILURES).then(failing)) {
            None => bar.set_prefix("warming"),
            Some(WarmStop::WindowClosed { opens: Some(opens) }) => {
                let opens = Timestamp::from_millisecond(opens).unwrap_or_default();
                bar.set_prefix(format!("waiting for wan.windows until {opens}"));
                sleep(WINDOW_POLL);
            }
            Some(stop) => return Err(unreached(&stop, left.make_contiguous())),
        }
    }
    Ok(())
}

/// Takes the next objects from the list; none if the first one is too long for a request.
fn next_batch(left: &mut VecDeque<ContentItem>) -> Vec<ContentItem> {
    let (mut batch, mut bytes, mut text) = (Vec::new(), 0_u64, 0);
    while let Some(item) = left.front() {
        let length = serde_json::to_vec(item).map_or(BATCH_TEXT, |item| item.len() + 1);
        (bytes, text) = (bytes.saturating_add(item.bytes), text + length);
        let is_full = batch.len() == BATCH_OBJECTS || bytes > BATCH_BYTES && !batch.is_empty();
        if is_full || text > BATCH_TEXT {
            break;
        }
        batch.extend(left.pop_front());
    }
    if batch.is_empty() {
        left.pop_front();
    }
    batch
}

/// Sends one batch, and waits for its end. `observe` gets the bytes of it that have arrived.
fn send(
    relay: &AdminClient,
    batch: &[ContentItem],
    mut observe: impl FnMut(u64),
) -> Result<(Vec<WarmOutcome>, Option<WarmStop>), CommandError> {
    let lengths: HashMap<&str, u64> =
        batch.iter().map(|item| (split_key(&item.key).target, item.bytes)).collect();
    let body = serde_json::to_vec(&WarmRequest { objects: batch.to_vec() })
        .map_err(|error| CommandError::Failed(format!("store warm: cannot be written as JSON: {error}")))?;
    let (path, body) = ("/api/v1/store/warm", Bytes::from(body));
    let request = AdminRequest { method: Method::POST, path, body, max_response: MAX_RESPONSE };
    let answer = relay.send_beside(request, "/api/v1/fills", |fills| {
        let fills = serde_json::from_slice::<FillReport>(fills).unwrap_or_default().fills;
        let arrived = |path: &str, arrived: u64| lengths.get(path).map_or(0, |bytes| arrived.min(*bytes));
        observe(fills.iter().map(|fill| arrived(&fill.object, fill.arrived)).sum());
    });
    let address = relay.address();
    let (status, body) = answer.map_err(|error| {
        CommandError::Failed(format!(
            "admin address {address}: {error}: start the relay, or pass its --config or --admin"
        ))
    })?;
    if status != StatusCode::OK {
        let problem = serde_json::from_slice::<ProblemDocument>(&body).map(|problem| problem.detail);
        let text =
            problem.unwrap_or_else(|_| format!("answer {status}: it is of another version, or no gupd"));
        return Err(CommandError::Configuration(format!("refused by the relay at {address}: {text}")));
    }
    let report: WarmReport = serde_json::from_slice(&body).map_err(|error| relay.invalid_response(&error))?;
    Ok((report.outcomes, report.stop))
}

/// Returns the error for objects that were not reached.
fn unreached(stop: &WarmStop, left: &[ContentItem]) -> CommandError {
    let (objects, bytes) = (Quantity(left.len(), "object"), left.iter().map(|item| item.bytes).sum());
    let left = format!("{objects} left, {}", BinaryBytes(bytes));
    CommandError::Failed(match stop {
        WarmStop::StoreFull => {
            format!("store warm: the store is full: {left}: raise store.quota, or pass a shorter --since")
        }
        WarmStop::StoreDegraded { detail } => {
            format!("store warm: {detail}: {left}: repair the disk, run it again")
        }
        WarmStop::WindowClosed { .. } => format!("store warm: wan.windows never open: {left}"),
        WarmStop::Failing { detail } => {
            format!(
                "store warm: {MAX_FAILURES} objects in a row failed: {detail}: {left}: run it again later"
            )
        }
    })
}

impl WarmTotals {
    fn add(&mut self, item: &ContentItem, outcome: WarmOutcome, bar: &ProgressBar) {
        bar.inc(item.bytes);
        self.failures = if outcome == WarmOutcome::Failed { self.failures + 1 } else { 0 };
        match outcome {
            WarmOutcome::Fetched => {
                self.fetched += 1;
                self.bytes = self.bytes.saturating_add(item.bytes);
            }
            WarmOutcome::Present => self.present += 1,
            WarmOutcome::Absent => self.absent += 1,
            WarmOutcome::Refused => self.refused += 1,
            WarmOutcome::Failed => self.failed += 1,
            WarmOutcome::Pending => {}
        }
    }

    fn line(&self) -> String {
        let fetched = format!("warmed {}, {}", Quantity(self.fetched, "object"), BinaryBytes(self.bytes));
        let present = format!("; {} already stored", HumanCount(self.present));
        let others = [
            (self.absent, "no longer upstream"),
            (self.refused, "not for this relay"),
            (self.failed, "failed"),
        ];
        let others = others.iter().filter(|(count, _)| *count > 0);
        let others = others.map(|(count, what)| format!("; {} {what}", HumanCount(*count)));
        std::iter::once(fetched).chain([present]).chain(others).collect()
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "objects": self.fetched,
            "bytes": self.bytes,
            "skipped": self.present,
            "absent": self.absent,
            "refused": self.refused,
            "failed": self.failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str, bytes: u64) -> ContentItem {
        ContentItem { key: format!("/ {path}"), path: None, bytes, last_used: 0, catalog: false }
    }

    #[test]
    fn batches_are_bounded_by_objects_bytes_and_text() {
        let sizes = |items: Vec<ContentItem>| {
            let mut left = VecDeque::from(items);
            let mut sizes = Vec::new();
            while !left.is_empty() {
                sizes.push(next_batch(&mut left).len());
            }
            sizes
        };
        assert_eq!(sizes(vec![item("/a", 1); 130]), [64, 64, 2]);
        assert_eq!(sizes(vec![item("/a", 3 << 20); 5]), [2, 2, 1]);
        assert_eq!(sizes(vec![item("/a", 1), item("/b", 1 << 40), item("/c", 1)]), [1, 1, 1]);
        let long = "/x".repeat(2_000);
        assert_eq!(sizes(vec![item(&long, 1); 5]), [3, 2]);
        assert_eq!(sizes(vec![item(&"/x".repeat(10_000), 1), item("/a", 1)]), [0, 1], "one is left out");
    }

    #[test]
    fn totals_name_only_outcomes_that_occurred() {
        let mut totals = WarmTotals::default();
        let bar = ProgressBar::hidden();
        for outcome in [WarmOutcome::Fetched, WarmOutcome::Present, WarmOutcome::Fetched] {
            totals.add(&item("/a", 1 << 20), outcome, &bar);
        }
        assert_eq!(totals.line(), "warmed 2 objects, 2.00 MiB; 1 already stored");
        for outcome in [WarmOutcome::Absent, WarmOutcome::Refused, WarmOutcome::Failed] {
            totals.add(&item("/a", 1), outcome, &bar);
        }
        assert!(totals.line().ends_with("; 1 no longer upstream; 1 not for this relay; 1 failed"));
        assert_eq!((totals.failures, bar.position()), (1, (3 << 20) + 3));
    }
}
