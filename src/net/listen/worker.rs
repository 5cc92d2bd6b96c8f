//! Worker threads that serve clients, each with a current-thread runtime. A worker's runtime drives the fills that its
//! clients started, and their upstream connections; clients of other workers follow them. Therefore all workers end
//! together, after the last of those.

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::LifecycleStage;
use super::connection::{HttpServer, RequestHandler};
use super::connection_limits::AdmittedConnection;
use super::listener::ClientListener;
use crate::thread::enter_worker;

/// Maximum of connections queued for one worker. Beyond it new ones wait in the kernel's backlog, which costs nothing
/// here.
const QUEUE_LENGTH: usize = 1024;

/// One in this many polls goes to a task woken from another thread: here, a client that waits for a fill. With
/// tokio's default of 31 and hundreds of runnable clients, one client got the first bytes of a fill after 18 s (500
/// clients of a cold object of 256 MiB).
const GLOBAL_QUEUE_INTERVAL: u32 = 2;

/// Maximum of unanswered pings of a thread; the caller times out long before.
const MAX_PINGS: usize = 16;

/// The worker threads.
#[derive(Debug)]
pub struct WorkerPool {
    workers: Vec<WorkerThread>,
    connections: TaskTracker,
    stage: watch::Receiver<LifecycleStage>,
}

#[derive(Debug)]
struct WorkerThread {
    connections: mpsc::Sender<AcceptedConnection>,
    pings: mpsc::Sender<oneshot::Sender<()>>,
    open: Arc<AtomicUsize>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

struct AcceptedConnection {
    stream: StdStream,
    peer: SocketAddr,
    listener: Arc<ClientListener>,
    slot: ConnectionSlot,
}

/// A connection's place in the limits of its listener and in the count of its worker, released on drop.
pub(super) struct ConnectionSlot {
    _admitted: AdmittedConnection,
    open: Arc<AtomicUsize>,
}

impl WorkerPool {
    /// Starts `count` threads that serve connections by `server`.
    ///
    /// # Errors
    /// If the system refuses a thread or an event queue.
    pub fn start<A: RequestHandler>(
        count: usize,
        connections: &Arc<HttpServer<A>>,
        stage: &watch::Receiver<LifecycleStage>,
    ) -> io::Result<Self> {
        let running = TaskTracker::new();
        let workers = (0..count)
            .map(|number| WorkerThread::start(number, connections.clone(), running.clone(), stage.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self { workers, connections: running, stage: stage.clone() })
    }

    /// Returns true if every thread answers within this time: none is stuck in a loop, a lock or a system call. A
    /// thread that has ended does not answer.
    pub async fn is_responsive(&self, within: Duration) -> bool {
        let answers = self.workers.iter().map(|worker| async {
            let (pong, answer) = oneshot::channel();
            // A full queue means that the thread is stuck too.
            worker.pings.try_send(pong).is_ok() && answer.await.is_ok()
        });
        timeout(within, join_all(answers)).await.is_ok_and(|pong| pong.into_iter().all(|pong| pong))
    }

    /// Returns the stage that the workers watch.
    pub(super) fn stage(&self) -> watch::Receiver<LifecycleStage> {
        self.stage.clone()
    }

    /// Waits until the last connection is closed. Call it when no more are accepted.
    pub async fn wait_until_idle(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    /// Assigns a connection to the worker with the fewest; waits while its queue is full.
    pub(super) async fn assign(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        listener: Arc<ClientListener>,
        admitted: AdmittedConnection,
    ) -> io::Result<()> {
        let stream = stream.into_std()?;
        let idlest = self.workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        let idlest = idlest.ok_or_else(|| io::Error::other("no workers"))?;
        idlest.open.fetch_add(1, Ordering::Relaxed);
        let slot = ConnectionSlot { _admitted: admitted, open: idlest.open.clone() };
        let accepted = AcceptedConnection { stream, peer, listener, slot };
        idlest.connections.send(accepted).await.map_err(io::Error::other)
    }

    /// Blocks until every worker has ended, which they do at `Stopped`.
    pub fn join(&self) {
        for worker in &self.workers {
            let thread = worker.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("worker thread panicked");
            }
        }
    }
}

impl WorkerThread {
    fn start<A: RequestHandler>(
        number: usize,
        connections: Arc<HttpServer<A>>,
        running: TaskTracker,
        stage: watch::Receiver<LifecycleStage>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .global_queue_interval(GLOBAL_QUEUE_INTERVAL)
            .enable_all()
            .build()?;
        let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
        let (ping_sender, pings) = mpsc::channel(MAX_PINGS);
        let thread = std::thread::Builder::new().name(format!("gupd-worker-{number}")).spawn(move || {
            enter_worker(number);
            runtime.spawn(answer_pings(pings));
            runtime.block_on(serve(receiver, connections, running, stage));
        })?;
        let thread = std::sync::Mutex::new(Some(thread));
        Ok(Self { connections: sender, pings: ping_sender, open: Arc::default(), thread })
    }
}

async fn serve<A: RequestHandler>(
    mut accepted: mpsc::Receiver<AcceptedConnection>,
    connections: Arc<HttpServer<A>>,
    running: TaskTracker,
    mut stage: watch::Receiver<LifecycleStage>,
) {
    // Local to this thread: connections read it at every wake-up and must not contend with other threads.
    let (local, stages) = watch::channel(LifecycleStage::Serving);
    let mut changes = stage.clone();
    loop {
        let next = tokio::select! {
            // An accepted connection is served: no more are accepted once the relay drains.
            biased;
            next = accepted.recv() => next,
            () = LifecycleStage::Draining.wait_until_reached(&mut changes) => None,
        };
        let Some(AcceptedConnection { stream, peer, listener, slot }) = next else { break };
        match TcpStream::from_std(stream) {
            Ok(stream) => {
                running.spawn(connections.clone().serve(stream, peer, listener, slot, stages.clone()));
            }
            Err(error) => tracing::error!(%error, "cannot register a connection with its worker"),
        }
    }
    local.send_replace(LifecycleStage::Draining);
    // Connections still open at `Stopped` are dropped with this thread's runtime.
    LifecycleStage::Stopped.wait_until_reached(&mut stage).await;
}

/// Answers pings.
async fn answer_pings(mut pings: mpsc::Receiver<oneshot::Sender<()>>) {
    while let Some(pong) = pings.recv().await {
        // The caller may have timed out.
        let _late = pong.send(());
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for AcceptedConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "connection from {}", self.peer)
    }
}
