//! Fields by which a client asks for another response than other clients get, or identifies itself in a way of its own.
//! The invariant: no fill that other clients share sends one of them. Servers seldom list them in `Vary`. Any further name
//! may be such a field too, but `Vary` must be able to select by it, and a number in each request must not end sharing.

use http::{HeaderMap, HeaderName};

use gupd_config::Class;

/// Names of such fields, by their source.
const NAMES: [&str; 37] = [
    // Negotiation: RFC 7240, RFC 7089, RFC 2295, RFC 2774.
    "prefer",
    "accept-datetime",
    "negotiate",
    "accept-features",
    "man",
    "opt",
    "c-man",
    "c-opt",
    // WebDAV: RFC 4918, RFC 3253, RFC 4437, RFC 5323 and Exchange.
    "apply-to-redirect-ref",
    "brief",
    "dav",
    "depth",
    "destination",
    "if",
    "label",
    "lock-token",
    "overwrite",
    // Calls of programs.
    "soapaction",
    // Parts of a page in place of the page.
    "rsc",
    "turbo-frame",
    "x-inertia",
    "x-pjax",
    "x-up-target",
    // Directions to a server behind a proxy.
    "x-reproxy-url",
    "x-sendfile",
    "x-sendfile-type",
    // Credentials beside `Authorization`.
    "api-key",
    "x-access-token",
    "x-amz-security-token",
    "x-api-key",
    "x-api-token",
    "x-auth-key",
    "x-auth-token",
    "x-csrf-token",
    "x-goog-api-key",
    "x-vault-token",
    "x-xsrf-token",
];

/// Beginnings of names: of nginx, of frameworks and their debuggers.
const PREFIXES: [&str; 7] =
    ["hx-", "next-", "x-accel-", "x-debug", "x-middleware-", "x-nextjs-", "x-vercel-"];

/// Returns true if a request has a field that no shared fill may send. Fills of payloads and catalogs send few fields,
/// and none of these.
pub fn has_special_field(client: &HeaderMap, class: Class) -> bool {
    class == Class::Generic && client.keys().any(is_special)
}

fn is_special(name: &HeaderName) -> bool {
    let name = name.as_str();
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
