//! Order and promptness of the lines of real threads, in each format.

use std::sync::mpsc::{Receiver, Sender, channel};

use tracing::Dispatch;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::log::json::{self, JsonFormat};
use crate::log::{ANSI_COLUMN, TEXT_COLUMN};

/// Longest wait for output.
const PATIENCE: Duration = Duration::from_secs(30);

/// An interval that never passes.
const NEVER: Duration = Duration::from_secs(3600);

struct CapturedOutput(Sender<String>);

impl Write for CapturedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _gone = self.0.send(String::from_utf8(bytes.to_vec()).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Json,
    Text,
    Ansi,
}

impl Form {
    const ALL: [Self; 3] = [Self::Json, Self::Text, Self::Ansi];

    fn column(self) -> usize {
        match self {
            Self::Json => json::COLUMN,
            Self::Text => TEXT_COLUMN,
            Self::Ansi => ANSI_COLUMN,
        }
    }

    fn start(self, interval: Duration) -> (Dispatch, LogWriter, LogGuard, Receiver<String>) {
        let (sender, output) = channel();
        let (writer, guard) = start(self.column(), interval, CapturedOutput(sender)).unwrap();
        let layer = tracing_subscriber::fmt::layer().with_writer(writer.clone()).with_timer(writer.timer());
        let registry = tracing_subscriber::registry();
        let dispatch = match self {
            Self::Json => Dispatch::new(registry.with(layer.event_format(JsonFormat::new(writer.timer())))),
            Self::Text | Self::Ansi => Dispatch::new(registry.with(layer.with_ansi(self == Self::Ansi))),
        };
        (dispatch, writer, guard, output)
    }
}

/// Logs in a new thread: a thread keeps the buffer of its first writer.
fn log_in_thread(dispatch: &Dispatch, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let dispatch = dispatch.clone();
    std::thread::spawn(move || tracing::dispatcher::with_default(&dispatch, work))
}

#[test]
fn lines_of_many_threads_are_in_order_of_time() {
    for form in Form::ALL {
        let (dispatch, _, guard, output) = form.start(Duration::from_millis(1));
        let threads: Vec<_> = (0..16_u64)
            .map(|thread| {
                log_in_thread(&dispatch, move || {
                    for line in 0..1_000_u64 {
                        match line % 100 {
                            0 => tracing::warn!(thread, line, "urgent"),
                            _ => tracing::info!(thread, line, padding = &*"x".repeat(300), "line"),
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(guard);
        let text: String = output.try_iter().collect();
        let column = form.column();
        let times: Vec<&str> = text.lines().map(|line| &line[column..column + 27]).collect();
        assert_eq!(times.len(), 16_000, "{form:?}");
        assert!(
            times.iter().all(|time| time.starts_with("20") && time.ends_with('Z')),
            "{form:?}: {}",
            times[0]
        );
        assert!(times.is_sorted(), "{form:?}");
    }
}

#[test]
fn warning_and_error_are_written_at_once_after_older_lines() {
    for form in Form::ALL {
        let (dispatch, _, guard, output) = form.start(NEVER);
        for level in ["warning", "error"] {
            log_in_thread(&dispatch, || tracing::info!("older")).join().unwrap();
            let urgent = log_in_thread(&dispatch, move || match level {
                "warning" => tracing::warn!("warning"),
                _ => tracing::error!("error"),
            });
            urgent.join().unwrap();
            let mut text = String::new();
            while !text.contains(level) {
                text += &output.recv_timeout(PATIENCE).unwrap();
            }
            assert!(text.find("older") < text.find(level), "{form:?}: {text}");
        }
        drop(guard);
    }
}

#[test]
fn full_buffer_wakes_the_writer() {
    let (dispatch, _, _guard, output) = Form::Json.start(NEVER);
    tracing::dispatcher::with_default(&dispatch, || {
        for _ in 0..3 {
            tracing::info!(padding = &*"x".repeat(WAKE_BYTES / 2), "line");
        }
    });
    assert!(output.recv_timeout(PATIENCE).unwrap().contains("padding"));
}

#[test]
fn line_in_progress_holds_later_lines_of_other_threads() {
    let (dispatch, writer, guard, output) = Form::Json.start(NEVER);
    let (begun, wait_for_begin) = channel();
    let (end, wait_for_end) = channel::<()>();
    let slow = std::thread::spawn(move || {
        let mut line = "{\"timestamp\":\"".to_owned();
        writer.timer().format_time(&mut format::Writer::new(&mut line)).unwrap();
        begun.send(()).unwrap();
        wait_for_end.recv().unwrap();
        writer.make_writer().write_all((line + "\",\"slow\":true}\n").as_bytes()).unwrap();
    });
    wait_for_begin.recv().unwrap();
    tracing::dispatcher::with_default(&dispatch, || tracing::error!("fast"));
    end.send(()).unwrap();
    slow.join().unwrap();
    let text = output.recv_timeout(PATIENCE).unwrap();
    drop(guard);
    let text = output.try_iter().fold(text, |all, more| all + &more);
    assert!(text.find("slow").unwrap() < text.find("fast").unwrap(), "{text}");
}

#[test]
fn thread_stopped_in_a_line_delays_others_for_a_bounded_time() {
    let (dispatch, writer, _guard, output) = Form::Json.start(NEVER);
    let (stop, wait_for_stop) = channel::<()>();
    let (begun, wait_for_begin) = channel();
    let stopped = std::thread::spawn(move || {
        writer.timer().format_time(&mut format::Writer::new(&mut String::new())).unwrap();
        begun.send(()).unwrap();
        let _until_the_end = wait_for_stop.recv();
    });
    wait_for_begin.recv().unwrap();
    tracing::dispatcher::with_default(&dispatch, || tracing::error!("fast"));
    assert!(output.recv_timeout(PATIENCE).unwrap().contains("fast"));
    drop(stop);
    stopped.join().unwrap();
}
