//! Settings that are valid as text and cannot be what was intended: a warning, or a problem where the intended form can
//! be written instead.

use super::{MANAGER, load, problems};

/// Lines of warnings without the folder of the file.
fn warnings(text: &str) -> Vec<String> {
    let warnings = load(text).unwrap().warnings;
    let line = |warning: &gupd_config::Problem| warning.to_string();
    warnings
        .iter()
        .map(line)
        .map(|line| line.split_once("gupd.toml:").map_or(line.clone(), |(_, rest)| rest.into()))
        .collect()
}

#[test]
fn host_of_the_documents_is_a_warning_with_its_line() {
    for (text, key, host) in [
        ("[[upstream]]\nurl = \"http://manager.example:8014\"\n", "2: upstream.url", "manager.example"),
        ("[[upstream]]\nurl = \"https://sepm.Example.com\"\n", "2: upstream.url", "sepm.Example.com"),
        ("[[upstream]]\nurl = \"http://198.51.100.7\"\n", "2: upstream.url", "198.51.100.7"),
        ("[[upstream]]\nurl = \"http://[2001:db8::1]:8014\"\n", "2: upstream.url", "[2001:db8::1]"),
        (
            &format!("{MANAGER}public_url = \"https://manager.example\"\n"),
            "3: upstream.public_url",
            "manager.example",
        ),
        (&format!("{MANAGER}proxy = \"http://proxy.example:3128\"\n"), "3: upstream.proxy", "proxy.example"),
        (
            &format!("{MANAGER}[[peer]]\nverify = \"off\"\nurl = \"http://relay-2.example.net:2967\"\n"),
            "5: peer.url",
            "relay-2.example.net",
        ),
        (
            &format!("[server]\npublic_names = [\"gupd.branch-a.example\"]\n{MANAGER}"),
            "2: server.public_names",
            "gupd.branch-a.example",
        ),
    ] {
        let expected = format!("{key}: {host} is reserved for examples (");
        let found = warnings(text);
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{text}: {found:?}");
    }
    assert_eq!(warnings(MANAGER), [""; 0]);
}

#[test]
fn host_to_fill_in_is_a_warning_with_its_line() {
    for (text, key, host) in [
        ("[[upstream]]\nurl = \"http://CHANGEME:8014\"\n", "2: upstream.url", "CHANGEME"),
        ("[[upstream]]\nurl = \"http://your-manager:8014\"\n", "2: upstream.url", "your-manager"),
        (
            "[[upstream]]\nurl = \"https://sepm.your-company.com\"\n",
            "2: upstream.url",
            "sepm.your-company.com",
        ),
        (&format!("{MANAGER}proxy = \"http://todo:3128\"\n"), "3: upstream.proxy", "todo"),
        (
            &format!("{MANAGER}[[peer]]\nverify = \"off\"\nurl = \"http://replace-me.lan:2967\"\n"),
            "5: peer.url",
            "replace-me.lan",
        ),
        (
            &format!("[server]\npublic_names = [\"your-relay.lan\"]\n{MANAGER}"),
            "2: server.public_names",
            "your-relay.lan",
        ),
    ] {
        let expected = format!("{key}: {host} looks like a placeholder: write the name of your own server");
        assert_eq!(warnings(text), [expected], "{text}");
    }
}

#[test]
fn port_of_the_other_scheme_is_a_warning() {
    for (url, other) in [
        ("http://other:443", "https, not http"),
        ("http://other:8443", "https, not http"),
        ("https://other:80", "http, not https"),
        ("https://other:8014", "http, not https"),
    ] {
        for text in [
            format!("[[upstream]]\nurl = \"{url}\"\n"),
            format!("{MANAGER}[[peer]]\nverify = \"off\"\nurl = \"{url}\"\n"),
            format!("{MANAGER}public_url = \"{url}\"\n"),
        ] {
            let found = warnings(&text);
            assert!(found.len() == 1 && found[0].contains(other), "{text}: {found:?}");
        }
    }
    for url in
        ["http://manager", "http://manager:8014", "https://manager", "https://manager:8443", "https://m:2967"]
    {
        assert_eq!(warnings(&format!("[[upstream]]\nurl = \"{url}\"\n")), [""; 0]);
    }
}

#[test]
fn address_of_a_network_without_its_prefix_is_refused() {
    for (address, network, own) in [
        ("10.1.0.0", "10.1.0.0/16", "10.1.0.0/32"),
        ("10.0.0.0", "10.0.0.0/8", "10.0.0.0/32"),
        ("192.168.7.0", "192.168.7.0/24", "192.168.7.0/32"),
        ("0.0.0.0", "0.0.0.0/0", "0.0.0.0/32"),
        ("2001:db8:1::", "2001:db8:1::/48", "2001:db8:1::/128"),
        ("fd00::", "fd00::/16", "fd00::/128"),
    ] {
        let remedy = format!("write {network} for the network, or {own} for the address");
        for text in [
            format!("{MANAGER}[[group]]\nname = \"a\"\nsubnets = [\"{address}\"]\n"),
            format!("{MANAGER}[[ring]]\nname = \"a\"\ngroups = [\"default\"]\nsubnets = [\"{address}\"]\n"),
        ] {
            let found = problems(load(&text));
            assert!(found.iter().any(|line| line.ends_with(&remedy)), "{text}: {found:?}");
        }
        for right in [network, own] {
            load(&format!("{MANAGER}[[group]]\nname = \"a\"\nsubnets = [\"{right}\"]\n")).unwrap();
        }
    }
    load(&format!("{MANAGER}[[group]]\nname = \"a\"\nsubnets = [\"10.1.0.1\", \"2001:db8::1\"]\n")).unwrap();
}

