//! Entry points of the fuzz targets (`fuzz/lib.rs`): decoders of bytes that come from files. Each takes any bytes and
//! returns. Checksums are also made to fit, because a fuzzer finds none by itself.

use xxhash_rust::xxh3::Xxh3;

use super::object::{NewObject, decode_headers};
use super::trailer::{FOOTER, Footer};
use super::{bundle, index, journal};
use gupd_config::clock::UnixMillis;

/// Decodes the end of a blob's file: trailer and footer.
pub fn decode_blob_file(bytes: &[u8]) {
    let Some((trailer, footer)) = bytes.split_last_chunk::<FOOTER>() else { return };
    let mut checksum = Xxh3::new();
    checksum.update(trailer);
    let mut fitting = *footer;
    if let Some((head, tail)) = fitting.split_last_chunk_mut::<16>() {
        checksum.update(head);
        *tail = checksum.digest128().to_le_bytes();
    }
    let body =
        footer.get(16..).and_then(|rest| rest.first_chunk()).map_or(0, |body| u64::from_le_bytes(*body));
    for footer in [*footer, fitting] {
        if let Ok(footer) = Footer::decode(footer, body.saturating_add(bytes.len() as u64))
            && let Ok(trailer) = footer.trailer(trailer)
        {
            let _ = NewObject::decode(&trailer.record);
        }
    }
}

/// Decodes the records of the index and of fills.
pub fn decode_records(bytes: &[u8]) {
    let _ = decode_headers(bytes);
    if let Some(object) = NewObject::decode(bytes) {
        assert_eq!(
            NewObject::decode(&object.encode()),
            Some(object),
            "a record changes when it is written again"
        );
    }
    let _ = journal::decode(bytes);
    index::read_frames(bytes);
}

/// Reads the entries of a bundle, not compressed.
pub fn read_bundle(archive: &[u8], now: UnixMillis) {
    bundle::read_archive(archive, now);
}
