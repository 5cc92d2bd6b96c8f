//! Listeners for clients: sockets, connections and the threads that serve them.
//!
//! One task per listening socket accepts and assigns each connection to the worker with the fewest. A worker is a
//! thread with its own runtime, so that a connection never changes cores. Every bound on connections is enforced here;
//! a [`RequestHandler`] answers the requests.

mod acceptor;
mod activity;
mod certificate_watch;
mod client_rules;
mod client_share;
mod connection;
mod connection_limits;
mod connection_rate;
mod connection_state;
mod frame_meter;
#[doc(hidden)]
pub mod fuzzing;
mod half_close;
mod http2;
mod http2_stream;
mod keep_alive;
mod listener;
mod metered_stream;
mod neighbours;
mod phase;
mod proxied;
mod proxy_header;
mod refusal;
mod sockets;
mod stream;
mod tls;
mod worker;

use tokio::sync::watch;

pub use self::acceptor::Acceptors;
pub use self::client_share::{ClientShares, CountedConnection};
pub use self::connection::{ClientConnection, HttpServer, RequestHandler};
pub use self::connection_rate::ConnectionRateLimiter;
pub use self::listener::{ClientListener, ClientListeners};
pub use self::neighbours::Neighbours;
pub use self::refusal::send_share_exceeded;
pub use self::sockets::{ClientSocket, ListenError, ListenPurpose, Sockets, bind};
pub use self::worker::WorkerPool;

/// Stage of the relay's shutdown, in order. Listeners, workers and background tasks watch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LifecycleStage {
    /// The relay accepts connections and requests.
    Serving,
    /// Another process accepts connections. A request on an open connection is answered, and the connection closed.
    Leaving,
    /// Running responses finish; no new request is read.
    Draining,
    /// Responses that still run are dropped.
    Stopped,
}

impl LifecycleStage {
    /// Waits until the relay has reached at least this stage, or is gone.
    pub async fn wait_until_reached(self, stage: &mut watch::Receiver<Self>) {
        // The guard that `wait_for` returns must not live across an await.
        drop(stage.wait_for(|now| *now >= self).await);
    }
}
