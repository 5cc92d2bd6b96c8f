//! `[summary]`: the daily summary for administrators.

use std::path::PathBuf;

use http::Uri;
use http::uri::Scheme;

use crate::defaults;
use crate::document::Document;
use crate::reader::file;
use crate::week;

/// `[summary]`
#[derive(Clone, Debug, PartialEq)]
pub struct SummarySettings {
    /// Minute of the day in the site's time zone; `None` for no summary.
    pub at: Option<u16>,
    /// URL that gets the summary as JSON.
    pub webhook: Option<Uri>,
    /// PEM file of issuers that are trusted for it instead of the system's.
    pub webhook_ca: Option<PathBuf>,
}

pub(crate) fn read_summary(document: &mut Document) -> SummarySettings {
    let mut s = document.take_section("summary");
    let at = s.read("at", |text| match text {
        "off" => Ok(None),
        _ => week::parse_start_time(text).map(Some).map_err(|error| format!("{error}, or off")),
    });
    let at = at.unwrap_or(Some(defaults::SUMMARY_AT));
    let webhook = s.read("webhook", |text| service_url(text, "https://alerts.example/gupd"));
    if webhook.is_some() && at.is_none() {
        s.warn("webhook", "gets nothing while summary.at is off");
    }
    let webhook_ca = file(&mut s, "webhook_ca");
    if webhook_ca.is_some() && webhook.as_ref().is_none_or(|url| url.scheme() != Some(&Scheme::HTTPS)) {
        s.refuse("webhook_ca", "is set, but summary.webhook is no https URL: use https or remove it");
    }
    document.close(s);
    SummarySettings { at, webhook, webhook_ca }
}

/// Reads the URL of a web service of the administrator.
pub(crate) fn service_url(text: &str, example: &str) -> Result<Uri, String> {
    let refused = || format!("{text:?} is not a URL: write it like {example}");
    let uri: Uri = text.parse().map_err(|_invalid| refused())?;
    if !uri.scheme().is_some_and(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme))
        || uri.host().is_none()
    {
        return Err(refused());
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("contains credentials: put a secret into the path or query".to_owned());
    }
    Ok(uri)
}
