//! What the demo shows: progress while it runs (bars on a terminal, a plain line now and then elsewhere), then the
//! table. Owns the wording and the 80 columns. Every number comes from the line and the clients themselves; what is
//! computed or is the relay's own word is said to be.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{DecimalBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use gupd_site::Line;
use gupd_site::update::{Answers, Failure, Outcome};

/// How often bars move: quick enough to look alive.
const BARS_EVERY: Duration = Duration::from_millis(100);

/// How often a plain line is written: a dozen lines in all.
const LINES_EVERY: Duration = Duration::from_secs(2);

/// Failures written out under the table; the rest is counted.
const FAILURES_SHOWN: usize = 3;

/// How far the clients are.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Since the first client might begin.
    pub elapsed: Duration,
    /// Clients that ended.
    pub done: usize,
    /// Body bytes clients received.
    pub got: u64,
    /// Bytes the line sent towards the relay.
    pub crossed: u64,
}

/// How far they will be.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Clients.
    pub clients: usize,
    /// Body bytes of all sessions.
    pub bytes: u64,
    /// The same, each object once.
    pub distinct_bytes: u64,
}

/// Progress on standard error. Dropping it takes the bars away.
#[derive(Debug)]
pub struct Progress {
    goal: Goal,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Bars { all: MultiProgress, clients: ProgressBar, got: ProgressBar, crossed: ProgressBar },
    Lines,
}

