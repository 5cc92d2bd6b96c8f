//! The course of the demo: the order in which manager, line, relay and clients start and stop, and the temporary
//! folder. The caller starts the relay.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, interval};

use gupd_config::Quantity;
use gupd_site::sep::SepContent;
use gupd_site::update::{self, Received, UpdateFailure};
use gupd_site::{Line, Manager, OriginServer, Wan, sessions};

use super::folder::TemporaryFolder;
use super::process::RelayProcess;
use super::record;
use super::report::{DemoProgress, DemoReport, Goal, Snapshot};
use super::tour::{Scene, SceneError, Tour};

/// Line between relay and manager, as branch offices have it.
pub(super) const LINE: Line =
    Line { bits_per_second: 10_000_000, one_way: Duration::from_millis(20), buffer: 93_440 };

/// Maximum number of clients. Each takes two descriptors of this process, and most shells allow 1,024.
const MAX_CLIENTS: u16 = 400;

/// Default number of clients.
pub(in super::super) const DEFAULT_CLIENTS: NonZeroU16 = NonZeroU16::new(200).unwrap();

/// Seed of content and clients: all demos are equal.
const SEED: u64 = 2967;

/// Interval of the samples behind the charts of a record.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

/// Threads for the clients; manager, line and relay have their own.
const THREADS: usize = 2;

/// Options of the demo.
#[derive(Clone, Debug)]
pub(super) struct DemoOptions {
    /// Number of clients, at most [`MAX_CLIENTS`].
    pub(super) clients: NonZeroU16,
    /// Exit after the table instead of keeping the relay running until Ctrl-C.
    pub(super) exit: bool,
    /// File for the record.
    pub(super) record: Option<PathBuf>,
}

/// Addresses of a relay.
#[derive(Clone, Copy, Debug)]
pub(super) struct RelayAddresses {
    /// Address for clients.
    pub(super) relay: SocketAddr,
    /// Admin address.
    pub(super) admin: SocketAddr,
}

/// A relay running on threads of its own.
pub(super) trait DemoRelay {
    /// Returns its addresses.
    fn addresses(&self) -> RelayAddresses;

    /// Returns it if it is a process of its own, on which the scenes of the tour play.
    fn process(&self) -> Option<&RelayProcess> {
        None
    }

    /// Stops it and waits for its end: the folder of its store is removed next.
    fn stop(self);
}

