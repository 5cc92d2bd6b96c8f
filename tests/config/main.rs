//! Loading of the configuration: files, variables and flags give settings, or problems.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail the test")]

mod bindings;
mod cache;
mod denials;
mod doubts;
mod groups;
mod guard;
mod health;
mod limits;
mod peers;
mod profiles;
mod refresh;
mod rings;
mod together;
mod upstreams;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gupd_config::{
    Binding, CertificateFiles, Class, Config, ContentMatch, Fallback, GroupSettings, Location, LogFormat,
    Overrides, Problem, Problems, RateSchedule, Rule,
};

const MANAGER: &str = "[[upstream]]\nurl = \"http://manager:8014\"\n";

fn load_with(text: &str, overrides: &Overrides, env: &[(&str, &str)]) -> Result<Config, Problems> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gupd.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(
        overrides,
        Some(&path),
        env.iter().map(|(name, value)| (name.to_string(), value.to_string())),
    )
}

fn load(text: &str) -> Result<Config, Problems> {
    load_with(text, &Overrides::default(), &[])
}

// Lines of problems without the folder of the file.
fn problems(result: Result<Config, Problems>) -> Vec<String> {
    let problems = result.expect_err("the configuration has problems");
    assert_eq!(problems.to_string().lines().count(), problems.iter().count());
    problems
        .iter()
        .map(|problem| {
            let line = problem.to_string();
            match line.split_once("gupd.toml") {
                Some((dir, rest)) if Path::new(dir).is_absolute() => format!("gupd.toml{rest}"),
                _ => line,
            }
        })
        .collect()
}

fn repository(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

// The documentation's file with every line that is a commented setting or table header uncommented.
fn every_setting() -> String {
    let is_setting = |line: &str| {
        line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '`']))
    };
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(rest) if is_setting(rest) => rest.to_owned(),
        _ => line.to_owned(),
    };
    let text: String = repository("config/gupd.toml").lines().map(|line| uncommented(line) + "\n").collect();
    // The folder exists on no machine of tests: that of the built-in profiles has the same ones.
    text.replace("/etc/gupd/profiles", concat!(env!("CARGO_MANIFEST_DIR"), "/config/profiles"))
}

#[test]
fn documented_file_loads_and_equals_the_defaults() {
    let upstream = Overrides { upstream: vec!["http://manager.example:8014".into()], ..Overrides::default() };
    let documented = load_with(&repository("config/gupd.toml"), &upstream, &[]).unwrap();
    let mut expected = Config::for_upstreams(&["http://manager.example:8014"]).unwrap();
    expected.store.dir.clone_from(&documented.store.dir);
    assert_eq!(documented, expected);
}

#[test]
fn documented_defaults_equal_those_in_the_code() {
    let documented = load(&every_setting()).unwrap();
    let mut expected = Config::for_upstreams(&["http://manager.example:8014"]).unwrap();
    // The settings that have no default, or one of the machine.
    expected.server.tls =
        Some(CertificateFiles { cert: "/etc/gupd/tls.pem".into(), key: "/etc/gupd/tls.key".into() });
    expected.server.client_ca = Some("/etc/gupd/site-ca.pem".into());
    expected.server.public_names.clone_from(&documented.server.public_names);
    expected.store.dir = "/var/lib/gupd".into();
    expected.upstreams[0].public_url = Some("https://manager.example".parse().unwrap());
    expected.routes[0].fallback = Some(Fallback::Relay);
    expected.upstreams[0].priority = Some(1);
    expected.upstreams[0].check = Some("/secars/secars.dll?hello,secars".parse().unwrap());
    expected.routes[0].host = Some("updates.example".into());
    expected.routes[0].name = "updates.example/".into();
    expected.content_types.clone_from(&documented.content_types);
    expected.rules.clone_from(&documented.rules);
    expected.site.time_zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
    expected.wan.congestion = Some("lp".into());
    expected.wan_limits.clone_from(&documented.wan_limits);
    expected.server.admin_token_file = Some("/etc/gupd/admin-token".into());
    expected.refresh.catalogs = vec!["/minitri.flg".parse().unwrap()];
    expected.prefetch.paths.clone_from(&documented.prefetch.paths);
    expected.upstreams.push(documented.upstreams[1].clone());
    expected.peers.clone_from(&documented.peers);
    let mut group = GroupSettings::catch_all("branch-a");
    group.location.clone_from(&documented.groups[0].location);
    group.subnets.clone_from(&documented.groups[0].subnets);
    group.certificates.clone_from(&documented.groups[0].certificates);
    group.paths.clone_from(&documented.groups[0].paths);
    group.binding = Binding::new(&documented.upstreams, vec![1]).map(Arc::new);
    (group.deny, group.allow) = (vec!["iron-revocation".into()], vec!["client-patches".into()]);
    expected.routes[0].deny_download = vec!["submission-control".into()];
    expected.groups = vec![group];
    expected.rings.clone_from(&documented.rings);
    // The hosts are examples, and the only route is for one of them.
    let is_expected = |warning: &Problem| {
        let line = warning.to_string();
        line.contains(" is reserved for examples ") || line.contains(" is on no [[route]] without a host")
    };
    assert!(documented.warnings.iter().all(is_expected), "{:?}", documented.warnings);
    expected.warnings.clone_from(&documented.warnings);
    assert_eq!(documented, expected);
    assert_eq!(documented.upstreams.len(), 2);
    assert_eq!(documented.peers.len(), 2);
    assert_eq!(documented.server.public_names.len(), 2);
    assert_eq!(documented.wan_limits.len(), 2);
    assert_eq!(documented.content_types.len(), 3);
    assert_eq!(documented.rules.len(), 1);
    assert_eq!(documented.rings.len(), 2);
    assert_eq!(documented.prefetch.paths.len(), 1);
}