impl Progress {
    /// Bars if standard error is a terminal, lines if it is not.
    pub fn towards(goal: Goal) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { goal, form: Form::Lines };
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
        Self { goal, form: Form::Bars { all, clients, got, crossed } }
    }

    /// How often to call [`Progress::show`].
    pub fn every(&self) -> Duration {
        match self.form {
            Form::Bars { .. } => BARS_EVERY,
            Form::Lines => LINES_EVERY,
        }
    }

    /// Shows `now`.
    pub fn show(&self, now: Snapshot) {
        let (crossed_bytes, got_bytes) = (DecimalBytes(now.crossed), DecimalBytes(now.got));
        let Goal { clients: of, bytes, distinct_bytes } = self.goal;
        match &self.form {
            Form::Bars { clients, got, crossed, .. } => {
                clients.set_message(format!("{} of {of}", now.done));
                got.set_message(format!("{got_bytes} of {}", DecimalBytes(bytes)));
                // Heads cross too, so that the bar may be full a moment early.
                crossed.set_message(format!("{crossed_bytes} of about {}", DecimalBytes(distinct_bytes)));
                clients.set_position(now.done as u64);
                got.set_position(now.got);
                crossed.set_position(now.crossed.min(distinct_bytes));
            }
            Form::Lines => {
                let seconds = now.elapsed.as_secs();
                // Progress nobody can read is no reason to stop.
                let _ = writeln!(
                    std::io::stderr(),
                    "  {seconds:>3} s: {} of {of} clients done, got {got_bytes}; {crossed_bytes} crossed the WAN",
                    now.done,
                );
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Form::Bars { all, .. } = &self.form {
            let _ = all.clear();
        }
    }
}

/// Everything measured; its `Display` is the table.
#[derive(Debug)]
pub struct Report {
    /// What the clients were to get.
    pub goal: Goal,
    /// The line they were behind.
    pub line: Line,
    /// When the last of them was done, and what they and the line had counted then.
    pub end: Snapshot,
    /// Bytes the line sent towards the manager.
    pub crossed_up: u64,
    /// The clients, in the order they ended.
    pub outcomes: Vec<Outcome>,
    /// One client's session repeated straight over the idle line, without the relay.
    pub control: Option<Outcome>,
}

impl Report {
    /// The clients that did not get what the manager has, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &Failure)> {
        self.outcomes.iter().filter_map(|outcome| {
            outcome.result.as_ref().err().map(|failure| (outcome.name.as_str(), failure))
        })
    }

    fn answers(&self) -> Answers {
        self.outcomes.iter().fold(Answers::default(), |sum, outcome| sum.plus(outcome.answers))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String, note: String| {
            writeln!(f, "{}", format!("  {name:<23}{value:>12}   {note}").trim_end())
        };
        let Snapshot { elapsed, got, crossed, .. } = self.end;
        let right = self.outcomes.len() - self.failures().count();
        let rate = self.line.bits_per_second / 1_000_000;
        let answers = self.answers();

        row(
            "clients updated",
            format!("{right} of {}", self.goal.clients),
            "every byte checked by SHA-256".into(),
        )?;
        row("clients got", bytes(got), format!("in {} responses", HumanCount(answers.total() as u64)))?;
        row(
            "crossed the WAN",
            bytes(crossed),
            format!("and {} up, HTTP heads included", bytes(self.crossed_up)),
        )?;
        row("each object once", bytes(self.goal.distinct_bytes), "the least that could cross".into())?;
        let ratio = got as f64 / crossed.max(1) as f64;
        row("ratio", format!("{ratio:.1} x"), "got / crossed".into())?;
        row("all clients done after", time(elapsed), format!("behind {rate} Mbit/s"))?;
        let mut by_time: Vec<_> = self.outcomes.iter().collect();
        by_time.sort_by_key(|outcome| outcome.took);
        if let (Some(median), Some(slowest)) = (by_time.get(by_time.len() / 2), by_time.last()) {
            row("median client", time(median.took), String::new())?;
            row("slowest client", time(slowest.took), slowest.name.clone())?;
        }
        row(
            "without the relay",
            time(self.line.time_for(got)),
            format!("computed: bytes got at {rate} Mbit/s"),
        )?;
        if let Some(control) = &self.control {
            let note = match &control.result {
                Ok(()) => format!("measured: {} over the idle line", bytes(control.bytes)),
                Err(_) => "failed".to_owned(),
            };
            row("one client without it", time(control.took), note)?;
        }
        if answers.silent < answers.total() {
            let Answers { hit, collapsed, forwarded, .. } = answers;
            let others = format!("{collapsed} joined a fill, {forwarded} forwarded");
            row("the relay says", format!("{} hits", HumanCount(hit as u64)), others)?;
        }
        for (name, failure) in self.failures().take(FAILURES_SHOWN) {
            writeln!(f, "  failed: {name}: {failure}")?;
        }
        match self.failures().count().saturating_sub(FAILURES_SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more clients failed"),
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
    use gupd_site::update::Fault;
    use http::StatusCode;

    use super::*;

    fn outcome(name: &str, took: u64, result: Result<(), Failure>) -> Outcome {
        let answers = Answers { hit: 1_000, collapsed: 200, forwarded: 10, silent: 0 };
        Outcome { name: name.to_owned(), took: Duration::from_millis(took), bytes: 329_211, answers, result }
    }

    fn report(outcomes: Vec<Outcome>) -> Report {
        Report {
            goal: Goal { clients: outcomes.len(), bytes: 500_000_000, distinct_bytes: 24_900_000 },
            line: super::super::LINE,
            end: Snapshot {
                elapsed: Duration::from_millis(21_340),
                done: outcomes.len(),
                got: 500_000_000,
                crossed: 25_000_000,
            },
            crossed_up: 210_000,
            outcomes,
            control: Some(outcome("client 1, SyLink, one behind", 450, Ok(()))),
        }
    }

    #[test]
    fn the_table_says_what_was_measured_and_what_it_would_have_been() {
        let table = report(vec![
            outcome("client 2, LiveUpdate, Linux", 20_900, Ok(())),
            outcome("client 1, SyLink, one behind", 4_000, Ok(())),
        ])
        .to_string();
        for line in [
            "  clients updated              2 of 2   every byte checked by SHA-256",
            "  clients got               500.00 MB   in 2,420 responses",
            "  crossed the WAN            25.00 MB   and 210.00 kB up, HTTP heads included",
            "  ratio                        20.0 x   got / crossed",
            "  slowest client              20.90 s   client 2, LiveUpdate, Linux",
            "  without the relay        6 min 40 s   computed: bytes got at 10 Mbit/s",
            "  the relay says           2,000 hits   400 joined a fill, 20 forwarded",
        ] {
            assert!(table.lines().any(|row| row == line), "no line {line:?} in\n{table}");
        }
        assert!(!table.contains("failed"));
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    }

    #[test]
    fn failed_clients_are_counted_and_the_first_of_them_named() {
        let failed = |number: usize| {
            let fault = Fault::Status(StatusCode::GATEWAY_TIMEOUT, StatusCode::OK);
            outcome(&format!("client {number}"), 1, Err(Failure { path: "/x".to_owned(), fault }))
        };
        let table = report((1..=5).map(failed).collect()).to_string();
        assert!(table.contains("0 of 5"));
        assert!(
            table.contains("  failed: client 1: /x: status 504 Gateway Timeout, the manager's is 200 OK\n")
        );
        assert!(table.ends_with("and 2 more clients failed\n"), "{table}");
    }
}
