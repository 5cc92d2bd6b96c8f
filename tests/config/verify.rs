//! Proof of content in the configuration file: `[verify]`, and `verify` of routes and peers.

use gupd_config::{PeerVerification, Verification};

use super::{MANAGER, load, problems};

const SECURE: &str = "[[upstream]]\nurl = \"https://manager\"\n";

#[test]
fn policies_are_read_in_their_spelling() {
    for (value, expected) in [
        ("off", Verification::Off),
        ("changes", Verification::Changes),
        ("pass", Verification::Pass),
        ("hold", Verification::Hold),
    ] {
        let config = load(&format!("{MANAGER}[[route]]\nprefix = \"/\"\nverify = \"{value}\"\n")).unwrap();
        assert_eq!(config.routes[0].verification, expected);
    }
    let peer = "[[peer]]\nurl = \"https://relay\"\n";
    for (value, expected) in [("off", PeerVerification::Off), ("listed", PeerVerification::Listed)] {
        let config = load(&format!("{MANAGER}{peer}verify = \"{value}\"\n")).unwrap();
        assert_eq!(config.peers[0].verify, expected);
    }
}

#[test]
fn invalid_settings_are_reported_with_their_line() {
    for (text, expected) in [
        (
            "[[route]]\nprefix = \"/\"\nverify = \"on\"\n",
            "5: route.verify: invalid value \"on\": use one of off, changes, pass, hold",
        ),
        (
            "[[route]]\nprefix = \"/\"\nname = \"!held\"\n",
            "5: route.name: \"!held\" starts with !, which marks cache keys of held content: use another name",
        ),
        (
            "[[peer]]\nurl = \"https://relay\"\nverify = \"hold\"\n",
            "5: peer.verify: invalid value \"hold\": use one of off, listed",
        ),
        (
            "[verify]\nexpired_signers = \"ignore\"\n",
            "4: verify.expired_signers: invalid value \"ignore\": use one of refuse, accept",
        ),
        ("[verify]\nheld_bytes = \"1KiB\"\n", "4: verify.held_bytes: 1KiB is below the minimum of 1MiB"),
        ("[verify]\nchecks_per_day = 1441\n", "4: verify.checks_per_day: 1441 is above the maximum of 1440"),
        ("[verify]\nroots = [\"\"]\n", "4: verify.roots: empty path: write the path of a file or folder"),
        ("[verify]\nunsigned = []\n", "4: verify.unsigned: empty list: add a value or remove the key"),
        (
            "[verify]\ncolour = \"x\"\n",
            "4: verify.colour: unknown key: verify has the keys roots, expired_signers, held_bytes, unsigned, checks_per_day",
        ),
    ] {
        let lines = problems(load(&format!("{MANAGER}{text}")));
        assert_eq!(lines.len(), 1, "{text}: {lines:?}");
        assert!(lines[0].starts_with(&format!("gupd.toml:{expected}")), "{expected}: {}", lines[0]);
    }
}

#[test]
fn policy_that_stores_nothing_is_doubted() {
    let (plain, roots) = ("[[upstream]]\nurl = \"http://manager\"\n", "[verify]\nroots = \"r.pem\"\n");
    for (upstream, profile, verify, roots, expected) in [
        (plain, "sep", "hold", roots, &["it is not stored"][..]),
        (plain, "auto", "pass", roots, &["it is not stored"]),
        (plain, "auto", "hold", "", &["it is not stored", "without verify.roots"]),
        (plain, "liveupdate", "hold", roots, &[]),
        (plain, "liveupdate", "hold", "", &["without verify.roots"]),
        (plain, "sep", "changes", "", &[]),
        (SECURE, "sep", "hold", "", &[]),
        (SECURE, "auto", "hold", roots, &[]),
    ] {
        let route = format!("[[route]]\nprefix = \"/\"\nprofile = \"{profile}\"\nverify = \"{verify}\"\n");
        let config = load(&format!("{upstream}{route}{roots}")).unwrap();
        let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), expected.len(), "{profile} {verify}: {warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.contains("route.verify") && warning.contains(expected), "{warning}");
        }
    }
}

#[test]
fn plain_peer_is_doubted_until_its_policy_is_chosen() {
    for (peer, expected) in [
        ("url = \"http://relay\"\n", 1),
        ("url = \"http://relay\"\nverify = \"off\"\n", 0),
        ("url = \"http://relay\"\nverify = \"listed\"\n", 0),
        ("url = \"https://relay\"\n", 0),
    ] {
        let config = load(&format!("{MANAGER}[[peer]]\n{peer}")).unwrap();
        let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), expected, "{peer}: {warnings:?}");
        assert!(
            warnings.iter().all(|warning| warning.contains("peer.url: is http: any host")),
            "{warnings:?}"
        );
    }
}
