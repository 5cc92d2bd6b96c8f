//! `gupd demo`: a site in one process. `content` and `manager` are what is published, `wan` the slow line.

pub mod content;
mod loopback;
pub mod manager;
pub mod wan;