#[test]
fn upstream_without_a_user_is_a_warning() {
    const THREE: &str = "[[upstream]]\nname = \"a\"\nurl = \"http://a\"\n[[upstream]]\nname = \"b\"\nurl = \"http://b\"\n\
                         [[upstream]]\nurl = \"http://c\"\n";
    const UNUSED: &str = "upstream.url: is used by no [[route]] and no [[group]]: ";
    let route = "[[route]]\nprefix = \"/\"\nupstreams = [\"a\"]\n";
    let group = "[[group]]\nname = \"g\"\nsubnets = [\"10.0.0.0/8\"]\nupstreams = [\"c\"]\n";
    for (more, lines) in [
        (String::new(), &[][..]),
        ("[[route]]\nprefix = \"/\"\n".to_owned(), &[]),
        (route.to_owned(), &["6", "8"]),
        (format!("{route}{group}"), &["6"]),
        (format!("{route}[[route]]\nprefix = \"/b\"\nupstreams = [\"b\", \"c\"]\n"), &[]),
    ] {
        let found: Vec<String> =
            warnings(&format!("{THREE}{more}")).into_iter().filter(|line| line.contains(UNUSED)).collect();
        let expected: Vec<String> = lines.iter().map(|line| format!("{line}: {UNUSED}")).collect();
        assert_eq!(found.len(), expected.len(), "{more}: {found:?}");
        assert!(found.iter().zip(&expected).all(|(line, begin)| line.starts_with(begin)), "{found:?}");
    }
}

#[test]
fn relay_as_its_own_upstream_is_refused() {
    for (server, url, refused) in [
        ("", "http://127.0.0.1:2967", true),
        ("", "http://localhost:2967", true),
        ("", "http://[::1]:2967", true),
        ("", "http://127.0.0.1:9467", true),
        ("listen = \"10.1.2.3:80\"\n", "http://10.1.2.3", true),
        ("listen = \"10.1.2.3:443\"\n", "https://10.1.2.3", true),
        ("listen = \"10.1.2.3:80\"\n", "http://127.0.0.1", false),
        ("", "http://127.0.0.1:8014", false),
        ("", "http://manager:2967", false),
        ("listen = \"127.0.0.1:0\"\n", "http://127.0.0.1:2967", false),
    ] {
        for key in ["url", "public_url"] {
            let others = if key == "url" { "" } else { "url = \"http://manager\"\n" };
            let result = load(&format!("[server]\n{server}[[upstream]]\n{others}{key} = \"{url}\"\n"));
            assert_eq!(result.is_err(), refused, "{server}{key} {url}: {result:?}");
            if refused {
                let found = problems(result);
                assert!(found.len() == 1 && found[0].contains(" is the relay itself (server."), "{found:?}");
            }
        }
    }
}

#[test]
fn setting_without_effect_is_a_warning() {
    const GROUP: &str =
        "[[group]]\nname = \"a\"\nsubnets = [\"10.0.0.0/8\"]\nwindows = \"mon-fri 20:00-22:00\"\n";
    for (text, expected) in [
        ("[store]\nquota = \"1GiB\"\nmemory = \"2GiB\"\n", "store.memory: 2GiB exceeds store.quota (1GiB): "),
        (
            "[store]\nquota = \"1GiB\"\n[prefetch]\nmax_bytes = \"2GiB\"\n",
            "prefetch.max_bytes: 2GiB exceeds store.quota",
        ),
        (
            "[[rule]]\npattern = \"/a/**\"\nclass = \"payload\"\n[[rule]]\npattern = \"/A/**\"\nclass = \"private\"\n",
            "rule.pattern: \"/A/**\" never applies: ",
        ),
        (
            &format!(
                "{GROUP}[[ring]]\nname = \"r\"\ngroups = [\"a\", \"default\"]\nwindows = \"sat 00:00-24:00\"\n"
            ),
            "ring.windows: never overlap windows of group a: ",
        ),
        (
            "[refresh]\ncatalogs = [\"/minitri.flg\"]\n[[route]]\nprefix = \"/content\"\n",
            "refresh.catalogs: /minitri.flg is on no [[route]] without a host",
        ),
        (
            "[prefetch]\npaths = [\"/content/a/*/full.zip\"]\n[[route]]\nprefix = \"/contents\"\n",
            "prefetch.paths: /content/a/*/full.zip is on no [[route]] without a host",
        ),
        (
            "[prefetch]\npaths = [\"/a\"]\n[[route]]\nprefix = \"/\"\nhost = \"updates\"\n",
            "prefetch.paths: /a is on no [[route]] without a host",
        ),
    ] {
        let found = warnings(&format!("{MANAGER}{text}"));
        assert!(found.iter().any(|line| line.contains(expected)), "{text}: {found:?}");
    }
    for text in [
        "[store]\nquota = \"64MiB\"\n",
        "[prefetch]\npaths = [\"/Content/a/*/full.zip\"]\n[[route]]\nprefix = \"/content\"\n",
        "[refresh]\ncatalogs = [\"/minitri.flg\"]\n",
    ] {
        assert_eq!(warnings(&format!("{MANAGER}{text}")), [""; 0], "{text}");
    }
}