#[test]
fn every_known_key_is_documented() {
    let text = every_setting();
    let mut known = 0;
    for section in [
        "server",
        "store",
        "fill",
        "health",
        "cache",
        "log",
        "guard",
        "site",
        "wan",
        "lan",
        "refresh",
        "prefetch",
        "upstream",
        "peer",
        "route",
        "content_type",
        "rule",
        "wan_limit",
        "group",
        "policy",
        "rollout",
        "ring",
    ] {
        let [one, many] = [format!("\n[{section}]\n"), format!("\n[[{section}]]\n")];
        let table = if text.contains(&many) { many } else { one };
        let documented: Vec<&str> = text
            .split(&table)
            .skip(1)
            .flat_map(|part| part.lines().take_while(|line| !line.starts_with('[')))
            .filter_map(|line| line.split_once(" = ").map(|(key, _)| key))
            .collect();
        let wrong = text.replacen(&table, &format!("{table}xxxxxxxx = 1\n"), 1);
        let lines = problems(load(&wrong));
        let keys =
            lines.iter().find_map(|line| line.split_once(&format!("unknown key: {section} has the keys ")));
        for key in keys.unwrap().1.split(", ") {
            assert!(documented.contains(&key), "{section}.{key} is not in config/gupd.toml");
            known += 1;
        }
    }
    assert!(known > 75, "only {known} keys were found");
}

#[test]
fn every_documented_key_is_also_a_variable() {
    let text = every_setting();
    let section =
        |name: &str| text.split(&format!("\n[{name}]\n")).nth(1).unwrap().split("\n[").next().unwrap();
    let mut checked = 0;
    for name in ["server", "store", "fill", "cache", "log", "site", "wan", "lan", "refresh", "prefetch"] {
        for (key, value) in section(name).lines().filter_map(|line| line.split_once(" = ")) {
            let variable = format!("GUPD_{}_{}", name.to_uppercase(), key.to_uppercase());
            // A list is separated by commas in the environment, without quotation marks.
            let value = value.trim_matches(['[', ']']).replace('"', "");
            let env =
                [(variable.as_str(), &*value), ("GUPD_SERVER_TLS_CERT", "c"), ("GUPD_SERVER_TLS_KEY", "k")];
            load_with(MANAGER, &Overrides::default(), &env).unwrap();
            checked += 1;
        }
    }
    assert!(checked > 48, "only {checked} variables were checked");
}

#[test]
fn example_files_load() {
    let mut examples = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples")).unwrap() {
        let path = entry.unwrap().path();
        if let Err(problems) = Config::load(&Overrides::default(), Some(&path), std::iter::empty()) {
            panic!("{problems}");
        }
        examples += 1;
    }
    assert!(examples >= 2);
}