/// Error of the demo.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    /// More clients than descriptors.
    #[error("--clients {0}: too many: use at most {MAX_CLIENTS}")]
    TooManyClients(NonZeroU16),
    /// The system refuses threads, signals or sockets.
    #[error("demo: {what}: {source}")]
    Start {
        /// Part that cannot be started.
        what: &'static str,
        /// Error of the system.
        source: io::Error,
    },
    /// The folder for the store cannot be created.
    #[error("temporary folder: {0}: set TMPDIR to a writable folder")]
    Folder(io::Error),
    /// The relay did not start.
    #[error("demo: the relay did not start: {0}")]
    Relay(Box<dyn Error + Send + Sync>),
    /// Ctrl-C or SIGTERM before the clients were done.
    #[error("interrupted before all clients were done")]
    Interrupted,
    /// Some clients did not get the content of the manager.
    #[error("{failed} of {} failed; first error: {first}", Quantity(*of, "client"))]
    Clients {
        /// Number of failed clients.
        failed: usize,
        /// Number of clients.
        of: usize,
        /// The first failure.
        first: String,
    },
    /// A scene of the tour could not be played.
    #[error("tour: {0}")]
    Scene(SceneError),
    /// A client saw more of a scene than it should.
    #[error("tour: {title} {failure}")]
    Seen {
        /// Title of the scene.
        title: &'static str,
        /// What the client saw.
        failure: String,
    },
    /// The record cannot be written.
    #[error("--record {}: {source}: choose another file", file.display())]
    Record {
        /// Its file.
        file: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Standard output is closed.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs the whole demo. `start_relay` takes the URL of the manager behind the line and an empty folder for the store.
/// Blocks; must not be called within a tokio runtime.
///
/// # Errors
/// See [`DemoError`]. The folder is removed in every case.
pub(super) fn run<R, E>(
    options: DemoOptions,
    start_relay: impl FnOnce(&str, &Path) -> Result<R, E>,
) -> Result<(), DemoError>
where
    R: DemoRelay,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    if options.clients.get() > MAX_CLIENTS {
        return Err(DemoError::TooManyClients(options.clients));
    }
    if let Some(file) = &options.record {
        // Before the clients have taken their time.
        File::create(file).map_err(|source| DemoError::Record { file: file.clone(), source })?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(|source| DemoError::Start { what: "threads", source })?;
    // Registered before the folder exists, so that Ctrl-C leaves nothing behind.
    let mut interrupt = runtime.block_on(async { Interrupt::listen() })?;
    let folder = TemporaryFolder::create().map_err(DemoError::Folder)?;
    let upstream = DemoUpstream::start()?;
    let relay = start_relay(&format!("http://{}", upstream.wan.address()), folder.path())
        .map_err(|error| DemoError::Relay(error.into()))?;
    let result = runtime.block_on(run_clients(&options, &upstream, &relay, &mut interrupt));
    relay.stop();
    result
}

/// The upstream side of the relay: content, manager and line.
pub(super) struct DemoUpstream {
    pub(super) content: SepContent,
    wan: Wan,
    pub(super) manager: Manager,
}

impl DemoUpstream {
    fn start() -> Result<Self, DemoError> {
        let (content, origin) = (SepContent::new(SEED), OriginServer::default());
        content.publish_on(&origin);
        let failed = |what| move |source| DemoError::Start { what, source };
        let manager = Manager::with_origin(origin).map_err(failed("manager"))?;
        let wan = Wan::start(manager.address(), LINE).map_err(failed("line"))?;
        Ok(Self { content, wan, manager })
    }
}

async fn run_clients<R: DemoRelay>(
    options: &DemoOptions,
    upstream: &DemoUpstream,
    relay: &R,
    interrupt: &mut Interrupt,
) -> Result<(), DemoError> {
    let addresses = relay.addresses();
    writeln!(
        io::stdout(),
        "{} through a relay; its manager is behind {} Mbit/s, {} ms away.\n\
         Status page of the relay: http://{}/\n",
        Quantity(options.clients.get(), "client").with_verb("updates", "update"),
        LINE.bits_per_second / 1_000_000,
        LINE.one_way.as_millis(),
        addresses.admin,
    )?;
    let (report, samples) = tokio::select! {
        updated = update_site(options, upstream, addresses) => updated,
        () = interrupt.received() => return Err(DemoError::Interrupted),
    };
    writeln!(io::stdout(), "{report}")?;
    let scenes = match relay.process() {
        Some(relay) => tokio::select! {
            scenes = play(Tour { upstream, relay }) => scenes?,
            () = interrupt.received() => return Err(DemoError::Interrupted),
        },
        None => Vec::new(),
    };
    if let Some(file) = &options.record {
        std::fs::write(file, record::page(&report, &samples, &scenes))
            .map_err(|source| DemoError::Record { file: file.clone(), source })?;
        writeln!(io::stdout(), "The record is in {}.", file.display())?;
    }
    if !options.exit {
        write!(io::stdout(), "{}", next_steps(upstream, addresses))?;
        interrupt.received().await;
    }
    let first =
        report.failures().next().map(|(name, failure): (_, &UpdateFailure)| format!("{name}: {failure}"));
    if let Some(first) = first {
        let failed = report.failures().count();
        return Err(DemoError::Clients { failed, of: report.outcomes.len(), first });
    }
    let seen = scenes.into_iter().find_map(|scene| Some((scene.title, scene.failure?)));
    seen.map_or(Ok(()), |(title, failure)| Err(DemoError::Seen { title, failure }))
}

/// Plays the scenes of the tour one after the other, and prints each.
async fn play(tour: Tour<'_>) -> Result<Vec<Scene>, DemoError> {
    let mut scenes = Vec::new();
    let mut end = |scene: Result<Scene, SceneError>| {
        let scene = scene.map_err(DemoError::Scene)?;
        writeln!(io::stdout(), "{scene}")?;
        scenes.push(scene);
        Ok::<_, DemoError>(())
    };
    end(Box::pin(tour.manager_dies()).await)?;
    end(Box::pin(tour.relay_is_killed()).await)?;
    end(Box::pin(tour.limit_changes()).await)?;
    end(Box::pin(tour.revision_is_rolled_back()).await)?;
    Ok(scenes)
}

/// Runs all clients through the relay, then one of them without it. Also returns the state over time.
async fn update_site(
    options: &DemoOptions,
    upstream: &DemoUpstream,
    relay: RelayAddresses,
) -> (DemoReport, Vec<Snapshot>) {
    let sessions = sessions::sessions(&upstream.content, options.clients.get().into(), SEED);
    let goal = Goal {
        clients: sessions.len(),
        bytes: sessions::bytes_of(&sessions),
        distinct_bytes: sessions::distinct_bytes_of(&sessions),
    };
    let control = sessions.first().cloned();
    let received = Arc::new(Received::default());
    let started = Instant::now();
    let snapshot = || Snapshot {
        elapsed: started.elapsed(),
        done: received.done.load(Ordering::Relaxed),
        received: received.bytes.load(Ordering::Relaxed),
        crossed: upstream.wan.sent_down(),
    };

    let progress = DemoProgress::new(goal);
    let (mut tick, mut sampling) = (interval(progress.interval()), interval(SAMPLE_INTERVAL));
    let mut samples = Vec::new();
    let mut running = pin!(update::run(relay.relay, sessions, Arc::clone(&received)));
    let outcomes = loop {
        tokio::select! {
            outcomes = &mut running => break outcomes,
            _ = tick.tick() => progress.show(snapshot()),
            _ = sampling.tick() => samples.push(snapshot()),
        }
    };
    let (end, crossed_up) = (snapshot(), upstream.wan.sent_up());
    progress.show(end);
    samples.push(end);
    drop(progress);

    let control = match control {
        Some(session) => Some(update::update(upstream.wan.address(), &session, &Received::default()).await),
        None => None,
    };
    (DemoReport { goal, line: upstream.wan.line(), end, crossed_up, outcomes, control }, samples)
}

/// Describes what to try while the relay is running.
fn next_steps(upstream: &DemoUpstream, RelayAddresses { relay, admin }: RelayAddresses) -> String {
    let path = upstream.content.products.first().map_or("/minitri.flg", |product| &product.livetri.path);
    let wan = upstream.wan.address();
    format!(
        "The relay runs until Ctrl-C. Try:\n  \
         status page    http://{admin}/\n  \
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

    /// Waits for either signal.
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

    impl DemoRelay for NoRelay {
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
        let ended =
            run(DemoOptions { clients: DEFAULT_CLIENTS, exit: true, record: None }, |manager, store| {
                assert!(manager.starts_with("http://127.0.0.1:") && store.is_dir());
                folder = store.to_owned();
                Err::<NoRelay, _>("port in use")
            });
        assert_eq!(ended.unwrap_err().to_string(), "demo: the relay did not start: port in use");
        assert!(folder.is_absolute() && !folder.exists());
    }

    #[test]
    fn too_many_clients_are_refused_before_the_start() {
        let options = DemoOptions {
            clients: DEFAULT_CLIENTS.saturating_mul(DEFAULT_CLIENTS),
            exit: true,
            record: None,
        };
        let ended = run(options, |_, _| -> Result<NoRelay, &str> { panic!("started a relay") });
        assert!(matches!(ended, Err(DemoError::TooManyClients(_))), "{ended:?}");
    }
}
