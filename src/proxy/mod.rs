//! Under construction.

pub mod conditional;
pub mod multipart;
pub mod range;
