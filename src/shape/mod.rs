//! Limits: how many bytes may pass when, toward clients and from upstreams. `bucket` is a rate, `queue` the order of those
//! who wait at it, `schedule` decides turns over all limits as a pure function of time, `pace` runs that, `timed` follows
//! the week; [`Lan`] and [`Wan`] are the two directions. Knows no response and no fill: it is asked by them.

mod bucket;
mod lan;
mod pace;
mod queue;
mod schedule;
mod timed;
mod wan;
mod yielding;

pub use self::lan::Lan;
pub use self::pace::Pace;
pub use self::queue::Priority;
pub use self::wan::{Lane, Purpose, Wan};
pub(crate) use self::yielding::Sample;