#[test]
fn configuration_without_file_needs_only_an_upstream() {
    let config = Config::for_upstreams(&["http://one:8014", "https://Two"]).unwrap();
    let named: Vec<_> = config.upstreams.iter().map(|u| (u.name.as_str(), u.url.to_string())).collect();
    assert_eq!(named, [("one:8014", "http://one:8014/".into()), ("two", "https://Two/".into())]);
    for upstream in &config.upstreams {
        assert_eq!(
            (&upstream.limit, upstream.priority, &upstream.check),
            (&RateSchedule::unlimited(), None, &None)
        );
    }
    assert_eq!(config.routes.len(), 1);
    assert_eq!(
        (config.routes[0].prefix.as_str(), config.routes[0].upstreams.as_slice()),
        ("/", [0, 1].as_slice())
    );
    assert_eq!(config.server.listen, ["0.0.0.0:2967".parse().unwrap()]);
    assert_eq!(config.store.quota, 40 << 30);
    assert_eq!(config.cache.stale_if_error, Duration::from_secs(7 * 86_400));
}

#[test]
fn flag_precedes_variable_precedes_file_precedes_default() {
    let file = format!(
        "[server]\nlisten = [\"127.0.0.1:1\"]\nadmin = \"127.0.0.1:2\"\nmax_connections = 3\n[log]\nformat = \"json\"\n\
         {MANAGER}[[upstream]]\nurl = \"http://other\"\n"
    );
    let env = [
        ("GUPD_SERVER_LISTEN", "127.0.0.1:11, [::1]:12"),
        ("GUPD_SERVER_ADMIN", "127.0.0.1:13"),
        ("GUPD_SERVER_MAX_CONNECTIONS", "14"),
        ("GUPD_UPSTREAM", "http://a,http://b"),
    ];
    let overrides = Overrides {
        listen: vec!["127.0.0.1:21".into(), "127.0.0.1:22".into()],
        upstream: vec!["http://flag".into()],
        store: Some("/flag".into()),
        ..Overrides::default()
    };
    let names =
        |config: &Config| config.upstreams.iter().map(|u| u.name.clone()).collect::<Vec<_>>().join(" ");
    let ports = |config: &Config| config.server.listen.iter().map(|a| a.port()).collect::<Vec<_>>();

    let config = load(&file).unwrap();
    assert_eq!((ports(&config), names(&config).as_str()), (vec![1], "manager:8014 other"));
    assert_eq!((config.server.max_connections, config.log.format), (3, LogFormat::Json));

    let config = load_with(&file, &Overrides::default(), &env).unwrap();
    assert_eq!((ports(&config), names(&config).as_str()), (vec![11, 12], "a b"));
    assert_eq!((config.server.admin.port(), config.server.max_connections), (13, 14));

    let config = load_with(&file, &overrides, &env).unwrap();
    assert_eq!((ports(&config), names(&config).as_str()), (vec![21, 22], "flag"));
    assert_eq!((config.server.admin.port(), config.store.dir.as_path()), (13, Path::new("/flag")));
}

#[test]
fn all_problems_are_reported_with_file_line_and_key() {
    let text = "\
[store]
quotta = \"1GiB\"
quota = \"fourty\"
memory = [1, 2]
max_unused = { a = 1 }

[stor]
x = 1

[server]
listen = [
  \"0.0.0.0:2967\",
  \"2967\",
]
workers = 0
access = true
";
    let env = [("GUPD_FILL_ATTEMPTS", "many"), ("GUPD_FILL_ATEMPTS", "1"), ("GUPD_QUOTA", "1GiB")];
    let overrides =
        Overrides { admin: Some("localhost".into()), tls_cert: Some("x".into()), ..Overrides::default() };
    let expected = [
        "--admin: \"localhost\" is not an address with a port: write it like 0.0.0.0:2967 or [::1]:2967",
        "--tls-cert: is set without tls_key: set both or neither",
        "environment GUPD_FILL_ATEMPTS: fill.atempts: unknown key: did you mean attempts?",
        "environment GUPD_FILL_ATTEMPTS: fill.attempts: \"many\" is not a whole number: use 1 to 100",
        "environment GUPD_QUOTA: unknown variable: use GUPD_<SECTION>_<KEY> or GUPD_UPSTREAM",
        "gupd.toml: no upstream is configured: add [[upstream]] to it, or pass --upstream URL",
        "gupd.toml:2: store.quotta: unknown key: did you mean quota?",
        "gupd.toml:3: store.quota: \"fourty\" is not a size: write it like 40GiB",
        "gupd.toml:4: store.memory: expected one value, found a list",
        "gupd.toml:5: store.max_unused: expected one value, found a table",
        "gupd.toml:7: stor: unknown section: did you mean store?",
        "gupd.toml:13: server.listen: \"2967\" is not an address with a port: write it like 0.0.0.0:2967 or [::1]:2967",
        "gupd.toml:15: server.workers: 0 is below the minimum of 1",
        "gupd.toml:16: server.access: unknown key: it belongs to [log]: write or uncomment that line above it",
    ];
    assert_eq!(problems(load_with(text, &overrides, &env)), expected);
}

