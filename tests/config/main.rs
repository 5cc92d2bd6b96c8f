//! Loading of the configuration: files, variables and flags give settings, or problems.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail the test")]

mod access;
mod admin;
mod alarms;
mod bindings;
mod cache;
mod denials;
mod doubts;
mod groups;
mod guard;
mod health;
mod ledger;
mod limits;
mod listeners;
mod mistakes;
mod peers;
mod profiles;
mod refresh;
mod rings;
mod tier;
mod together;
mod upstreams;
mod verify;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gupd_config::{
    Binding, BucketSettings, CertificateFiles, Class, ClientCertificates, Config, ContentMatch, Fallback,
    GroupSettings, ListenerTls, LogFormat, Overrides, Problem, Problems, RateSchedule, Rule, TierLocation,
    TierSettings,
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
    let files = CertificateFiles { cert: "/etc/gupd/tls.pem".into(), key: "/etc/gupd/tls.key".into() };
    expected.server.tls = Some(ListenerTls {
        client_certificates: ClientCertificates::Optional,
        client_ca: Some("/etc/gupd/site-ca.pem".into()),
        client_crl: vec!["/etc/gupd/site-ca.crl".into()],
        ..files.into()
    });
    expected.server.listeners.clone_from(&documented.server.listeners);
    expected.server.access.clone_from(&documented.server.access);
    expected.server.proxies.clone_from(&documented.server.proxies);
    expected.routes[0].access.clone_from(&documented.routes[0].access);
    expected.routes[0].pass = Some(expected.routes[0].profile.pass.clone());
    expected.files.clone_from(&documented.files);
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
    expected.site.subnets.clone_from(&documented.site.subnets);
    expected.traces.endpoint = Some("http://127.0.0.1:4318/v1/traces".parse().unwrap());
    expected.traces.location.clone_from(&documented.traces.location);
    expected.summary.webhook = Some("https://alerts.example/gupd".parse().unwrap());
    expected.summary.webhook_ca = Some("/etc/gupd/alerts-ca.pem".into());
    expected.wan.congestion = Some("lp".into());
    expected.wan_limits.clone_from(&documented.wan_limits);
    expected.verify.roots = vec!["/etc/gupd/liveupdate-roots.pem".into()];
    expected.server.admin_token_file = Some("/etc/gupd/admin-token".into());
    expected.server.admin_tls.clone_from(&documented.server.admin_tls);
    expected.refresh.catalogs = vec!["/minitri.flg".parse().unwrap()];
    expected.prefetch.paths.clone_from(&documented.prefetch.paths);
    expected.upstreams.push(documented.upstreams[1].clone());
    expected.peers.clone_from(&documented.peers);
    expected.tier = Some(TierSettings {
        url: "s3://content/gupd".into(),
        location: TierLocation::Bucket(BucketSettings {
            bucket: "content".into(),
            prefix: "gupd".into(),
            endpoint: Some("https://s3.example:9000".parse().unwrap()),
            region: "us-east-1".into(),
            credentials_file: Some("/etc/gupd/tier-credentials".into()),
            ca: Some("/etc/gupd/tier-ca.pem".into()),
        }),
        hedge: Duration::from_millis(300),
        timeout: Duration::from_secs(10),
        publish: true,
        wan: true,
        max_object: 4 << 30,
    });
    let mut group = GroupSettings::catch_all("branch-a");
    group.location.clone_from(&documented.groups[0].location);
    group.subnets.clone_from(&documented.groups[0].subnets);
    group.certificates.clone_from(&documented.groups[0].certificates);
    group.paths.clone_from(&documented.groups[0].paths);
    group.listeners = vec!["default".into()];
    group.binding = Binding::new(&documented.upstreams, vec![1]).map(Arc::new);
    (group.deny, group.allow) = (vec!["iron-revocation".into()], vec!["client-patches".into()]);
    expected.routes[0].deny_download = vec!["submission-control".into()];
    // The group that a gateway has without one of its own.
    let gateway = GroupSettings::catch_all("internet");
    expected.groups = vec![group, GroupSettings { listeners: vec!["internet".into()], ..gateway }];
    expected.rings.clone_from(&documented.rings);
    // The hosts are examples, and the only route is for one of them.
    let is_expected = |warning: &Problem| {
        let line = warning.to_string();
        line.contains(" is reserved for examples ")
            || line.contains(" is on no [[route]] without a host")
            || line.contains(" group internet is in no ring")
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
        "listener",
        "store",
        "fill",
        "health",
        "cache",
        "log",
        "guard",
        "site",
        "alarms",
        "summary",
        "traces",
        "wan",
        "lan",
        "refresh",
        "prefetch",
        "upstream",
        "peer",
        "tier",
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
            let env = [
                (variable.as_str(), &*value),
                ("GUPD_SERVER_TLS_CERT", "c"),
                ("GUPD_SERVER_TLS_KEY", "k"),
                ("GUPD_SERVER_CLIENT_CA", "ca"),
                ("GUPD_SERVER_ADMIN_TLS_CERT", "c"),
                ("GUPD_SERVER_ADMIN_TLS_KEY", "k"),
            ];
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
