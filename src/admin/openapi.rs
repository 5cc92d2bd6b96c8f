//! The description of the API, `GET /api/v1/openapi.json` (OpenAPI 3.1). It is generated from the handlers and their
//! types: the attributes beside each handler name its parameters and bodies, and a test compares it with the routes.
//! The program has the generated text, because the code that generates it takes half a megabyte.

use axum::http::header;
use axum::response::{IntoResponse, Response};
#[cfg(test)]
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoResponses, ToSchema};
#[cfg(test)]
use utoipa::{Modify, OpenApi};

use super::problem;
#[cfg(test)]
use super::{
    clients, commands, content, events, fills, held, inventory, purge, rollout, status, traffic, warm,
};

/// The description; `UPDATE_REFERENCES=1 cargo nextest run -p gupd-admin openapi` writes it anew.
const DESCRIPTION: &str = include_str!("openapi.json");

/// The routes of the API.
#[cfg(test)]
#[derive(OpenApi)]
#[openapi(
    info(
        title = "gupd",
        description = "API of a relay, on its admin address. Requests of the relay's own machine may read without a token.",
        license(name = "Apache-2.0"),
    ),
    paths(
        commands::refresh,
        commands::reload,
        commands::upgrade,
        commands::start_drain,
        commands::end_drain,
        purge::purge,
        status::status,
        traffic::report,
        events::list,
        content::list,
        fills::list,
        inventory::show,
        inventory::replace,
        inventory::remove,
        held::list,
        held::decide,
        warm::list,
        warm::warm,
        rollout::status,
        rollout::command,
        clients::list,
        rollout::view,
    ),
    // Schemas of responses that several operations share are not found by themselves.
    components(schemas(problem::ProblemDocument)),
    security(("token" = []), ()),
    modifiers(&Tokens),
)]
struct ApiDescription;

/// The admin tokens.
#[cfg(test)]
struct Tokens;

#[cfg(test)]
impl Modify for Tokens {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let token =
            token.description(Some("A token of server.admin_token_file. Changes need the role operate."));
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(token.build()));
    }
}

/// Any error: a problem document (RFC 9457).
#[derive(IntoResponses)]
#[response(status = "default", content_type = "application/problem+json")]
#[allow(dead_code, reason = "only its type is read")]
pub(super) struct Failure(problem::ProblemDocument);

/// A command for `POST /api/v1/rollout`, with its author. Each order has fields of its own.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its type is read")]
pub(super) struct RolloutRequest {
    /// The command.
    #[schema(value_type = RolloutOrder)]
    order: (),
    /// Author.
    #[schema(min_length = 1, max_length = 100)]
    by: String,
    /// Reason, for the audit log.
    #[schema(max_length = 1000)]
    reason: Option<String>,
    /// Only returns which clients would see which revision.
    dry_run: Option<bool>,
    /// Group: of hold, rollback and release.
    group: Option<String>,
    /// Number of a revision for name; number or name, as text, for hold and rollback.
    #[schema(value_type = Option<serde_json::Value>)]
    revision: (),
    /// Name: of name and unname.
    name: Option<String>,
    /// Ring: of promote.
    ring: Option<String>,
    /// Whether release shows the newest revision at once.
    now: Option<bool>,
}

/// The commands of rollouts.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its type is read")]
#[schema(rename_all = "kebab-case")]
enum RolloutOrder {
    Name,
    Unname,
    Hold,
    Rollback,
    Release,
    Halt,
    Resume,
    Promote,
}

pub(super) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use gupd_rollout::command::RolloutCommand;

    fn api() -> Value {
        serde_json::to_value(ApiDescription::openapi()).unwrap()
    }

    #[test]
    fn description_of_the_program_is_current() {
        let current = serde_json::to_string(&ApiDescription::openapi()).unwrap() + "\n";
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        if std::env::var_os("UPDATE_REFERENCES").is_some() {
            std::fs::write(&file, &current).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap();
        assert!(written == current, "src/admin/openapi.json is not current: run with UPDATE_REFERENCES=1");
    }

    #[test]
    fn description_has_every_route_of_the_api() {
        // The list of routes in lib.rs.
        let source = include_str!("lib.rs");
        let routes = source.split(".route(").skip(1).filter_map(|rest| rest.split('"').nth(1));
        let routes = routes.filter(|path| path.starts_with("/api/") && *path != "/api/v1/openapi.json");
        let routes: BTreeSet<String> = routes.map(str::to_owned).collect();
        let api = api();
        let described: BTreeSet<String> = api["paths"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(described, routes);
        for (path, operations) in api["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let problem = &operation["responses"]["default"]["content"]["application/problem+json"];
                assert_eq!(
                    problem["schema"]["$ref"], "#/components/schemas/ProblemDocument",
                    "{method} {path}"
                );
                let only_token = serde_json::json!([{ "token": [] }]);
                assert_eq!(operation["security"] == only_token, method != "get", "{method} {path}");
            }
        }
    }

    #[test]
    fn every_reference_has_its_schema() {
        let api = api();
        let text = api.to_string();
        let references =
            text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split_once('"'));
        let references: BTreeSet<&str> = references.map(|(name, _)| name).collect();
        assert!(references.len() > 20, "{references:?}");
        for name in references {
            assert!(api["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn described_command_is_that_of_the_code() {
        let text = |text: &str| text.to_owned();
        let commands = [
            RolloutCommand::Name { revision: 1.into(), name: text("a") },
            RolloutCommand::Unname { name: text("a") },
            RolloutCommand::Hold { group: text("a"), revision: text("1") },
            RolloutCommand::Rollback { group: text("a"), revision: Some(text("1")) },
            RolloutCommand::Release { group: Some(text("a")), now: true },
            RolloutCommand::Halt,
            RolloutCommand::Resume,
            RolloutCommand::Promote { ring: text("a") },
        ];
        let api = api();
        let schemas = &api["components"]["schemas"];
        let fields = &schemas["RolloutRequest"]["properties"];
        let mut orders: Vec<Value> = Vec::new();
        for command in &commands {
            let command = serde_json::to_value(command).unwrap();
            orders.push(command["order"].clone());
            for field in command.as_object().unwrap().keys() {
                assert!(fields.get(field).is_some(), "{field} of {command}");
            }
        }
        assert_eq!(schemas["RolloutOrder"]["enum"], Value::from(orders));
    }
}
