//! Which revision of the catalogs each client sees, and how those who see one do. One mechanism for windows, rings, holds
//! and rollbacks: bytes are never rewritten, a view is a choice between whole files as they were published.

pub mod clients;
