//! `GET /api/v1/rollout/clients`: the known clients with their visible revision and status. The response has addresses
//! and names, so it needs the admin token.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::auth::ReadAccess;
use super::openapi::Failure;
use super::{AdminApi, json_response, problem, query_pairs};
use gupd_rollout::clients::{ClientFilter, ClientPage, ClientReport, ClientStatus};
use gupd_rollout::rings::Rings;

/// Clients on a page.
const MAX_PAGE: usize = 1_000;

/// `client=`, `group=`, `light=` and `revision=` select clients that match all of them. `limit=` is the number on a
/// page, in the order of clients; `after=` is the last client of the page before.
#[utoipa::path(
    get, path = "/api/v1/rollout/clients", operation_id = "list_clients",
    params(
        ("client" = Option<String>, Query, description = "Only this client"),
        ("group" = Option<String>, Query, description = "Only this group"),
        ("light" = Option<ClientStatus>, Query, description = "Only this status"),
        ("revision" = Option<u64>, Query, description = "Only clients that have this revision"),
        ("after" = Option<String>, Query, description = "Only clients behind this one"),
        ("limit" = Option<u32>, Query, description = "Clients on a page", maximum = 1000),
    ),
    responses(
        (
            status = 200,
            description = "A page of clients in their order; the Link field names the next one (RFC 8288)",
            body = Vec<ClientReport>,
            headers(("Link" = String, description = "The next page, with rel=next")),
        ),
        Failure,
    ),
)]
pub(super) async fn list(_: ReadAccess, State(api): State<AdminApi>, uri: Uri) -> Response {
    let (filter, page) = match parse_query(uri.query()) {
        Ok(parsed) => parsed,
        Err(message) => return problem::respond((StatusCode::BAD_REQUEST, message)),
    };
    if !api.rollouts.has_rings() {
        return problem::respond((StatusCode::NOT_FOUND, Rings::NONE.to_owned()));
    }
    // One more tells whether there is a next page.
    let asked = ClientPage { limit: page.limit + 1, ..page };
    let mut clients = api.rollouts.clients().page(&filter, &asked).await;
    let has_more = clients.len() > page.limit;
    clients.truncate(page.limit);
    let mut response = json_response(&clients);
    if let Some(last) = clients.last().filter(|_| has_more)
        && let Ok(link) = HeaderValue::from_str(&next_page(uri.query(), &last.client.to_string()))
    {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

/// Returns the link to the page after `last`, with the other parameters of the query (RFC 8288).
fn next_page(query: Option<&str>, last: &str) -> String {
    let others = query.unwrap_or_default().split('&');
    let others: Vec<_> = others.filter(|pair| !pair.is_empty() && !pair.starts_with("after=")).collect();
    let after = format!("after={}", utf8_percent_encode(last, NON_ALPHANUMERIC));
    let query = others.into_iter().chain([&*after]).collect::<Vec<_>>().join("&");
    format!("</api/v1/rollout/clients?{query}>; rel=\"next\"")
}

/// Parses the filter and the page; an error is one line.
fn parse_query(query: Option<&str>) -> Result<(ClientFilter, ClientPage), String> {
    let (mut filter, mut page) = (ClientFilter::default(), ClientPage { after: None, limit: MAX_PAGE });
    for (name, value) in query_pairs(query) {
        let decoded = percent_decode_str(value).decode_utf8();
        let value = &*decoded.map_err(|_| format!("{name}: not UTF-8: encode it again"))?;
        match name {
            "client" => filter.client = Some(value.parse().map_err(|error| format!("client: {error}"))?),
            "group" => filter.group = Some(value.to_owned()),
            "light" => {
                let status = ClientStatus::ALL.into_iter().find(|status| status.as_str() == value);
                let unknown = || format!("light: {value:?} is not a status: use green, yellow, red or grey");
                filter.status = Some(status.ok_or_else(unknown)?);
            }
            "revision" => filter.revision = Some(parse_number(name, value)?),
            "after" => page.after = Some(value.parse().map_err(|error| format!("after: {error}"))?),
            "limit" => {
                page.limit = parse_number(name, value)?;
                if !(1..=MAX_PAGE).contains(&page.limit) {
                    return Err(format!("limit: must be 1 to {MAX_PAGE}: pages follow by after="));
                }
            }
            _ => {
                return Err(format!(
                    "{name:?} is not a parameter: use client, group, light, revision, after or limit"
                ));
            }
        }
    }
    Ok((filter, page))
}

fn parse_number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}: {value:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_selects_clients() {
        let query = "group=pilot&light=red&revision=7&limit=10&client=10.0.0.1&after=pc%2D1.example";
        let (filter, page) = parse_query(Some(query)).unwrap();
        let expected = ClientFilter {
            client: "10.0.0.1".parse().ok(),
            group: Some("pilot".to_owned()),
            status: Some(ClientStatus::Red),
            revision: Some(7.into()),
        };
        let after = "pc-1.example".parse().ok();
        assert_eq!((filter, page), (expected, ClientPage { after, limit: 10 }));
        let first = ClientPage { after: None, limit: MAX_PAGE };
        assert_eq!(parse_query(None).unwrap(), (ClientFilter::default(), first));
        let next = next_page(Some("group=a%2Fb&after=x&limit=10"), "10.0.0.1");
        assert_eq!(next, "</api/v1/rollout/clients?group=a%2Fb&limit=10&after=10%2E0%2E0%2E1>; rel=\"next\"");
    }

    #[test]
    fn invalid_query_is_one_line_error() {
        for (query, expected) in [
            ("light=blue", "use green, yellow"),
            ("revision=x", "not a number"),
            ("ring=a", "use client, group"),
            ("client=", "client: "),
            ("limit", "not a number"),
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("after=", "after: "),
            ("group=%ff", "not UTF-8"),
        ] {
            let error = parse_query(Some(query)).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }
}
