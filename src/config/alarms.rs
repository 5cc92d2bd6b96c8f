//! `[alarms]`: the times after which a state of the relay needs an administrator.

use std::time::Duration;

use crate::defaults;
use crate::document::Document;
use crate::reader::time;

/// `[alarms]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmSettings {
    /// Time for which the line may be saturated, 1 m to 7 d.
    pub saturated_after: Duration,
    /// Time for which no refresh of catalogs may succeed, 10 m to 30 d.
    pub catalogs_after: Duration,
}

pub(crate) fn read_alarms(document: &mut Document) -> AlarmSettings {
    let mut s = document.take_section("alarms");
    let alarms = AlarmSettings {
        saturated_after: time(&mut s, "saturated_after", defaults::SATURATED_AFTER),
        catalogs_after: time(&mut s, "catalogs_after", defaults::CATALOGS_AFTER),
    };
    document.close(s);
    alarms
}
