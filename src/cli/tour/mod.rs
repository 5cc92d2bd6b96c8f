//! `gupd demo`: a manager, a slow line, a relay and the clients of a site in one process on loopback. Owns the order
//! in which they start and stop, and the temporary folder. Manager, line and clients are those of the crate `site`;
//! `report` is the output. The relay is the real one, and the caller starts it.

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, interval};

use folder::TemporaryFolder;
use gupd_site::sep::SepContent;
use gupd_site::update::{self, Failure, Received};
use gupd_site::{Line, Manager, Origin, Wan, sessions};
use report::{Goal, Progress, Report, Snapshot};

mod folder;
pub mod report;

/// The line between relay and manager: a usual branch office's.
pub const LINE: Line =
    Line { bits_per_second: 10_000_000, one_way: Duration::from_millis(20), buffer: 93_440 };

/// Clients at most. Each has two descriptors in this one process, and a usual shell allows it 1,024.
pub const MAX_CLIENTS: u16 = 400;

/// Clients unless told otherwise.
pub const DEFAULT_CLIENTS: NonZeroU16 = NonZeroU16::new(200).unwrap();

/// Seed of content and clients: every demo shows the same.
const SEED: u64 = 2967;

/// Threads for the clients; manager, line and relay have their own.
const THREADS: usize = 2;

/// What the administrator may choose.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Clients, at most [`MAX_CLIENTS`].
    pub clients: NonZeroU16,
    /// End after the table instead of leaving the relay up until Ctrl-C.
    pub exit: bool,
}

/// Where a relay can be reached.
#[derive(Clone, Copy, Debug)]
pub struct RelayAddresses {
    /// For clients.
    pub relay: SocketAddr,
    /// For metrics and health.
    pub admin: SocketAddr,
}

/// A relay that runs on threads of its own.
pub trait RunningRelay {
    /// Where it can be reached.
    fn addresses(&self) -> RelayAddresses;

    /// Stops it and returns when it has: its store's folder is removed next.
    fn stop(self);
}

