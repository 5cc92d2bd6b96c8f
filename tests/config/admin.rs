//! The admin address: beyond the machine of the relay it needs a token and TLS, or the administrator's word.

use gupd_config::{Config, Overrides};

use super::{MANAGER, load, load_with, problems};

const TLS: &str = "admin_tls_cert = \"c\"\nadmin_tls_key = \"k\"\n";
const TOKEN: &str = "admin_token_file = \"t\"\n";

fn server(admin: &str, settings: &str) -> String {
    format!("{MANAGER}[server]\nadmin = \"{admin}\"\n{settings}")
}

#[test]
fn admin_address_of_other_machines_needs_token_and_tls() {
    for admin in
        ["0.0.0.0:9467", "[::]:9467", "192.0.2.1:9467", "[2001:db8::1]:9467", "[::ffff:192.0.2.1]:9467"]
    {
        for (settings, missing) in [
            ("", "admin_token_file, admin_tls_cert and admin_tls_key"),
            (TOKEN, "admin_tls_cert and admin_tls_key"),
            (TLS, "admin_token_file"),
        ] {
            let text = server(admin, settings);
            let expected = format!(
                "gupd.toml:4: server.admin: {admin} is reachable from other machines: set {missing}, or \
                 admin_allow_insecure = true if no client reaches it"
            );
            assert_eq!(problems(load(&text)), [expected]);
            let allowed = load(&format!("{text}admin_allow_insecure = true\n")).unwrap();
            let [warning] = &allowed.warnings[..] else { panic!("{:?}", allowed.warnings) };
            let warning = warning.to_string();
            assert!(
                warning.contains("server.admin_allow_insecure: ") && warning.contains(missing),
                "{warning}"
            );
            assert_eq!(load(&format!("{text}admin_allow_insecure = false\n")).unwrap_err().iter().count(), 1);
        }
        let config = load(&server(admin, &format!("{TOKEN}{TLS}"))).unwrap();
        assert!(config.warnings.is_empty() && config.server.admin_listener().is_some());
    }
}

#[test]
fn admin_address_on_loopback_needs_nothing() {
    for admin in ["127.0.0.1:9467", "127.9.9.9:9467", "[::1]:9467", "[::ffff:127.0.0.1]:9467"] {
        for settings in ["", TOKEN, TLS] {
            assert!(load(&server(admin, settings)).unwrap().warnings.is_empty(), "{admin} {settings}");
        }
    }
}

#[test]
fn flag_and_variable_count_like_the_file() {
    let overrides = Overrides { admin: Some("0.0.0.0:9467".to_owned()), ..Overrides::default() };
    let refused = problems(load_with(MANAGER, &overrides, &[]));
    assert!(refused.len() == 1 && refused[0].starts_with("--admin: "), "{refused:?}");
    let allowed = load_with(MANAGER, &overrides, &[("GUPD_SERVER_ADMIN_ALLOW_INSECURE", "true")]).unwrap();
    assert_eq!(allowed.warnings.len(), 1);
    // A command that reaches the relay of another machine is no relay.
    let command = Config::load_without_upstreams(&overrides, None, std::iter::empty());
    assert!(command.is_ok(), "{command:?}");
}

#[test]
fn half_of_a_key_pair_is_refused() {
    for (settings, set, missing) in [
        ("admin_tls_cert = \"c\"\n", "admin_tls_cert", "admin_tls_key"),
        ("admin_tls_key = \"k\"\n", "admin_tls_key", "admin_tls_cert"),
    ] {
        let refused = problems(load(&server("127.0.0.1:9467", settings)));
        let words = [format!("gupd.toml:5: server.{set}: "), format!("without {missing}")];
        assert!(refused.len() == 1 && words.iter().all(|words| refused[0].contains(words)), "{refused:?}");
    }
    let refused = problems(load(&server("127.0.0.1:9467", "admin_allow_insecure = \"perhaps\"\n")));
    assert!(refused[0].starts_with("gupd.toml:5: server.admin_allow_insecure: "), "{refused:?}");
}
