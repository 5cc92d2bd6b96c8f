//! The relay of a tour: `gupd serve --guard` as a process of its own, so that a scene can kill its worker, and the
//! commands of an administrator beside it. Its folder holds configuration, token and store.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::run::{DemoRelay, RelayAddresses};

/// Random bytes of the admin token.
const TOKEN_BYTES: usize = 24;

type StartError = Box<dyn Error + Send + Sync>;

/// A running relay with its guard.
#[derive(Debug)]
pub(super) struct RelayProcess {
    program: PathBuf,
    folder: PathBuf,
    upstream: String,
    guard: Child,
    addresses: RelayAddresses,
    /// Reads the log, which nobody shows.
    log: Option<JoinHandle<()>>,
}

impl RelayProcess {
    /// Starts a relay for the manager with its files in `folder`, and waits until it serves.
    pub(super) fn start(manager: &str, folder: &Path) -> Result<Self, StartError> {
        let program = std::env::current_exe()?;
        let file = write_configuration(folder, manager, "")?;
        write_token(folder)?;
        let mut command = command(&program, &file);
        let mut guard =
            command.args(["serve", "--guard", "--config"]).arg(&file).stdout(Stdio::piped()).spawn()?;
        let stdout = guard.stdout.take().ok_or("its output cannot be read")?;
        let any = RelayAddresses { relay: ([127, 0, 0, 1], 0).into(), admin: ([127, 0, 0, 1], 0).into() };
        // Dropped, and with it the guard ended, if the relay does not start.
        let mut relay = Self {
            program,
            folder: folder.to_owned(),
            upstream: manager.to_owned(),
            guard,
            addresses: any,
            log: None,
        };
        let mut log = BufReader::new(stdout);
        relay.addresses = addresses(&mut log)?;
        relay.log = Some(thread::Builder::new().name("demo-log".to_owned()).spawn(move || {
            // The end of the log is the end of the relay.
            let _ = io::copy(&mut log, &mut io::sink());
        })?);
        Ok(relay)
    }

    /// Writes the configuration anew, with these sections in addition.
    pub(super) fn configure(&self, more: &str) -> io::Result<()> {
        write_configuration(&self.folder, &self.upstream, more).map(drop)
    }

    /// Runs a command of gupd for this relay, and returns its output in one line.
    pub(super) async fn run(&self, arguments: &[&str]) -> io::Result<String> {
        let mut command = command(&self.program, &self.folder.join("gupd.toml"));
        command.args(arguments).arg("--config").arg(self.folder.join("gupd.toml"));
        command.args(["--admin", &self.addresses.admin.to_string()]).stderr(Stdio::piped());
        let ended =
            tokio::task::spawn_blocking(move || command.output()).await.map_err(io::Error::other)??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', "; ");
        if !ended.status.success() {
            return Err(io::Error::other(text(&ended.stderr)));
        }
        Ok(text(&ended.stdout))
    }

    /// Kills the worker as a crash does. Returns its process id.
    pub(super) fn kill_worker(&self) -> io::Result<i32> {
        let guard = self.guard.id();
        let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children"))?;
        let worker = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        let worker = worker.ok_or_else(|| io::Error::other("the guard has no worker"))?;
        kill(Pid::from_raw(worker), Signal::SIGKILL)?;
        Ok(worker)
    }

    fn end(&mut self, signal: Signal) {
        if let Ok(guard) = i32::try_from(self.guard.id()) {
            // It may have ended with the terminal's Ctrl-C already.
            let _ = kill(Pid::from_raw(guard), signal);
        }
        let _ = self.guard.wait();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
    }
}

impl DemoRelay for RelayProcess {
    fn addresses(&self) -> RelayAddresses {
        self.addresses
    }

    fn process(&self) -> Option<&RelayProcess> {
        Some(self)
    }

    fn stop(mut self) {
        self.end(Signal::SIGTERM);
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        if matches!(self.guard.try_wait(), Ok(None)) {
            self.end(Signal::SIGKILL);
        }
    }
}

/// Returns a command of this program without settings of the user's environment.
fn command(program: &Path, default_file: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GUPD_") {
            command.env_remove(name);
        }
    }
    command.arg("--default-config").arg(default_file).stdin(Stdio::null());
    command
}

fn write_configuration(folder: &Path, manager: &str, more: &str) -> io::Result<PathBuf> {
    let file = folder.join("gupd.toml");
    // The manager's process is well while its line is: only a page proves that it answers.
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nadmin_token_file = {:?}\ndrain_timeout = \"2s\"\n\
         [store]\ndir = {:?}\nmin_free = \"0B\"\n[refresh]\nschedule = \"off\"\n[prefetch]\nlearned = false\n\
         [health]\ninterval = \"1s\"\nfailures = 1\nretry = \"1s\"\nretry_max = \"1s\"\n\
         [guard]\nanswer = \"relay\"\n[log]\nformat = \"json\"\naccess = false\n\
         [[upstream]]\nname = \"manager\"\nurl = \"{manager}\"\ncheck = \"/minitri.flg\"\n{more}",
        folder.join("token"),
        folder.join("store"),
    );
    fs::write(&file, text)?;
    Ok(file)
}

fn write_token(folder: &Path) -> io::Result<()> {
    let mut random = [0_u8; TOKEN_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join("token"))?;
    writeln!(file, "{token}")
}

/// Reads the log until the relay serves, and returns where.
fn addresses(log: &mut impl BufRead) -> Result<RelayAddresses, StartError> {
    let mut last = String::new();
    for line in log.lines() {
        let line = line?;
        let fields: Value = serde_json::from_str(&line).unwrap_or_default();
        if fields["message"] == "serving" {
            let address =
                |name: &str| fields[name].as_str().unwrap_or_default().trim_matches(['[', ']']).parse();
            return Ok(RelayAddresses { relay: address("listen")?, admin: address("admin")? });
        }
        last = line;
    }
    Err(format!("its log ended: {last}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_line_serving() {
        let log = "{\"message\":\"sandbox\"}\n{\"message\":\"serving\",\"listen\":\"[127.0.0.1:1]\",\"admin\":\"127.0.0.1:2\"}\nx";
        let found = addresses(&mut log.as_bytes()).unwrap();
        assert_eq!((found.relay.port(), found.admin.port()), (1, 2));
        let error = addresses(&mut "{\"message\":\"x\"}\n".as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "its log ended: {\"message\":\"x\"}");
    }
}
