//! Starts the program and watches it: its lines as they come, its end, its memory. Nothing outlives its test, and
//! every wait has an end.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

pub(crate) use crate::support::PATIENCE;
use crate::support::{Manager, Response, get};

/// The program with these arguments and no settings from the tests' own environment.
pub(crate) fn gupd<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gupd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GUPD_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

/// `gupd serve` on free ports, with this manager and this store.
pub(crate) fn serve(manager: &Manager, store: &Path) -> Command {
    let mut command = gupd(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--upstream", &manager.url(), "--store"]).arg(store).env("GUPD_STORE_MIN_FREE", "0");
    command
}

/// A running process.
pub(crate) struct Process {
    child: Child,
    output: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    lines: Vec<String>,
}

/// A process that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Standard output, all of it.
    pub(crate) lines: Vec<String>,
    /// Standard error.
    pub(crate) errors: String,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, output) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut stderr = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut errors = String::new();
            stderr.read_to_string(&mut errors).unwrap();
            errors
        });
        Self { child, output, errors: Some(errors), lines: Vec::new() }
    }

    /// Waits for the next line that fits; `None` if the process ends without one.
    pub(crate) fn wait_for_line(&mut self, fits: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.lines.push(line.clone());
                    if fits(&line) {
                        return Some(line);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the line never came, but these did: {:#?}", self.lines)
                }
            }
        }
    }

    /// Waits for a line of the JSON log with this message.
    pub(crate) fn wait_for_log(&mut self, message: &str) -> Value {
        let line = self.wait_for_line(|line| parse_line(line)["message"] == message);
        parse_line(&line.unwrap_or_else(|| panic!("ended without logging {message:?}: {:#?}", self.lines)))
    }

    /// Waits for a line of the JSON log with this message unless there was one already.
    pub(crate) fn logged_once(&mut self, message: &str) -> Value {
        let earlier = self.lines.iter().map(|line| parse_line(line)).find(|line| line["message"] == message);
        earlier.unwrap_or_else(|| self.wait_for_log(message))
    }

    /// How many of the lines so far had this message.
    pub(crate) fn count_log(&self, message: &str) -> usize {
        self.lines.iter().filter(|line| parse_line(line)["message"] == message).count()
    }

    /// Those of them that are warnings or errors.
    pub(crate) fn warnings(&self) -> Vec<&String> {
        let is_one = |line: &&String| matches!(parse_line(line)["level"].as_str(), Some("WARN" | "ERROR"));
        self.lines.iter().filter(is_one).collect()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait_for_exit(mut self) -> Ended {
        assert_eq!(self.wait_for_line(|_| false), None);
        Ended {
            status: self.child.wait().unwrap(),
            lines: std::mem::take(&mut self.lines),
            errors: self.errors.take().unwrap().join().unwrap(),
        }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Bytes of memory it had at its largest so far.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Ended {
    /// It failed with this status and said exactly one line, which has all of these words; nothing else was written.
    pub(crate) fn assert_error(&self, status: i32, words: &[&str]) {
        assert!(self.lines.is_empty(), "{self:#?}");
        assert_eq!(self.status.code(), Some(status), "{self:#?}");
        assert!(self.errors.starts_with("gupd: ") && self.errors.ends_with('\n'), "{self:#?}");
        assert_eq!(self.errors.lines().count(), 1, "{self:#?}");
        for word in words {
            assert!(self.errors.contains(word), "no {word:?} in {self:#?}");
        }
    }
}

/// A process that serves.
pub(crate) struct Relay {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Relay {
    /// Starts `command` and waits until its JSON log says that it serves, and where.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = Process::start(command);
        let serving = process.wait_for_log("serving");
        let listen = serving["listen"].as_str().unwrap().trim_matches(['[', ']']);
        let first = listen.split(", ").next().unwrap().parse().unwrap();
        Self { process, address: first, admin: serving["admin"].as_str().unwrap().parse().unwrap() }
    }

    pub(crate) async fn get(&self, target: &str) -> Response {
        get(self.address, target).await
    }

    /// The exposition of its metrics.
    pub(crate) async fn metrics(&self) -> String {
        String::from_utf8(get(self.admin, "/metrics").await.expect_body()).unwrap()
    }

    /// Waits until no fill runs: what it leaves behind is there or gone then, and it is counted.
    pub(crate) async fn wait_for_fills(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.metrics().await.contains("gupd_fills_running 0\n") {
            assert!(Instant::now() < deadline, "a fill still runs");
        }
    }

    /// Asks until the answer comes from the store, which it is put into behind the last byte of the fill; and waits for
    /// the fill's end.
    pub(crate) async fn wait_until_stored(&self, target: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.get(target).await.cache_status().starts_with("gupd; hit") {
            if Instant::now() > deadline {
                let ready = String::from_utf8(get(self.admin, "/readyz").await.body).unwrap();
                panic!("{target} was never stored: {ready}");
            }
        }
        self.wait_for_fills().await;
    }
}

/// A line of the JSON log; null if it is none.
pub(crate) fn parse_line(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or(Value::Null)
}
