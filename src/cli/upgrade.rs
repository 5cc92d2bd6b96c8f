//! `gupd upgrade`: has the program on disk take over from the running one, and says whether it is ready to.

use super::{Failure, Settings, answer, ask};

pub(super) fn run(settings: &Settings) -> Result<(), Failure> {
    let (_, body) = ask::relay(settings, "upgrade", "/api/v1/upgrade")?;
    answer(String::from_utf8_lossy(&body).trim());
    Ok(())
}
