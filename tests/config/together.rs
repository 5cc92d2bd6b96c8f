//! Settings that contradict each other, and URLs of upstreams.

use gupd_config::Config;
use gupd_config::Overrides;

use crate::{MANAGER, load, load_with, problems};

#[test]
fn upstream_url_is_scheme_host_and_port_only() {
    for (url, expected) in [
        ("http://manager:8014/content", "has a path"),
        ("http://manager:8014/?a=b", "has a query"),
        ("http://manager#x", "has a query or fragment"),
        ("http://user:secret@manager:8014", "contains credentials"),
        ("ftp://manager", "has the scheme ftp: use http or https"),
        ("manager:8014", "has no scheme"),
        ("/content", "has no scheme"),
        ("http://", "is not a URL"),
        ("http://:8014", "is not a URL"),
        ("http://manager:", "is not a URL"),
        ("http://manager:0", "is not a URL"),
        ("http://manager:99999", "is not a URL"),
        ("http://man ager", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("", "is not a URL"),
    ] {
        let lines = problems(Config::for_upstreams(&[url]));
        assert!(lines.len() == 1 && lines[0].starts_with("--upstream: "), "{url}: {lines:?}");
        assert!(lines[0].contains(expected), "{url}: {lines:?}");
        assert!(!lines[0].contains("secret"), "{lines:?}");
    }
    for url in
        ["http://manager", "HTTPS://manager:443/", "http://[::1]:8014", "http://192.0.2.1", "http://[::1]"]
    {
        assert!(Config::for_upstreams(&[url]).is_ok(), "{url}");
    }
}

#[test]
fn contradicting_tables_are_refused() {
    let text = format!(
        "{MANAGER}{MANAGER}\
[[upstream]]
name = \"no url\"
[[route]]
prefix = \"/content\"
upstreams = [\"other\"]
[[route]]
prefix = \"/Content/\"
[[route]]
prefix = \"content\"
[[route]]
prefix = \"/a/../b\"
[[route]]
host = \"a.example:80\"
profile = \"symantec\"
[[route]]
prefix = \"/x\"
name = \"/content\"
upstreams = []
[[content_type]]
name = \"Virus\"
guid = \"{{1234}}\"
[[content_type]]
name = \"x\"
[[content_type]]
name = \"x\"
guid = \"{{535CB6A4-441F-4e8a-A897-804CD859100E}}\"
pattern = \"**\"
[[rule]]
pattern = \"/a/[b\"
class = \"forever\"
[[route]]
prefix = \"/b\"
name = \"@b\"
"
    );
    let expected = [
        "gupd.toml:3: upstream.name: duplicate name \"manager:8014\": give each upstream its own name",
        "gupd.toml:5: upstream.url: missing required key",
        "gupd.toml:6: upstream.name: \"no url\" is not a valid name: use 1 to 128 ASCII characters without spaces or commas",
        "gupd.toml:9: route.upstreams: unknown upstream \"other\": known upstreams are manager:8014, manager:8014",
        "gupd.toml:11: route.prefix: duplicate prefix \"/Content\": route \"/content\" already has it",
        "gupd.toml:13: route.prefix: \"content\" does not start with /: write it like /content",
        "gupd.toml:15: route.prefix: \"/a/../b\" has an empty, \".\" or \"..\" segment, which no request path has",
        "gupd.toml:16: route.prefix: missing required key",
        "gupd.toml:17: route.host: \"a.example:80\" is not a host: write it like updates.example, without a port",
        "gupd.toml:18: route.profile: invalid value \"symantec\": use one of auto, clamav, debian, eset, generic, liveupdate, microsoft-do, sep, trellix, trend-micro",
        "gupd.toml:21: route.name: duplicate name \"/content\": give each route its own name",
        "gupd.toml:22: route.upstreams: empty list: add a value or remove the key",
        "gupd.toml:24: content_type.name: \"Virus\" is not a valid name: use 1 to 128 characters from a-z, 0-9 and -",
        "gupd.toml:25: content_type.guid: \"{1234}\" is not a GUID: write it like {07b590b3-9282-482f-bbaa-6d515d385869}",
        "gupd.toml:26: content_type.guid: missing matcher: set guid or pattern",
        "gupd.toml:31: content_type.pattern: is set beside guid: write one [[content_type]] for each",
        "gupd.toml:33: rule.pattern: invalid pattern \"/a/[b\": unclosed character class; missing ']'",
        "gupd.toml:34: rule.class: invalid value \"forever\": use one of payload, catalog, private, generic",
        "gupd.toml:37: route.name: \"@b\" starts with @, which marks cache keys of copies: use another name",
    ];
    assert_eq!(problems(load(&text)), expected);
}

#[test]
fn conflicting_listen_addresses_are_refused() {
    for (listen, admin, refused) in [
        ("127.0.0.1:1", "127.0.0.1:1", true),
        ("0.0.0.0:1", "127.0.0.1:1", true),
        ("[::]:1", "[::1]:1", true),
        ("0.0.0.0:1", "[::1]:1", false),
        ("192.0.2.1:1", "127.0.0.1:1", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
        ("127.0.0.1:1,127.0.0.1:1", "127.0.0.1:2", true),
        ("127.0.0.1:1,[::1]:1", "127.0.0.1:2", false),
    ] {
        let env = [("GUPD_SERVER_LISTEN", listen), ("GUPD_SERVER_ADMIN", admin)];
        let result = load_with(MANAGER, &Overrides::default(), &env);
        assert_eq!(result.is_err(), refused, "{listen} {admin}: {result:?}");
    }
}
