//! `[ledger]`: the history of traffic.

use crate::defaults;
use crate::document::Document;
use crate::reader::size;

/// `[ledger]`
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerSettings {
    /// Maximum bytes of the ledger on disk, 16 MiB to 16 GiB.
    pub max_size: u64,
}

pub(crate) fn read_ledger(document: &mut Document) -> LedgerSettings {
    let mut s = document.take_section("ledger");
    let ledger = LedgerSettings { max_size: size(&mut s, "max_size", defaults::LEDGER_SIZE) };
    document.close(s);
    ledger
}
