//! A simulated site on loopback: a manager with faults, a WAN line and clients. The demo, the tests and the benchmarks
//! stand on it, so it knows HTTP and nothing of the relay under test.
//!
//! [`Manager`] answers requests with [`Resource`]s; [`Wan`] carries connections at the rate and delay of a [`Line`];
//! [`WireClient`] shows a response as it is on the wire; [`update`] runs the update of a whole site of clients. Every
//! part also works over in-memory streams and in paused time: [`OriginServer::serve`], [`Link::carry`].

mod answer;
mod bucket;
mod client;
mod content;
mod damage;
mod line;
mod listener;
mod manager;
mod message;
mod origin;
mod random;
mod resource;
pub mod sep;
mod serve;
pub mod sessions;
mod switch;
pub mod update;
mod wan;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::bucket::{ACCESS_KEY, BUCKET, BucketFault, S3Bucket};
pub use self::client::{Ending, Request, Response, WireClient, get};
pub use self::content::Content;
pub use self::damage::Damage;
pub use self::line::{Line, Link};
pub use self::listener::{Listener, RefusingPort};
pub use self::manager::Manager;
pub use self::origin::{OriginServer, RecordedRequest};
pub use self::random::{Random, bytes, mix};
pub use self::resource::{Pause, Resource};
pub use self::switch::{Gate, LinkSwitch, Reachability};
pub use self::wan::Wan;

/// Longest wait for an event that a test expects, however slow the machine. A test that waits so long hangs: nextest
/// ends it a little later.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// Locks `mutex`. A panic elsewhere has failed its test already and must not hide behind a second one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the value, or ends the test: a socket of loopback that fails is a fault of the machine.
#[track_caller]
#[expect(clippy::panic, reason = "a test ends by a panic; the demo calls the functions that return errors")]
fn or_panic<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("loopback: {error}"))
}
