//! Limits: how many bytes may pass when, toward clients and from upstreams, and how many downloads at once. `bucket` is a
//! rate, `queue` the order of those who wait at it, `schedule` decides turns over all limits as a pure function of time,
//! `pace` runs that, `timed` follows the week; [`Lan`] and [`Wan`] are the two directions. `count` is a bound on downloads,
//! `admission` decides whose turn is next over all counts, [`Places`] runs that. Knows no response and no fill: it is
//! asked by them.

mod admission;
mod bucket;
mod count;
mod lan;
mod pace;
mod places;
mod queue;
mod schedule;
mod timed;
mod wan;
mod yielding;

pub use self::lan::Lan;
pub use self::pace::Pace;
pub use self::places::{NoPlace, Place, Places, TurnedAway};
pub use self::queue::Priority;
pub use self::wan::{Lane, Purpose, Wan};
pub use self::yielding::Sample;
