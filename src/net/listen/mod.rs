//! Listeners for clients: sockets, connections and the threads that serve them.
//!
//! One task per listening socket accepts and assigns each connection to the worker with the fewest. A worker is a
//! thread with its own runtime, so that a connection never changes cores. Every bound on connections is enforced here;
//! a [`RequestHandler`] answers the requests.

mod acceptor;
mod activity;
mod client_share;
mod connection;
mod connection_rate;
mod connection_state;
mod half_close;
mod keep_alive;
mod lifecycle;
mod phase;
mod refusal;
mod sockets;
mod stream;
pub mod tls;
mod worker;

pub use self::acceptor::Acceptors;
pub use self::client_share::ClientShares;
pub use self::connection::{ClientConnection, HttpServer, RequestHandler};
pub use self::connection_rate::ConnectionRateLimiter;
pub use self::lifecycle::LifecycleStage;
pub use self::refusal::send_share_exceeded;
pub use self::sockets::{ListenError, ListenPurpose, Sockets, bind};
pub use self::worker::WorkerPool;
