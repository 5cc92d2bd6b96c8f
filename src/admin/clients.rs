//! `GET /api/v1/rollout/clients`: the known clients with their visible revision and status. The response has addresses
//! and names, so it needs the admin token.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use super::auth::Reader;
use super::{AdminApi, json_response, problem, query_pairs};
use gupd_rollout::clients::{ClientFilter, ClientStatus, MAX_LISTED};
use gupd_rollout::rings::Rings;

/// `client=`, `group=`, `light=` and `revision=` select clients that match all of them. `limit=` is the maximum number;
/// the latest seen come first.
pub(super) async fn list(_: Reader, State(api): State<AdminApi>, uri: Uri) -> Response {
    let (filter, limit) = match parse_query(uri.query()) {
        Ok(parsed) => parsed,
        Err(message) => return problem::respond((StatusCode::BAD_REQUEST, message)),
    };
    if !api.rollouts.has_rings() {
        return problem::respond((StatusCode::NOT_FOUND, Rings::NONE.to_owned()));
    }
    json_response(&api.rollouts.clients().list(&filter, limit).await)
}

/// Parses the filter and the limit; an error is one line.
fn parse_query(query: Option<&str>) -> Result<(ClientFilter, usize), String> {
    let (mut filter, mut limit) = (ClientFilter::default(), MAX_LISTED);
    for (name, value) in query_pairs(query) {
        match name {
            "client" => filter.client = Some(value.parse().map_err(|error| format!("client: {error}"))?),
            "group" => filter.group = Some(value.to_owned()),
            "light" => {
                let status = ClientStatus::ALL.into_iter().find(|status| status.as_str() == value);
                let unknown = || format!("light: {value:?} is not a status: use green, yellow, red or grey");
                filter.status = Some(status.ok_or_else(unknown)?);
            }
            "revision" => filter.revision = Some(parse_number(name, value)?),
            "limit" => limit = parse_number(name, value)?,
            _ => {
                return Err(format!(
                    "{name:?} is not a parameter: use client, group, light, revision or limit"
                ));
            }
        }
    }
    Ok((filter, limit))
}

fn parse_number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}: {value:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_selects_clients() {
        let (filter, limit) =
            parse_query(Some("group=pilot&light=red&revision=7&limit=10&client=10.0.0.1")).unwrap();
        let expected = ClientFilter {
            client: "10.0.0.1".parse().ok(),
            group: Some("pilot".to_owned()),
            status: Some(ClientStatus::Red),
            revision: Some(7.into()),
        };
        assert_eq!((filter, limit), (expected, 10));
        assert_eq!(parse_query(None).unwrap(), (ClientFilter::default(), MAX_LISTED));
    }

    #[test]
    fn invalid_query_is_one_line_error() {
        for (query, expected) in [
            ("light=blue", "use green, yellow"),
            ("revision=x", "not a number"),
            ("ring=a", "use client, group"),
            ("client=", "client: "),
            ("limit", "not a number"),
        ] {
            let error = parse_query(Some(query)).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }
}
