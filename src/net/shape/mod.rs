//! Limits: how many bytes may pass when, toward clients and from upstreams, and how many downloads at once. `bucket` is a
//! rate, `queue` the order of those who wait at it, `schedule` decides turns over all limits as a pure function of time,
//! `pace` runs that, `timed` follows the week; [`LanLimiter`] and [`WanLimiter`] are the two directions. `count` is a bound on downloads,
//! `admission` decides whose turn is next over all counts, [`SlotLimiter`] runs that. Knows no response and no fill: it is
//! asked by them.

mod admission;
mod bucket;
mod count;
mod lan;
mod queue;
mod scavenger;
mod schedule;
mod slots;
mod throttle;
mod timed_limit;
mod wan;

pub use self::lan::LanLimiter;
pub(crate) use self::scavenger::LineSample;
pub use self::slots::{Slot, SlotLimiter, SlotRejection};
pub use self::throttle::Throttle;
pub use self::wan::{BandwidthClass, Purpose, WanLimiter};
