//! Test bed of the behaviour tests: a simulated manager, a client that shows the bytes on the wire, and a relay
//! between them. All sockets are real ones on loopback, and no test sleeps to wait for an event.

pub mod collector;
pub mod connection_auth;
pub mod front;
pub mod http2;
pub mod signing;
pub mod site;

pub use gupd_site::{
    Ending, Gate, Manager, PATIENCE, RefusingPort, Request, Resource, Response, Wan, WireClient, bytes, get,
};

pub use front::{Authority, Front, Identity};
pub use site::Site;

/// Writes a file that only its owner may read, as the relay demands of the admin token's.
pub fn write_secret(file: impl AsRef<std::path::Path>, text: &str) {
    std::fs::write(&file, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(file, mode).unwrap();
}

/// A path with immutable content.
pub const PAYLOAD: &str = "/content/{535CB6A4-441F-4e8a-A897-804CD859100E}/261121001/full.zip";