#[test]
fn toml_syntax_error_is_one_problem_with_its_line() {
    let lines = problems(load("[server]\nworkers = 1\nlisten = [\n[store\n"));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("gupd.toml:4: "), "{lines:?}");
}

#[test]
fn syntax_error_ends_with_its_remedy() {
    for (text, remedy) in [
        ("[store]\nquota = 40GiB\n", "write it in double quotation marks"),
        ("[store]\ndir = /var/lib/gupd\n", "write it in double quotation marks"),
        ("[store]\ndir = “/var/lib/gupd”\n", "write it in double quotation marks"),
        (
            "[store]\ndir = \"C:\\certs\"\n",
            "write two backslashes for one, or the text in single quotation marks",
        ),
        ("[log]\naccess = True\n", "write true or false"),
        ("[store]\nquota: \"40GiB\"\n", "write key = value"),
    ] {
        let lines = problems(load(text));
        assert!(lines.len() == 1 && lines[0].starts_with("gupd.toml:2: "), "{lines:?}");
        assert!(lines[0].ends_with(remedy), "{lines:?}");
    }
}

#[test]
fn flag_that_replaces_named_upstreams_is_named() {
    let text = "[[upstream]]\nname = \"sepm\"\nurl = \"http://sepm\"\n[[route]]\nprefix = \"/\"\nupstreams = [\"sepm\"]\n\
                [[group]]\nname = \"a\"\nupstreams = [\"sepm\"]\n";
    let flag = Overrides { upstream: vec!["http://other".into()], ..Overrides::default() };
    for (overrides, env, by) in [
        (flag, &[][..], "--upstream"),
        (Overrides::default(), &[("GUPD_UPSTREAM", "http://other")], "environment GUPD_UPSTREAM"),
    ] {
        let reason = format!("known upstreams are other, because {by} replaces those of the file");
        let lines = problems(load_with(text, &overrides, env));
        assert_eq!(lines.iter().filter(|line| line.ends_with(&reason)).count(), 2, "{lines:?}");
    }
    let lines = problems(load("[[route]]\nprefix = \"/\"\nupstreams = [\"sepm\"]\n"));
    assert!(lines[1].ends_with("unknown upstream \"sepm\": no upstream is configured"), "{lines:?}");
}

#[test]
fn duplicate_key_names_the_key_and_its_first_line() {
    for (text, expected) in [
        (
            "[store]\nquota = 1\nquota = 2\n",
            "gupd.toml:3: store.quota: duplicate key: line 2 has it already: remove one of the two lines",
        ),
        (
            "[store]\nquota = 1\n\n[log]\n[store]\nmemory = 2\n",
            "gupd.toml:5: store: duplicate key: line 1 has it already: move these settings there, and remove this line",
        ),
        (
            "[[upstream]]\nurl = \"http://a\"\n[[upstream]]\nname = \"b\"\nurl = \"http://b\"\nname = \"c\"\n",
            "gupd.toml:6: upstream.name: duplicate key: line 4 has it already: remove one of the two lines",
        ),
        (
            "[[upstream]]\nurl = \"http://a\"\n[upstream]\nurl = \"http://b\"\n",
            "gupd.toml:3: upstream: duplicate key: line 1 has it already: write this line with two brackets, as a further \
             one of the list",
        ),
        (
            "# head\n[wan]\nlimit = \"1Mbit/s\"\n[[wan]]\n",
            "gupd.toml:4: wan: duplicate key: line 2 has it already: write this line with one bracket, and move its \
             settings there",
        ),
        (
            "store = { quota = 1 }\n[log]\nlevel = \"info\"\n[store]\n",
            "gupd.toml:4: store: duplicate key: line 1 has it already: move these settings there, and remove this line",
        ),
        (
            "store.quota = 1\nstore.memory = 1\n[store]\n",
            "gupd.toml:3: store: duplicate key: line 1 has it already: move these settings there, and remove this line",
        ),
        (
            "[server]\nlisten = [\n  \"127.0.0.1:1\",\n]\n'listen' = \"127.0.0.1:2\"\n",
            "gupd.toml:5: server.listen: duplicate key: line 2 has it already: remove one of the two lines",
        ),
        (
            "[log]\r\n[log]\r\n",
            "gupd.toml:2: log: duplicate key: line 1 has it already: move these settings there, \
             and remove this line",
        ),
    ] {
        assert_eq!(problems(load(text)), [expected], "{text}");
    }
    // On one line.
    let lines = problems(load("store = { quota = 1, quota = 2 }\n"));
    assert_eq!(lines, ["gupd.toml:1: duplicate key"]);
}

