//! The output of the demo: progress (bars on a terminal, plain lines elsewhere) and then a table of at most 80 columns.
//! Its numbers are measured at the line and the clients; computed ones, and those of the relay, are marked as such.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{DecimalBytes, MultiProgress, ProgressBar, ProgressStyle};

use gupd_config::Quantity;
use gupd_site::Line;
use gupd_site::update::{Answers, UpdateFailure, UpdateOutcome};

/// Interval of progress bars.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// Interval of plain lines: about a dozen in all.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum failures listed under the table; the rest is counted.
const MAX_FAILURES: usize = 3;

/// State of the clients at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    /// Time since the start.
    pub(super) elapsed: Duration,
    /// Clients that are done.
    pub(super) done: usize,
    /// Body bytes that clients received.
    pub(super) received: u64,
    /// Bytes that the line sent to the relay.
    pub(super) crossed: u64,
}

/// Totals that the clients will reach.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal {
    /// Number of clients.
    pub(super) clients: usize,
    /// Body bytes of all sessions.
    pub(super) bytes: u64,
    /// Body bytes of all sessions with each object counted once.
    pub(super) distinct_bytes: u64,
}

/// Progress on standard error. Dropping it removes the bars.
#[derive(Debug)]
pub(super) struct DemoProgress {
    goal: Goal,
    output: ProgressOutput,
}

#[derive(Debug)]
enum ProgressOutput {
    Bars { all: MultiProgress, clients: ProgressBar, got: ProgressBar, crossed: ProgressBar },
    Lines,
}

impl DemoProgress {
    /// Shows bars if standard error is a terminal, else lines.
    pub(super) fn new(goal: Goal) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { goal, output: ProgressOutput::Lines };
        }
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("  {prefix:<16}{bar:28} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |name: &'static str, length: u64| {
            all.add(ProgressBar::new(length).with_style(style.clone()).with_prefix(name))
        };
        let clients = bar("clients done", goal.clients as u64);
        let got = bar("clients got", goal.bytes);
        let crossed = bar("crossed the WAN", goal.distinct_bytes);
        Self { goal, output: ProgressOutput::Bars { all, clients, got, crossed } }
    }

    /// Returns the interval at which to call [`DemoProgress::show`].
    pub(super) fn interval(&self) -> Duration {
        match self.output {
            ProgressOutput::Bars { .. } => BAR_INTERVAL,
            ProgressOutput::Lines => LINE_INTERVAL,
        }
    }

    /// Shows a state.
    pub(super) fn show(&self, now: Snapshot) {
        let (crossed_bytes, got_bytes) = (DecimalBytes(now.crossed), DecimalBytes(now.received));
        let Goal { clients: of, bytes, distinct_bytes } = self.goal;
        match &self.output {
            ProgressOutput::Bars { clients, got, crossed, .. } => {
                clients.set_message(format!("{} of {of}", now.done));
                got.set_message(format!("{got_bytes} of {}", DecimalBytes(bytes)));
                // HTTP heads count too, so the bar may be full a little early.
                crossed.set_message(format!("{crossed_bytes} of about {}", DecimalBytes(distinct_bytes)));
                clients.set_position(now.done as u64);
                got.set_position(now.received);
                crossed.set_position(now.crossed.min(distinct_bytes));
            }
            ProgressOutput::Lines => {
                let (seconds, clients) = (now.elapsed.as_secs(), Quantity(of, "client"));
                // A closed standard error must not stop the demo.
                let _ = writeln!(
                    std::io::stderr(),
                    "  {seconds:>3} s: {} of {clients} done, got {got_bytes}; {crossed_bytes} crossed the WAN",
                    now.done,
                );
            }
        }
    }
}

impl Drop for DemoProgress {
    fn drop(&mut self) {
        if let ProgressOutput::Bars { all, .. } = &self.output {
            let _ = all.clear();
        }
    }
}

/// All measurements; its `Display` is the table.
#[derive(Debug)]
pub(super) struct DemoReport {
    /// Totals of the clients.
    pub(super) goal: Goal,
    /// The line.
    pub(super) line: Line,
    /// State when the last client was done.
    pub(super) end: Snapshot,
    /// Bytes that the line sent to the manager.
    pub(super) crossed_up: u64,
    /// Outcomes of the clients in the order of their ends.
    pub(super) outcomes: Vec<UpdateOutcome>,
    /// Session of one client repeated over the idle line without the relay.
    pub(super) control: Option<UpdateOutcome>,
}

