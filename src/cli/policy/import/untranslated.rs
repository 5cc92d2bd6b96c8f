//! Values of a policy that the translation does not read: listed with a reason, so that nothing is lost in silence.
//! Passwords are never shown.

use serde_json::Value;

use super::translation::ConfigDraft;
use gupd_config::Quantity;

/// Maximum number of rows of fields that gupd does not know.
const MAX_UNKNOWN: usize = 50;

/// Fields of the manager's console, which say nothing to clients.
const IGNORED: [&str; 6] = ["name", "desc", "sources", "lockedoptions", "lastmodifiedtime", "enabled"];

const WINDOWS: &str = "configuration.windows";

/// Parts of `configuration.windows` with the reason why they have no counterpart.
const REASONS: [(&str, &str); 9] = [
    ("server.gup.single_gup", "enter the address of the relay there, or give the relay this one"),
    ("server.gup.multi_gup", "rules elect Windows clients: use the relay as the single provider instead"),
    ("server.central_lu_servers", "an internal LiveUpdate server: add it as [[upstream]] if clients need it"),
    ("server.proxy", "the clients' proxy; a proxy of the relay is upstream.proxy"),
    ("server", "stays a setting of the clients"),
    ("schedule.av_def", "a condition on each client, which stays in the policy"),
    ("schedule.disconnection", "a condition on each client, which stays in the policy"),
    ("schedule", "stays a setting of the clients"),
    ("advanced", "stays a setting of the clients"),
];

/// Fields that the translation reads.
const TRANSLATED: [&str; 14] = [
    "server.gup.default_port",
    "server.gup.max_disk_cache_size",
    "server.gup.delete_unused_content_after",
    "server.gup.max_simultaneous_download",
    "server.gup.max_bandwidth_allowed",
    "server.gup.download_from_default_after",
    "server.gup.explicit_gup",
    "schedule.frequency",
    "schedule.download_interval",
    "schedule.start_hour",
    "schedule.start_minute",
    "schedule.day",
    "schedule.randomize_window",
    "schedule.retry_window",
];

/// Adds what the translation has not read of `policy`.
pub(super) fn add(policy: &Value, draft: &mut ConfigDraft) {
    let mut leaves = Vec::new();
    collect("", policy, &mut leaves);
    let (mut listed, mut unknown) = (Vec::<String>::new(), 0);
    for (path, value) in leaves {
        let top = path.split(['.', '[']).next().unwrap_or_default();
        if IGNORED.contains(&top) {
            continue;
        }
        if let Some(of_windows) = path.strip_prefix(WINDOWS).and_then(|rest| rest.strip_prefix('.')) {
            if TRANSLATED.iter().any(|field| is_within(of_windows, field)) {
                continue;
            }
            if let Some((_, reason)) = REASONS.iter().find(|(part, _)| of_windows.starts_with(part)) {
                draft.drop_field("", &format!("windows.{of_windows}"), &value, reason);
                continue;
            }
        }
        let platform =
            ["linux", "mac"].into_iter().find(|name| is_within(&path, &format!("configuration.{name}")));
        match platform {
            Some(name) if listed.iter().any(|other| other == name) => {}
            Some(name) => {
                listed.push(name.to_owned());
                let note = "the relay has one schedule, that of Windows; the clients keep theirs";
                draft.drop_field("", name, "settings", note);
            }
            None => {
                unknown += 1;
                if unknown <= MAX_UNKNOWN {
                    draft.drop_field("", &path, &value, "unknown to this version of gupd");
                }
            }
        }
    }
    if unknown > MAX_UNKNOWN {
        let count = format!("{} more", unknown - MAX_UNKNOWN);
        draft.drop_field("", "other fields", &count, "unknown to this version of gupd");
    }
}

/// Returns true if `path` is `field` or below it.
fn is_within(path: &str, field: &str) -> bool {
    path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Collects the values below `value` with their paths. Lists count as one value: a thousand rules are one row.
fn collect(path: &str, value: &Value, leaves: &mut Vec<(String, String)>) {
    let shown = match value {
        Value::Null => return,
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(&path, value, leaves);
            }
            return;
        }
        Value::Array(list) if list.is_empty() => return,
        Value::Array(list) => Quantity(list.len(), "entry").to_string(),
        Value::String(text) if text.is_empty() => return,
        Value::String(_) if path.to_lowercase().contains("password") => "not shown".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    };
    leaves.push((path.to_owned(), shown));
}
