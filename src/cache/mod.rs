//! Under construction.

pub mod control;
pub(crate) mod field;
pub mod freshness;
mod lifetime;
pub mod status;
pub mod storable;
pub mod update;
pub mod validator;
pub mod vary;
