//! `gupd refresh`: has the running relay revalidate its catalogs now, and says what came of it.

use http::Method;

use super::{Failure, Settings, answer, ask};
use gupd_refresh::Report;

pub(super) fn run(settings: &Settings) -> Result<(), Failure> {
    let (admin, body) = ask::relay(settings, "refresh", &Method::POST, "/api/v1/refresh")?;
    let Report { asked, changed, failed, revision } = serde_json::from_slice(&body)
        .map_err(|error| Failure::Failed(format!("{admin} is not a relay's admin address: {error}")))?;
    let revision = revision.map(|number| format!("; published in revision {number}")).unwrap_or_default();
    answer(&format!("{asked} catalogs asked for: {changed} changed, {failed} failed{revision}"));
    if failed == 0 { Ok(()) } else { Err(Failure::Failed("some catalogs could not be refreshed".to_owned())) }
}