#[test]
fn key_of_another_section_names_that_section() {
    for (text, expected) in [
        ("quota = 1", "gupd.toml:1: quota: key outside a section: it belongs to [store]: "),
        ("[log]\nquota = 1", "gupd.toml:2: log.quota: unknown key: it belongs to [store]: "),
        (
            "[store]\ncatalog_fresh = 1",
            "gupd.toml:2: store.catalog_fresh: unknown key: it belongs to [cache]: ",
        ),
        ("[wan]\nlisten = 1", "gupd.toml:2: wan.listen: unknown key: it belongs to [server]: "),
        ("[server]\nurl = 1", "gupd.toml:2: server.url: unknown key: it belongs to [[upstream]]: "),
        ("[fill]\nschedule = 1", "gupd.toml:2: fill.schedule: unknown key: it belongs to [refresh]: "),
        ("[log]\nretry = 1", "gupd.toml:2: log.retry: unknown key: it belongs to [health] or [refresh]: "),
        // A typing error is more likely.
        ("[log]\nlevle = 1", "gupd.toml:2: log.levle: unknown key: did you mean level?"),
        ("stroe = 1", "gupd.toml:1: stroe: key outside a section: did you mean store?"),
        ("[log]\nLEVEL = 1", "gupd.toml:2: log.LEVEL: unknown key: did you mean level?"),
        (
            "[store]\nserver.admin_token_file = \"/t\"",
            "gupd.toml:2: store.server: unknown key: server is a section: write [server] on a line of its own",
        ),
        ("[log]\nnonsense = 1", "gupd.toml:2: log.nonsense: unknown key: log has the keys "),
        ("nonsense = 1", "gupd.toml:1: nonsense: key outside a section: the sections are server, store, "),
    ] {
        let upstream = Overrides { upstream: vec!["http://manager".into()], ..Overrides::default() };
        let lines = problems(load_with(text, &upstream, &[]));
        // --upstream replaces the upstreams of the file, so that their keys are known only by name.
        assert!(lines.len() == 1 && lines[0].starts_with(expected), "{text}: {lines:?}");
    }
}

#[test]
fn unreadable_file_is_one_problem() {
    let dir = tempfile::tempdir().unwrap();
    let load = |path: &Path| Config::load(&Overrides::default(), Some(path), std::iter::empty()).unwrap_err();
    let missing = load(&dir.path().join("missing.toml")).to_string();
    assert!(missing.contains("missing.toml: cannot open file: "), "{missing}");
    let folder = load(dir.path()).to_string();
    assert!(folder.contains(": cannot read file: "), "{folder}");
    let large = dir.path().join("large");
    std::fs::write(&large, "#".repeat((8 << 20) + 1)).unwrap();
    let large = load(&large);
    assert!(large.to_string().contains("file is larger than 8MiB"), "{large}");
    assert!(matches!(large.iter().next().unwrap().location, Some(Location::File(_, None))));
}