impl DemoReport {
    /// Returns the failed clients and their errors.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&str, &UpdateFailure)> {
        self.outcomes.iter().filter_map(|outcome| {
            outcome.result.as_ref().err().map(|failure| (outcome.name.as_str(), failure))
        })
    }

    /// Returns the rate of the line in Mbit/s.
    pub(super) fn megabits(&self) -> u64 {
        self.line.bits_per_second / 1_000_000
    }

    /// Returns the measurements: name, value, remark.
    pub(super) fn rows(&self) -> Vec<(&'static str, String, String)> {
        let Snapshot { elapsed, received: got, crossed, .. } = self.end;
        let right = self.outcomes.len() - self.failures().count();
        let (rate, answers) = (self.megabits(), self.answers());
        let ratio = got as f64 / crossed.max(1) as f64;
        let up = bytes(self.crossed_up);
        let mut rows = vec![
            (
                "clients updated",
                format!("{right} of {}", self.goal.clients),
                "every byte checked by SHA-256".to_owned(),
            ),
            ("clients got", bytes(got), format!("in {}", Quantity(answers.total(), "response"))),
            ("crossed the WAN", bytes(crossed), format!("and {up} up, HTTP heads included")),
            ("each object once", bytes(self.goal.distinct_bytes), "the least that could cross".to_owned()),
            ("ratio", format!("{ratio:.1} x"), "received / crossed".to_owned()),
            ("all clients done after", time(elapsed), format!("behind {rate} Mbit/s")),
        ];
        let mut by_time: Vec<_> = self.outcomes.iter().collect();
        by_time.sort_by_key(|outcome| outcome.took);
        if let (Some(median), Some(slowest)) = (by_time.get(by_time.len() / 2), by_time.last()) {
            rows.push(("median client", time(median.took), String::new()));
            rows.push(("slowest client", time(slowest.took), slowest.name.clone()));
        }
        let note = format!("computed: all bytes at {rate} Mbit/s");
        rows.push(("without the relay", time(self.line.time_for(got)), note));
        if let Some(control) = &self.control {
            let note = match &control.result {
                Ok(()) => format!("measured: {} over the idle line", bytes(control.bytes)),
                Err(_) => "failed".to_owned(),
            };
            rows.push(("one client without it", time(control.took), note));
        }
        if answers.silent < answers.total() {
            let Answers { hit, collapsed, forwarded, .. } = answers;
            let others = format!("{collapsed} joined a fill, {forwarded} forwarded");
            rows.push(("reported by the relay", Quantity(hit, "hit").to_string(), others));
        }
        rows
    }

    fn answers(&self) -> Answers {
        self.outcomes.iter().fold(Answers::default(), |sum, outcome| sum.plus(outcome.answers))
    }
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value, note) in self.rows() {
            writeln!(f, "{}", format!("  {name:<23}{value:>12}   {note}").trim_end())?;
        }
        for (name, failure) in self.failures().take(MAX_FAILURES) {
            writeln!(f, "  failed: {name}: {failure}")?;
        }
        match self.failures().count().saturating_sub(MAX_FAILURES) {
            0 => Ok(()),
            more => writeln!(f, "  and {} failed", Quantity(more, "more client")),
        }
    }
}

fn bytes(count: u64) -> String {
    DecimalBytes(count).to_string()
}

fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 100.0 {
        return format!("{seconds:.2} s");
    }
    let whole = seconds.round() as u64;
    format!("{} min {:02} s", whole / 60, whole % 60)
}

#[cfg(test)]
mod tests {
    use gupd_site::update::ResponseFault;
    use http::StatusCode;

    use super::*;

    fn outcome(name: &str, took: u64, result: Result<(), UpdateFailure>) -> UpdateOutcome {
        let answers = Answers { hit: 1_000, collapsed: 200, forwarded: 10, silent: 0 };
        UpdateOutcome {
            name: name.to_owned(),
            took: Duration::from_millis(took),
            bytes: 329_211,
            answers,
            result,
        }
    }

    fn report(outcomes: Vec<UpdateOutcome>) -> DemoReport {
        DemoReport {
            goal: Goal { clients: outcomes.len(), bytes: 500_000_000, distinct_bytes: 24_900_000 },
            line: super::super::run::LINE,
            end: Snapshot {
                elapsed: Duration::from_millis(21_340),
                done: outcomes.len(),
                received: 500_000_000,
                crossed: 25_000_000,
            },
            crossed_up: 210_000,
            outcomes,
            control: Some(outcome("client 1, SyLink, one behind", 450, Ok(()))),
        }
    }

    #[test]
    fn table_has_measured_and_computed_values() {
        let table = report(vec![
            outcome("client 2, LiveUpdate, Linux", 20_900, Ok(())),
            outcome("client 1, SyLink, one behind", 4_000, Ok(())),
        ])
        .to_string();
        for line in [
            "  clients updated              2 of 2   every byte checked by SHA-256",
            "  clients got               500.00 MB   in 2,420 responses",
            "  crossed the WAN            25.00 MB   and 210.00 kB up, HTTP heads included",
            "  ratio                        20.0 x   received / crossed",
            "  slowest client              20.90 s   client 2, LiveUpdate, Linux",
            "  without the relay        6 min 40 s   computed: all bytes at 10 Mbit/s",
            "  reported by the relay    2,000 hits   400 joined a fill, 20 forwarded",
        ] {
            assert!(table.lines().any(|row| row == line), "no line {line:?} in\n{table}");
        }
        assert!(!table.contains("failed"));
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    }

    #[test]
    fn failed_clients_are_counted_and_the_first_listed() {
        let failed = |number: usize| {
            let fault = ResponseFault::Status(StatusCode::GATEWAY_TIMEOUT, StatusCode::OK);
            outcome(&format!("client {number}"), 1, Err(UpdateFailure { path: "/x".to_owned(), fault }))
        };
        let table = report((1..=5).map(failed).collect()).to_string();
        assert!(table.contains("0 of 5"));
        assert!(
            table.contains("  failed: client 1: /x: status 504 Gateway Timeout, the manager's is 200 OK\n")
        );
        assert!(table.ends_with("and 2 more clients failed\n"), "{table}");
    }
}
