//! What every forwarding of a request has in common, whether what comes back is stored or not: which targets are taken
//! and which refused, which fields go on, how an upstream's body is passed on. Shared by the proxy and the guard, which
//! answers while no proxy does: nothing here may know the store, the cache's contents or fills.

mod away;
pub mod fields;
mod passed;
mod reach;
mod refusal;
mod target;

pub use self::away::{DrainMode, DrainState, PublicUrls};
pub use self::passed::{BodyStreamError, stream_body};
pub use self::reach::{decrement_max_forwards, is_final_recipient};
pub use self::refusal::{ALLOWED_METHODS, Refusal};
pub use self::target::{Target, TargetRules};