/// Why there is no table, or not the one there should be.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// More clients than descriptors.
    #[error("--clients {0}: at most {MAX_CLIENTS}, each needs two of this process's descriptors")]
    TooManyClients(NonZeroU16),
    /// Threads, signals or sockets are refused.
    #[error("cannot start the demo's {what}: {source}")]
    Start {
        /// What was to start.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// No folder for the store.
    #[error("cannot make a temporary folder: {0}; set TMPDIR to one that can be written")]
    Folder(io::Error),
    /// The relay did not start.
    #[error("the relay does not start: {0}")]
    Relay(Box<dyn Error + Send + Sync>),
    /// Ctrl-C or SIGTERM before the clients were done.
    #[error("interrupted before the clients were done")]
    Interrupted,
    /// Some clients did not get what the manager has.
    #[error("{failed} of {of} clients failed, the first with: {first}")]
    Clients {
        /// Those that failed.
        failed: usize,
        /// All.
        of: usize,
        /// The first failure.
        first: String,
    },
    /// Standard output is closed.
    #[error("cannot write the table: {0}")]
    Output(#[from] io::Error),
}

/// Runs the demo from start to clean end. `start_relay` is given the manager's URL, as seen over the line, and an
/// empty folder for the store. Blocks; must not be called within a tokio runtime.
///
/// # Errors
/// See [`DemoError`]. The folder is removed in every case.
pub fn run<R, E>(
    options: Options,
    start_relay: impl FnOnce(&str, &Path) -> Result<R, E>,
) -> Result<(), DemoError>
where
    R: RunningRelay,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    if options.clients.get() > MAX_CLIENTS {
        return Err(DemoError::TooManyClients(options.clients));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(|source| DemoError::Start { what: "threads", source })?;
    // Before the folder: from here on no Ctrl-C leaves anything behind.
    let mut interrupt = runtime.block_on(async { Interrupt::listen() })?;
    let folder = TemporaryFolder::create().map_err(DemoError::Folder)?;
    let stage = Stage::start()?;
    let relay = start_relay(&format!("http://{}", stage.wan.address()), folder.path())
        .map_err(|error| DemoError::Relay(error.into()))?;
    let shown = runtime.block_on(show(options, &stage, relay.addresses(), &mut interrupt));
    relay.stop();
    shown
}

/// What stands on the far side of the relay.
struct Stage {
    content: SepContent,
    wan: Wan,
    _manager: Manager,
}

impl Stage {
    fn start() -> Result<Self, DemoError> {
        let (content, origin) = (SepContent::new(SEED), Origin::default());
        content.publish_on(&origin);
        let failed = |what| move |source| DemoError::Start { what, source };
        let manager = Manager::of(origin).map_err(failed("manager"))?;
        let wan = Wan::start(manager.address(), LINE).map_err(failed("line"))?;
        Ok(Self { content, wan, _manager: manager })
    }
}

async fn show(
    options: Options,
    stage: &Stage,
    relay: RelayAddresses,
    interrupt: &mut Interrupt,
) -> Result<(), DemoError> {
    writeln!(
        io::stdout(),
        "{} clients update through a relay; its manager is behind {} Mbit/s, {} ms away.\n",
        options.clients,
        LINE.bits_per_second / 1_000_000,
        LINE.one_way.as_millis(),
    )?;
    let report = tokio::select! {
        report = update_site(options, stage, relay) => report,
        () = interrupt.received() => return Err(DemoError::Interrupted),
    };
    writeln!(io::stdout(), "{report}")?;
    if !options.exit {
        write!(io::stdout(), "{}", invitation(stage, relay))?;
        interrupt.received().await;
    }
    let first = report.failures().next().map(|(name, failure): (_, &Failure)| format!("{name}: {failure}"));
    match first {
        None => Ok(()),
        Some(first) => {
            Err(DemoError::Clients { failed: report.failures().count(), of: report.outcomes.len(), first })
        }
    }
}

/// All clients through the relay, then one without it.
async fn update_site(options: Options, stage: &Stage, relay: RelayAddresses) -> Report {
    let sessions = sessions::sessions(&stage.content, options.clients.get().into(), SEED);
    let goal = Goal {
        clients: sessions.len(),
        bytes: sessions::bytes_of(&sessions),
        distinct_bytes: sessions::distinct_bytes_of(&sessions),
    };
    let control = sessions.first().cloned();
    let received = Arc::new(Received::default());
    let begun = Instant::now();
    let snapshot = || Snapshot {
        elapsed: begun.elapsed(),
        done: received.done.load(Ordering::Relaxed),
        got: received.bytes.load(Ordering::Relaxed),
        crossed: stage.wan.sent_down(),
    };

    let progress = Progress::towards(goal);
    let mut tick = interval(progress.every());
    let mut running = pin!(update::run(relay.relay, sessions, Arc::clone(&received)));
    let outcomes = loop {
        tokio::select! {
            outcomes = &mut running => break outcomes,
            _ = tick.tick() => progress.show(snapshot()),
        }
    };
    let (end, crossed_up) = (snapshot(), stage.wan.sent_up());
    progress.show(end);
    drop(progress);

    let control = match control {
        Some(session) => Some(update::update(stage.wan.address(), &session, &Received::default()).await),
        None => None,
    };
    Report { goal, line: stage.wan.line(), end, crossed_up, outcomes, control }
}

/// What to look at while the relay is up.
fn invitation(stage: &Stage, RelayAddresses { relay, admin }: RelayAddresses) -> String {
    let path = stage.content.products.first().map_or("/minitri.flg", |product| &product.livetri.path);
    let wan = stage.wan.address();
    format!(
        "The relay stays up until Ctrl-C. To look at:\n  \
         metrics        http://{admin}/metrics\n  \
         readiness      http://{admin}/readyz\n  \
         a catalog      curl -sI 'http://{relay}{path}'\n  \
         the manager    http://{wan} (over the line)\n"
    )
}

/// Ctrl-C and SIGTERM.
struct Interrupt {
    ctrl_c: Signal,
    terminate: Signal,
}

impl Interrupt {
    fn listen() -> Result<Self, DemoError> {
        let listen =
            |kind| signal(kind).map_err(|source| DemoError::Start { what: "signal handler", source });
        Ok(Self { ctrl_c: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for either.
    async fn received(&mut self) {
        tokio::select! {
            _ = self.ctrl_c.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A relay that does not exist.
    #[derive(Debug)]
    enum NoRelay {}

    impl RunningRelay for NoRelay {
        fn addresses(&self) -> RelayAddresses {
            match *self {}
        }

        fn stop(self) {
            match self {}
        }
    }

    #[test]
    fn demo_without_a_relay_ends_and_leaves_no_folder() {
        let mut folder = PathBuf::new();
        let ended = run(Options { clients: DEFAULT_CLIENTS, exit: true }, |manager, store| {
            assert!(manager.starts_with("http://127.0.0.1:") && store.is_dir());
            folder = store.to_owned();
            Err::<NoRelay, _>("port in use")
        });
        assert_eq!(ended.unwrap_err().to_string(), "the relay does not start: port in use");
        assert!(folder.is_absolute() && !folder.exists());
    }

    #[test]
    fn more_clients_than_descriptors_are_refused_before_the_start() {
        let options = Options { clients: DEFAULT_CLIENTS.saturating_mul(DEFAULT_CLIENTS), exit: true };
        let ended = run(options, |_, _| -> Result<NoRelay, &str> { panic!("started a relay") });
        assert!(matches!(ended, Err(DemoError::TooManyClients(_))), "{ended:?}");
    }
}
