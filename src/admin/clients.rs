//! `GET /api/v1/rollout/clients`: the clients that are known, each with what it sees and how it does. It has addresses and
//! names, so it is only for who knows the admin token.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;

use super::Admin;
use super::refresh::authorise;
use super::rollout::{pairs, refuse, written};
use gupd_rollout::clients::{ClientFilter, ClientStatus, MAX_LISTED};
use gupd_rollout::rings::Rings;

/// With `?client=`, `group=`, `light=`, `revision=` those for whom all of it holds; `limit=` is how many at most, the
/// latest seen first.
pub(super) async fn clients(State(admin): State<Admin>, uri: Uri, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorise(admin.token_file, &headers).await {
        return refuse(refusal);
    }
    let (filter, limit) = match parse(uri.query()) {
        Ok(parsed) => parsed,
        Err(why) => return refuse((StatusCode::BAD_REQUEST, why)),
    };
    if !admin.rollouts.are_on() {
        return refuse((StatusCode::NOT_FOUND, Rings::NONE.to_owned()));
    }
    written(&admin.rollouts.clients().list(&filter, limit).await)
}

/// Which clients, and how many; or what is wrong, in one line.
fn parse(query: Option<&str>) -> Result<(ClientFilter, usize), String> {
    let (mut filter, mut limit) = (ClientFilter::default(), MAX_LISTED);
    for (name, value) in pairs(query) {
        match name {
            "client" => filter.client = Some(value.parse().map_err(|error| format!("client: {error}"))?),
            "group" => filter.group = Some(value.to_owned()),
            "light" => {
                let status = ClientStatus::ALL.into_iter().find(|status| status.as_str() == value);
                let unknown = || format!("light: {value:?} is none of green, yellow, red, grey");
                filter.status = Some(status.ok_or_else(unknown)?);
            }
            "revision" => filter.revision = Some(number(name, value)?),
            "limit" => limit = number(name, value)?,
            _ => return Err(format!("{name:?} is none of client, group, light, revision, limit")),
        }
    }
    Ok((filter, limit))
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}: {value:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_which_clients_are_meant() {
        let (filter, limit) =
            parse(Some("group=pilot&light=red&revision=7&limit=10&client=10.0.0.1")).unwrap();
        let expected = ClientFilter {
            client: "10.0.0.1".parse().ok(),
            group: Some("pilot".to_owned()),
            status: Some(ClientStatus::Red),
            revision: Some(7.into()),
        };
        assert_eq!((filter, limit), (expected, 10));
        assert_eq!(parse(None).unwrap(), (ClientFilter::default(), MAX_LISTED));
    }

    #[test]
    fn a_query_that_means_nothing_is_said_in_one_line() {
        for (query, says) in [
            ("light=blue", "green, yellow"),
            ("revision=x", "not a number"),
            ("ring=a", "none of client"),
            ("client=", "client: "),
            ("limit", "not a number"),
        ] {
            let why = parse(Some(query)).unwrap_err();
            assert!(why.contains(says) && !why.contains('\n'), "{why}");
        }
    }
}
