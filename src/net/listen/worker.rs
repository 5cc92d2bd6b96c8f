//! The threads that serve clients, each with a current-thread runtime. Owns their start and end. A worker's runtime may
//! drive a pooled connection to an upstream that another worker's client, or a fill, is reading from; so workers end
//! together, after the last of all that.

use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::connection::{HttpServer, RequestHandler};

/// Connections on their way to one worker, which takes them as fast as it turns. Past these those who come wait in the
/// system's backlog, which is as good a place and costs nothing here.
const HANDED_OVER: usize = 1024;

/// Every so many turns goes to a task woken from another thread: here, a client that waits for a fill. tokio's own
/// number is 31, and with hundreds of clients who can go on at once, one who waited for a fill's first bytes got them
/// after 18 s (500 clients of one cold object of 256 MiB).
const TURNS: u32 = 2;

/// Questions whether a thread turns that it has not come to yet; who asks gives up long before there are more.
const PINGS: usize = 16;

/// How far the relay has come with stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LifecycleStage {
    /// New connections and requests are welcome.
    Serving,
    /// New connections are for somebody else; a request on an open one is answered, and ends it.
    Leaving,
    /// Running responses are finished; nothing new.
    Draining,
    /// Whatever still runs is dropped.
    Stopped,
}

impl LifecycleStage {
    /// Waits until the relay has come at least this far with stopping. A relay that is gone has.
    pub async fn wait_until_reached(self, stage: &mut watch::Receiver<Self>) {
        // The guard that `wait_for` returns must not live across an await.
        drop(stage.wait_for(|now| *now >= self).await);
    }
}

/// All workers.
#[derive(Debug)]
pub struct WorkerPool {
    workers: Vec<Worker>,
    connections: TaskTracker,
}

#[derive(Debug)]
struct Worker {
    connections: mpsc::Sender<Handed>,
    pings: mpsc::Sender<oneshot::Sender<()>>,
    open: Arc<AtomicUsize>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

struct Handed {
    stream: StdStream,
    peer: SocketAddr,
    place: ConnectionSlot,
}

/// A connection's place among `server.max_connections` and in its worker's count; given back when dropped.
pub(super) struct ConnectionSlot {
    _permit: OwnedSemaphorePermit,
    open: Arc<AtomicUsize>,
}

impl WorkerPool {
    /// Starts `count` threads that serve `connections`.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start<A: RequestHandler>(
        count: usize,
        connections: &Arc<HttpServer<A>>,
        stage: &watch::Receiver<LifecycleStage>,
    ) -> io::Result<Self> {
        let running = TaskTracker::new();
        let workers = (0..count)
            .map(|number| Worker::start(number, connections.clone(), running.clone(), stage.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self { workers, connections: running })
    }

    /// Whether every thread turns within this time: none is stuck in a loop, a lock or a system call. Threads that have
    /// ended do not.
    pub async fn is_responsive(&self, within: Duration) -> bool {
        let turns = self.workers.iter().map(|worker| async {
            let (turned, told) = oneshot::channel();
            // With a full queue it does not take connections, which is being stuck too.
            worker.pings.try_send(turned).is_ok() && told.await.is_ok()
        });
        timeout(within, join_all(turns)).await.is_ok_and(|turned| turned.into_iter().all(|turned| turned))
    }

    /// Waits until the last connection has closed; called when no more are accepted.
    pub async fn wait_until_idle(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    /// Gives a connection to the worker with the fewest; waits while that has too many on their way to it.
    pub(super) async fn give(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        let stream = stream.into_std()?;
        let idlest = self.workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        let idlest = idlest.ok_or_else(|| io::Error::other("no workers"))?;
        idlest.open.fetch_add(1, Ordering::Relaxed);
        let place = ConnectionSlot { _permit: permit, open: idlest.open.clone() };
        idlest.connections.send(Handed { stream, peer, place }).await.map_err(io::Error::other)
    }

    /// Waits until every worker has ended, which they do when the relay has stopped. Blocks.
    pub fn join(&self) {
        for worker in &self.workers {
            let thread = worker.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("a worker ended by a panic");
            }
        }
    }
}

impl Worker {
    fn start<A: RequestHandler>(
        number: usize,
        connections: Arc<HttpServer<A>>,
        running: TaskTracker,
        stage: watch::Receiver<LifecycleStage>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .global_queue_interval(TURNS)
            .enable_all()
            .build()?;
        let (sender, receiver) = mpsc::channel(HANDED_OVER);
        let (pings, pinged) = mpsc::channel(PINGS);
        let thread = std::thread::Builder::new().name(format!("gupd-worker-{number}")).spawn(move || {
            runtime.spawn(answer(pinged));
            runtime.block_on(serve(receiver, connections, running, stage));
        })?;
        let thread = std::sync::Mutex::new(Some(thread));
        Ok(Self { connections: sender, pings, open: Arc::default(), thread })
    }
}

async fn serve<A: RequestHandler>(
    mut handed: mpsc::Receiver<Handed>,
    connections: Arc<HttpServer<A>>,
    running: TaskTracker,
    mut stage: watch::Receiver<LifecycleStage>,
) {
    // Of this thread alone: connections look at it whenever they wake up, and must not meet other threads there.
    let (local, stages) = watch::channel(LifecycleStage::Serving);
    let mut changes = stage.clone();
    loop {
        let next = tokio::select! {
            // Whoever was accepted is served: nobody accepts any more when the relay drains.
            biased;
            next = handed.recv() => next,
            () = LifecycleStage::Draining.wait_until_reached(&mut changes) => None,
        };
        let Some(Handed { stream, peer, place }) = next else { break };
        match TcpStream::from_std(stream) {
            Ok(stream) => {
                running.spawn(connections.clone().serve(stream, peer, place, stages.clone()));
            }
            Err(error) => tracing::error!(%error, "cannot serve a connection"),
        }
    }
    local.send_replace(LifecycleStage::Draining);
    // What is still open when the relay stops waiting is dropped with this thread's runtime.
    LifecycleStage::Stopped.wait_until_reached(&mut stage).await;
}

/// Says that the thread turns.
async fn answer(mut pinged: mpsc::Receiver<oneshot::Sender<()>>) {
    while let Some(turned) = pinged.recv().await {
        // Whoever asked may have stopped waiting.
        let _late = turned.send(());
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Handed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "connection from {}", self.peer)
    }
}
