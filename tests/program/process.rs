//! Runs the program and observes it: log lines, exit, memory. A process ends with its test, and each wait has a
//! timeout.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpStream;

pub(crate) use crate::support::PATIENCE;
use crate::support::{Manager, Response, get};

/// The program with these arguments, without settings from the environment of the tests or from `/etc`.
pub(crate) fn gupd<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gupd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GUPD_") {
            command.env_remove(name);
        }
    }
    command.args(["--default-config", "/nonexistent/gupd.toml"]).args(arguments);
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

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// All of standard output.
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

    /// Waits for the next line that `fits`; `None` if the process ends first.
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
                    panic!("the expected line never came: {:#?}", self.lines)
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

    /// Number of lines with this message so far.
    pub(crate) fn count_log(&self, message: &str) -> usize {
        self.lines.iter().filter(|line| parse_line(line)["message"] == message).count()
    }

    /// Warnings and errors among the lines so far.
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

    /// Kills the process, as in a crash.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Peak resident memory in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Processor time of all its threads: what they compute, however busy the machine is.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name in parentheses may contain spaces. Behind it, user and system time are the twelfth and thirteenth
        // field, in hundredths of a second.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let hundredths = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        Duration::from_millis(10 * hundredths.sum::<u64>())
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        value.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            self.lines.extend(self.output.iter());
            println!("log of the process: {:#?}", self.lines);
        }
    }
}

impl Ended {
    /// Asserts that the process failed with this status and wrote exactly one line of error, which contains these
    /// words, and no output but warnings about the configuration.
    pub(crate) fn assert_error(&self, status: i32, words: &[&str]) {
        let is_warning = |line: &String| parse_line(line)["message"] == "configuration warning";
        assert!(self.lines.iter().all(is_warning), "{self:#?}");
        assert_eq!(self.status.code(), Some(status), "{self:#?}");
        assert!(self.errors.starts_with("gupd: ") && self.errors.ends_with('\n'), "{self:#?}");
        assert_eq!(self.errors.lines().count(), 1, "{self:#?}");
        for word in words {
            assert!(self.errors.contains(word), "no {word:?} in {self:#?}");
        }
    }
}

/// A running relay.
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
        // A list, of which an IPv6 address has brackets too.
        let listen =
            serving["listen"].as_str().unwrap().strip_prefix('[').unwrap().strip_suffix(']').unwrap();
        let first = listen.split(", ").next().unwrap().parse().unwrap();
        Self { process, address: first, admin: serving["admin"].as_str().unwrap().parse().unwrap() }
    }

    pub(crate) async fn get(&self, target: &str) -> Response {
        get(self.address, target).await
    }

    /// The metrics as text.
    pub(crate) async fn metrics(&self) -> String {
        String::from_utf8(get(self.admin, "/metrics").await.expect_body()).unwrap()
    }

    /// Waits until its address refuses connections.
    pub(crate) async fn wait_until_refusing(&self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).await.is_ok() {
            assert!(Instant::now() < deadline, "the relay still accepts connections");
        }
    }

    /// Waits until no fill runs: its partial file is committed or removed, and it is counted.
    pub(crate) async fn wait_for_fills(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.metrics().await.contains("gupd_fills_running 0\n") {
            assert!(Instant::now() < deadline, "a fill still runs");
        }
    }

    /// Sends requests until the response is a hit, then waits for the end of the fill.
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

/// Parses a line of the JSON log; null if it is none.
pub(crate) fn parse_line(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or(Value::Null)
}