#[test]
fn out_of_range_values_are_reported_with_the_range() {
    for (variable, value, expected) in [
        ("GUPD_STORE_QUOTA", "63MiB", "store.quota: 63MiB is below the minimum of 64MiB"),
        ("GUPD_FILL_ATTEMPTS", "101", "fill.attempts: 101 is above the maximum of 100"),
        ("GUPD_SERVER_HEADER_TIMEOUT", "2h", "header_timeout: 2h is above the maximum of 1h"),
        ("GUPD_SERVER_MAX_URI_BYTES", "64KiB", "max_uri_bytes: exceeds max_header_bytes"),
        ("GUPD_SERVER_WORKERS", "-1", "server.workers: \"-1\" is not a whole number"),
        ("GUPD_STORE_MAX_UNUSED", "99999999999999999999d", "is too large"),
        ("GUPD_STORE_SCRUB_PERIOD", "30m", "scrub_period: 30m is below the minimum of 1h"),
        ("GUPD_STORE_SCRUB_PERIOD", "never", "or 300ms, or off"),
        ("GUPD_STORE_SCRUB_RATE", "20MiB", "scrub_rate: \"20MiB\" is not a rate: write it like 20MiB/s"),
        ("GUPD_LOG_LEVEL", "inof", "log.level: \"inof\" is not a log level"),
        ("GUPD_LOG_ACCESS", "yes", "log.access: invalid value \"yes\": use one of true, false"),
    ] {
        let lines = problems(load_with(MANAGER, &Overrides::default(), &[(variable, value)]));
        assert!(lines.len() == 1 && lines[0].contains(expected), "{variable}: {lines:?}");
    }
    let off = load_with(MANAGER, &Overrides::default(), &[("GUPD_STORE_SCRUB_PERIOD", "off")]).unwrap();
    assert_eq!(off.store.scrub_period, None);
    for level in ["warn", "INFO", "info,gupd=debug", "gupd_store=trace", "off"] {
        load_with(MANAGER, &Overrides::default(), &[("GUPD_LOG_LEVEL", level)]).unwrap();
    }
}

#[test]
fn tables_load_in_every_toml_form() {
    let config = load(
        "store.quota = 1_073_741_824\nserver = { workers = 2, listen = \"127.0.0.1:1\" }\n\
         upstream = [{ url = \"http://a\" }, { url = \"http://b\", name = \"second\" }]\n\
         [[route]]\nprefix = \"/lu/\"\nhost = \"LU.Example\"\nupstreams = \"second\"\nprofile = \"liveupdate\"\n\
         [[content_type]]\nname = \"av\"\nguid = \"535CB6A4-441F-4e8a-A897-804CD859100E\"\n\
         [[rule]]\npattern = \"/x/**\"\nclass = \"private\"\n",
    )
    .unwrap();
    assert_eq!((config.store.quota, config.server.workers), (1 << 30, 2));
    let route = &config.routes[0];
    assert_eq!((route.name.as_str(), route.prefix.as_str()), ("lu.example/lu", "/lu"));
    assert_eq!((route.host.as_deref(), &route.upstreams[..]), (Some("lu.example"), [1].as_slice()));
    assert_eq!(route.profile.name, "liveupdate");
    let guid = "{535cb6a4-441f-4e8a-a897-804cd859100e}".to_owned();
    assert_eq!(config.content_types[0].matches, ContentMatch::Guid(guid));
    assert_eq!(config.rules, [Rule { pattern: "/x/**".into(), class: Class::Private }]);
}

#[test]
fn section_in_wrong_form_is_one_problem() {
    let lines = problems(load("store = 1\nquota = 2\n[upstream]\nurl = \"http://a\"\n[[log]]\n"));
    assert_eq!(
        lines,
        [
            "gupd.toml: no upstream is configured: add [[upstream]] to it, or pass --upstream URL",
            "gupd.toml:1: store: expected one table: write [store]",
            "gupd.toml:2: quota: key outside a section: it belongs to [store]: write or uncomment that line above it",
            "gupd.toml:3: upstream: expected a list of tables: write [[upstream]]",
            "gupd.toml:5: log: expected one table: write [log]",
        ]
    );
}

#[test]
fn empty_and_container_platform_variables_are_ignored() {
    let env = [
        ("GUPD_STORE_QUOTA", ""),
        ("GUPD_UPSTREAM", ""),
        ("GUPD_PORT", "tcp://10.0.0.1:2967"),
        ("GUPD_PORT_2967_TCP_ADDR", "10.0.0.1"),
        ("GUPD_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    assert_eq!(load_with(MANAGER, &Overrides::default(), &env).unwrap(), load(MANAGER).unwrap());
}

#[test]
fn problem_with_control_characters_is_one_line() {
    let lines = problems(load(&format!(
        "{MANAGER}[store]\nquota = \"a\\nb\"\nmin_free = \"1GiB\\n2\"\n\"a\\nb\" = 1\n"
    )));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
}
