//! Warm start: `GET /api/v1/store/content` lists the content of this relay; `POST /api/v1/store/warm` fetches content
//! that another one lists. The list shows the habits of clients, so it needs a token beyond this machine. A warm start
//! ends if its requester leaves; objects that have arrived stay stored.

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::ReadAccess;
use super::openapi::Failure;
use super::request_body::read_command;
use super::{AdminApi, json_response, problem, query_pairs};
use gupd_refresh::{ContentItem, ContentList, WarmReport};

/// Maximum number of objects of one warm start.
const MAX_OBJECTS: usize = 64;

/// Request of a warm start.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmRequest {
    /// At most 64 objects, in the order in which they are fetched.
    pub objects: Vec<ContentItem>,
}

#[utoipa::path(
    get, path = "/api/v1/store/content", operation_id = "list_content",
    params(("after" = Option<i64>, Query, description = "`next` of the part before")),
    responses((status = 200, body = ContentList), Failure),
)]
pub(super) async fn list(_: ReadAccess, State(api): State<AdminApi>, uri: Uri) -> Response {
    let after = match parse_query(uri.query()) {
        Ok(after) => after,
        Err(message) => return problem::respond((StatusCode::BAD_REQUEST, message)),
    };
    match api.refresher.list_content(after).await {
        Ok(list) => json_response(&list),
        Err(error) => problem::respond((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
}

#[utoipa::path(
    post, path = "/api/v1/store/warm", operation_id = "warm",
    security(("token" = [])),
    request_body = WarmRequest,
    responses((status = 200, body = WarmReport), Failure),
)]
pub(super) async fn warm(State(api): State<AdminApi>, request: Request) -> Response {
    match read_command(&api, request, parse).await {
        Ok(WarmRequest { objects }) => match api.refresher.warm(&objects).await {
            Ok(report) => json_response(&report),
            Err(error) => problem::respond((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
        },
        Err(refusal) => problem::respond(refusal),
    }
}

/// Parses the query; an error is one line.
fn parse_query(query: Option<&str>) -> Result<i64, String> {
    let mut after = 0;
    for (name, value) in query_pairs(query) {
        match name {
            "after" => after = value.parse().map_err(|_| format!("after: {value:?} is not a number"))?,
            _ => return Err(format!("{name:?} is not a parameter: use after")),
        }
    }
    Ok(after)
}

fn parse(body: &[u8]) -> Result<WarmRequest, String> {
    const EXAMPLE: &str = r#"send JSON such as {"objects": [{"key": "/ /content/a/full.zip"}]}"#;
    let request: WarmRequest =
        serde_json::from_slice(body).map_err(|error| format!("warm: invalid: {error}: {EXAMPLE}"))?;
    if request.objects.len() > MAX_OBJECTS {
        return Err(format!("warm: more than {MAX_OBJECTS} objects: send them in parts"));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_warm_request_is_one_line_error() {
        let many = format!(r#"{{"objects":[{}]}}"#, [r#"{"key":"/ /a"}"#; MAX_OBJECTS + 1].join(","));
        for (body, expected) in [
            ("", "warm: invalid"),
            ("{}", "missing field `objects`"),
            (r#"{"objects":[{}]}"#, "missing field `key`"),
            (r#"{"objects":[{"key":"/ /a","url":"http://elsewhere/"}]}"#, "unknown field `url`"),
            (r#"{"objects":[{"key":"/ /a","bytes":-1}]}"#, "warm: invalid"),
            (r#"{"objects":[],"by":"anna"}"#, "unknown field `by`"),
            (&many, "more than 64"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{body}: {error}");
        }
        let most = format!(r#"{{"objects":[{}]}}"#, [r#"{"key":"/ /a"}"#; MAX_OBJECTS].join(","));
        assert_eq!(parse(most.as_bytes()).unwrap().objects.len(), MAX_OBJECTS);
    }

    #[test]
    fn query_has_the_row_to_continue_after() {
        assert_eq!((parse_query(None), parse_query(Some("after=7"))), (Ok(0), Ok(7)));
        for (query, expected) in [("after=", "not a number"), ("limit=5", "use after")] {
            let error = parse_query(Some(query)).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }
}
