//! Mistakes in a configuration: each is a problem with its file, line and key, all of them are reported at once.

use std::path::Path;

use gupd_config::{Config, Location, Overrides};

use super::{MANAGER, load, load_with, problems};

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
        ("[server]\nurl = 1", "gupd.toml:2: server.url: unknown key: it belongs to [tier] or [[upstream]]: "),
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
        ("nonsense = 1", "gupd.toml:1: nonsense: key outside a section: the sections are server, listener, "),
    ] {
        let upstream = Overrides { upstream: vec!["http://manager".into()], ..Overrides::default() };
        let lines = problems(load_with(text, &upstream, &[]));
        // --upstream replaces the upstreams of the file, so that their keys are known only by name.
        assert!(lines.len() == 1 && lines[0].starts_with(expected), "{text}: {lines:?}");
    }
}

#[test]
fn upstream_in_a_wrong_form_is_the_only_problem() {
    for (text, expected) in [
        (
            "[upstream]\nurl = \"http://a\"\n",
            "gupd.toml:1: upstream: expected a list of tables: write [[upstream]]",
        ),
        (
            "[upstreams]\nurl = \"http://a\"\n",
            "gupd.toml:1: upstreams: unknown section: did you mean upstream?",
        ),
        (
            "\n[[upstreams]]\nurl = \"http://a\"\n",
            "gupd.toml:2: upstreams: unknown section: did you mean upstream?",
        ),
        (
            "[[Upstream]]\nurl = \"http://a\"\n",
            "gupd.toml:1: Upstream: unknown section: did you mean upstream?",
        ),
        ("[upsteam]\nurl = \"http://a\"\n", "gupd.toml:1: upsteam: unknown section: did you mean upstream?"),
        ("upstream = \"http://a\"\n", "gupd.toml:1: upstream: expected a list of tables: write [[upstream]]"),
        (
            "[manager]\n",
            "gupd.toml: no upstream is configured: add [[upstream]] to it, or pass --upstream URL",
        ),
    ] {
        let lines = problems(load(text));
        assert_eq!(lines[0], expected, "{text}");
        assert_eq!(lines.len(), if text.starts_with("[manager") { 2 } else { 1 }, "{text}: {lines:?}");
    }
}

#[test]
fn file_that_is_not_utf_8_is_a_problem_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gupd.toml");
    for (bytes, expected) in [
        (&b"# caf\xe9\n"[..], "gupd.toml:1: byte 0xe9 is not UTF-8: save the file as UTF-8"),
        (
            b"[[upstream]]\nurl = \"http://a\"\nname = \"M\xfcnchen\"\n",
            "gupd.toml:3: byte 0xfc is not UTF-8: ",
        ),
        (b"\n\n\n# \x80", "gupd.toml:4: byte 0x80 is not UTF-8: "),
        (b"# ok \xc3\xbc\r\n# cut \xc3", "gupd.toml:2: byte 0xc3 is not UTF-8: "),
        (b"\xff\xfe[\0[\0", "gupd.toml:1: the file is in UTF-16: save the file as UTF-8"),
        (b"\xfe\xff\0[\0[", "gupd.toml:1: the file is in UTF-16: "),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let lines = problems(Config::load(&Overrides::default(), Some(&path), std::iter::empty()));
        assert!(lines.len() == 1 && lines[0].starts_with(expected), "{lines:?}");
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
fn section_in_wrong_form_is_one_problem() {
    let lines = problems(load("store = 1\nquota = 2\n[upstream]\nurl = \"http://a\"\n[[log]]\n"));
    assert_eq!(
        lines,
        [
            "gupd.toml:1: store: expected one table: write [store]",
            "gupd.toml:2: quota: key outside a section: it belongs to [store]: write or uncomment that line above it",
            "gupd.toml:3: upstream: expected a list of tables: write [[upstream]]",
            "gupd.toml:5: log: expected one table: write [log]",
        ]
    );
}

#[test]
fn problem_with_control_characters_is_one_line() {
    let lines = problems(load(&format!(
        "{MANAGER}[store]\nquota = \"a\\nb\"\nmin_free = \"1GiB\\n2\"\n\"a\\nb\" = 1\n"
    )));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
}
