//! `gupd top`: a live table of clients, fills and rates. `view` makes the table from what the relay reports, `keys` changes
//! its order and filter, and this file draws it. Without a terminal, or with --once, one table is printed.

mod keys;
mod view;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};
use ratatui::{DefaultTerminal, Frame};
use serde::de::DeserializeOwned;

use self::keys::{KeyOutcome, TopState};
use self::view::{TopReport, TopTable, heading};
use super::admin_client::{AdminClient, AdminRequest};
use super::table;
use super::{AdminFlags, CommandError, print_line};

/// Time between two requests for reports.
const INTERVAL: Duration = Duration::from_secs(2);

/// Time-out of a request: the keys must answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum bytes of a report: 50,000 clients.
const MAX_RESPONSE: usize = 64 << 20;

/// Flags of `gupd top`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gupd top\n  gupd top --once\n  gupd top --once --fills --filter full.zip\n\n\
                        Keys: q quit, Tab clients or fills, s sort by the next column, r reverse, / filter, arrows move."
)]
pub(super) struct TopFlags {
    #[command(flatten)]
    admin: AdminFlags,
    /// Print one table and exit.
    #[arg(long)]
    once: bool,
    /// Begin with the fills.
    #[arg(long)]
    fills: bool,
    /// Only rows with this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

pub(super) fn run(flags: &TopFlags) -> Result<(), CommandError> {
    let admin = flags.admin.client_for_reading()?;
    let mut state = TopState::new(flags.fills, flags.filter.clone());
    if flags.once || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let report = fetch(&admin).map_err(CommandError::Failed)?;
        print_line(&once(&report, &state));
        return Ok(());
    }
    let mut terminal =
        ratatui::try_init().map_err(|error| CommandError::Failed(format!("terminal: {error}")))?;
    let shown = show(&mut terminal, &admin, &mut state);
    ratatui::restore();
    shown.map_err(|error| CommandError::Failed(format!("terminal: {error}")))
}

/// Returns heading and table as text.
fn once(report: &TopReport, state: &TopState) -> String {
    let shown = TopTable::new(report, None, state);
    let mut printed = table::new(&shown.headings, shown.numbers);
    printed.add_rows(&shown.rows);
    format!("{}\n\n{}", heading(report), table::text(&printed))
}

/// Draws until the user quits. A relay that does not answer is named, and asked again.
fn show(terminal: &mut DefaultTerminal, admin: &AdminClient, state: &mut TopState) -> io::Result<()> {
    let mut reports: [Option<TopReport>; 2] = [None, None];
    let mut due = Instant::now();
    let mut failure = None;
    loop {
        if Instant::now() >= due {
            due = Instant::now() + INTERVAL;
            match fetch(admin) {
                Ok(report) => {
                    failure = None;
                    reports.swap(0, 1);
                    reports[1] = Some(report);
                }
                Err(error) => failure = Some(error),
            }
        }
        let [before, now] = &reports;
        let shown = now.as_ref().map(|now| (heading(now), TopTable::new(now, before.as_ref(), state)));
        state.clamp(shown.as_ref().map_or(0, |(_, table)| table.rows.len()));
        terminal.draw(|frame| draw(frame, shown.as_ref(), state, failure.as_deref()))?;
        if !event::poll(due.saturating_duration_since(Instant::now()))? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && state.press(key.code, key.modifiers) == KeyOutcome::Quit
        {
            return Ok(());
        }
    }
}

fn draw(frame: &mut Frame<'_>, shown: Option<&(String, TopTable)>, state: &TopState, failure: Option<&str>) {
    let parts: [Rect; 3] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    let heading = failure.or_else(|| shown.map(|(heading, _)| &**heading)).unwrap_or("asking the relay …");
    frame.render_widget(Paragraph::new(Text::from(heading)), parts[0]);
    if let Some((_, shown)) = shown {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let titles = shown.headings.iter().enumerate().map(|(column, title)| {
            let mark = if column == shown.sorted_by { " ▾" } else { "" };
            Cell::from(format!("{title}{mark}"))
        });
        let rows = shown.rows.iter().map(|row| {
            Row::new(row.iter().enumerate().map(|(column, cell)| {
                let line = Line::from(&**cell);
                Cell::from(if shown.numbers.contains(&column) { line.right_aligned() } else { line })
            }))
        });
        let table = Table::new(rows, shown.widths())
            .header(Row::new(titles).style(bold))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut position = TableState::new().with_selected(Some(state.selected));
        frame.render_stateful_widget(table, parts[1], &mut position);
    }
    frame.render_widget(Paragraph::new(state.help()), parts[2]);
}

/// Gets what the table shows. An error is one line.
fn fetch(admin: &AdminClient) -> Result<TopReport, String> {
    let clients = match get(admin, "/api/v1/rollout/clients")? {
        (StatusCode::OK, body) => Ok(parse(&body)?),
        (StatusCode::NOT_FOUND, _) => Err("clients are not tracked: there are no rings"),
        (_, _) => Err("the list of clients needs the admin token: use sudo, or pass the relay's --config"),
    };
    let ask = |path| match get(admin, path)? {
        (StatusCode::OK, body) => Ok(body),
        (status, body) => Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&body).trim())),
    };
    let status = parse(&ask("/api/v1/status")?)?;
    let fills = parse(&ask("/api/v1/fills")?)?;
    Ok(TopReport { at: Instant::now(), status, fills, clients })
}

fn get(admin: &AdminClient, path: &str) -> Result<(StatusCode, Bytes), String> {
    let request = AdminRequest { method: Method::GET, path, body: Bytes::new(), max_response: MAX_RESPONSE };
    admin.try_send(request, TIMEOUT).map_err(|error| {
        format!(
            "admin address {}: {error}: start the relay, or pass its --config or --admin",
            admin.address()
        )
    })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("unexpected response: {error}: check --admin and the version of the relay"))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::view::sample;
    use super::*;

    #[test]
    fn screen_has_heading_table_and_keys() {
        let (report, state) = (sample::report(), TopState::new(false, String::new()));
        let shown = (heading(&report), TopTable::new(&report, None, &state));
        let mut terminal = Terminal::new(TestBackend::new(100, 12)).unwrap();
        terminal.draw(|frame| draw(frame, Some(&shown), &state, None)).unwrap();
        let text = terminal.backend().to_string();
        for expected in ["WAN", "CLIENT", "10.0.0.7", "q quit"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        terminal.draw(|frame| draw(frame, Some(&shown), &state, Some("relay is away"))).unwrap();
        assert!(terminal.backend().to_string().contains("relay is away"));
    }

    #[test]
    fn one_table_is_printed_without_a_terminal() {
        let mut report = sample::report();
        let text = once(&report, &TopState::new(true, String::new()));
        assert!(text.contains("OBJECT") && text.contains("/content/full.zip"), "{text}");
        report.clients = Err("clients are not tracked");
        let text = once(&report, &TopState::new(false, String::new()));
        assert!(text.contains("clients are not tracked"), "{text}");
    }
}
