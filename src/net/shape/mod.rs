//! Limits on bytes and downloads, toward clients and from upstreams.
//!
//! [`LanLimiter`] and [`WanLimiter`] are the two directions of bytes. `bucket` is one rate, `queue` orders the flows
//! that wait at it, `schedule` grants bytes across all limits as a pure function of time, `throttle` runs the
//! schedule, and `timed_limit` follows the week. [`SlotLimiter`] bounds concurrent downloads: `count` is one bound,
//! `slot_queue` selects the next client across all bounds. The module knows neither responses nor fills.

mod bucket;
mod count;
mod lan;
mod queue;
mod scavenger;
mod schedule;
mod send_progress;
mod slot_queue;
mod slots;
mod throttle;
mod timed_limit;
mod wan;

pub(crate) use self::bucket::Nanos;
pub use self::lan::LanLimiter;
pub(crate) use self::scavenger::LineSample;
pub use self::slots::{SLOT_PIECE, Slot, SlotLimiter, SlotRefusal};
pub use self::throttle::Throttle;
pub use self::wan::{BandwidthClass, Purpose, WanLimiter};

#[cfg(test)]
mod tests;
