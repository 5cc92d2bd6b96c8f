//! `GET /api/v1/traffic`: what crossed the line and why, from the ledger. The response has addresses, so it is for
//! requests with the admin token and for those of this machine.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use percent_encoding::percent_decode_str;

use super::auth::ReadAccess;
use super::openapi::Failure;
use super::{AdminApi, json_response, problem, query_pairs};
use gupd_config::clock::UnixMillis;
use gupd_config::units::{Time, UnitError};
use gupd_ledger::{QueryError, TrafficQuery, TrafficReport};
use gupd_rollout::clients::{ClientFilter, ClientReport};
use serde::Serialize;
use utoipa::ToSchema;

/// Time that a report covers without `since=`.
const DEFAULT_SINCE: UnixMillis = 24 * 3_600_000;

/// Rows of each kind without `top=`.
const DEFAULT_TOP: usize = 20;

/// `since=` is a time such as `24h`; `client=` and `object=` select, `top=` is the number of rows of each kind.
#[utoipa::path(
    get, path = "/api/v1/traffic", operation_id = "traffic",
    params(
        ("since" = Option<String>, Query, description = "Time to look back, such as 24h", example = "24h"),
        ("client" = Option<String>, Query, description = "Only what this client caused"),
        ("group" = Option<String>, Query, description = "Only what clients of this group caused"),
        ("object" = Option<String>, Query, description = "Only objects with this text in their path"),
        ("top" = Option<u32>, Query, description = "Rows of each kind, at most 1000", maximum = 1000),
    ),
    responses((status = 200, body = ClientTraffic), Failure),
)]
pub(super) async fn report(_: ReadAccess, State(api): State<AdminApi>, uri: Uri) -> Response {
    let query = match parse_query(uri.query(), api.clock.now()) {
        Ok(query) => query,
        Err(message) => return problem::respond((StatusCode::BAD_REQUEST, message)),
    };
    let client = query.client.clone();
    match api.ledger.query(query).await {
        Ok(report) => {
            let client = find_client(&api, client).await;
            json_response(&ClientTraffic { report, client })
        }
        Err(error @ (QueryError::Busy | QueryError::Stopping | QueryError::Ledger(_))) => {
            problem::respond((StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
        }
    }
}

/// A report, with what is known of the client that it is about.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClientTraffic {
    #[serde(flatten)]
    report: TrafficReport,
    /// The client, where clients are tracked.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<ClientReport>,
}

async fn find_client(api: &AdminApi, client: Option<String>) -> Option<ClientReport> {
    let client = client?.parse().ok().filter(|_| api.rollouts.has_rings())?;
    let filter = ClientFilter { client: Some(client), ..ClientFilter::default() };
    api.rollouts.clients().list(&filter, 1).await.pop()
}

/// Parses the query; an error is one line.
pub(super) fn parse_query(query: Option<&str>, now: UnixMillis) -> Result<TrafficQuery, String> {
    let mut parsed = TrafficQuery { since: now - DEFAULT_SINCE, top: DEFAULT_TOP, ..TrafficQuery::default() };
    for (name, value) in query_pairs(query) {
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| format!("{name}: not UTF-8: encode it again"))?;
        match name {
            "since" => {
                let Time(span) = value.parse().map_err(|error: UnitError| format!("since: {error}"))?;
                parsed.since = now.saturating_sub(UnixMillis::try_from(span.as_millis()).unwrap_or(now));
            }
            "client" => {
                parsed.client = Some(value.parse().map_or_else(|_| value.clone().into_owned(), canonical));
            }
            "group" => parsed.group = Some(value.into_owned()),
            "object" => parsed.object = Some(value.into_owned()),
            "top" => parsed.top = value.parse().map_err(|_| format!("top: {value:?} is not a number"))?,
            _ => return Err(format!("{name:?} is not a parameter: use since, client, group, object or top")),
        }
    }
    Ok(parsed)
}

/// Returns the spelling of an address in the ledger.
fn canonical(address: std::net::IpAddr) -> String {
    address.to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_780_000_000_000;

    #[test]
    fn query_selects_time_client_and_object() {
        let default = parse_query(None, NOW).unwrap();
        assert_eq!(default, TrafficQuery { since: NOW - 86_400_000, top: 20, ..TrafficQuery::default() });
        let text = "since=30d&client=::ffff:10.0.0.1&group=branch-a&object=%7BA%7D%2Ffull.zip&top=5";
        let expected = TrafficQuery {
            since: NOW - 30 * 86_400_000,
            client: Some("10.0.0.1".to_owned()),
            group: Some("branch-a".to_owned()),
            object: Some("{A}/full.zip".to_owned()),
            top: 5,
            without_names: false,
        };
        assert_eq!(parse_query(Some(text), NOW), Ok(expected));
    }

    #[test]
    fn invalid_query_is_one_line_error() {
        for (query, expected) in [
            ("since=yesterday", "since: "),
            ("since=", "since: "),
            ("top=-1", "not a number"),
            ("object=%ff", "not UTF-8"),
            ("clients=a", "use since, client"),
        ] {
            let error = parse_query(Some(query), NOW).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }
}
