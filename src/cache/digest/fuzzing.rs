//! Entry points of the fuzz targets (`fuzz/lib.rs`): parsers of bytes that upstreams send. Each takes any bytes and
//! returns.

use http::{HeaderMap, StatusCode};

use super::{catalog, field};

/// Parses a catalog.
pub fn parse_catalog(bytes: &[u8]) {
    let _ = catalog::parse(bytes);
}

/// Parses the digests of a response head.
pub fn parse_digests(status: StatusCode, headers: &HeaderMap) {
    let _ = field::announced_digests(status, headers);
}
