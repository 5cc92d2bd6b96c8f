//! What every forwarding of a request has in common, whether what comes back is stored or not: which targets are taken
//! and which refused, which fields go on, how an upstream's body is passed on. Shared by the proxy and the guard, which
//! answers while no proxy does: nothing here may know the store, the cache's contents or fills.

mod away;
pub mod fields;
mod passed;
mod reach;
mod refusal;
mod target;

pub use self::away::{Drain, Draining, PublicUrls};
pub use self::passed::{PassError, pieces};
pub use self::reach::{count_down, ends_here};
pub use self::refusal::{ALLOWED, Refusal};
pub use self::target::{Bounds, Target};
