//! Matchers of groups in the configuration file.

use super::{MANAGER, load, problems};

#[test]
fn subnet_of_group_with_more_matchers_can_be_reused() {
    let config = load(&format!(
        "{MANAGER}[[group]]\nname = \"pilot\"\nsubnets = [\"10.1.0.0/16\"]\npaths = [\"**/full.zip\"]\n\
         [[group]]\nname = \"branch\"\nsubnets = [\"10.1.0.0/16\"]\n[[group]]\nname = \"rest\"\n"
    ))
    .unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let locations: Vec<_> =
        config.groups.iter().map(|group| group.location.as_ref().unwrap().to_string()).collect();
    let lines: Vec<_> =
        locations.iter().filter_map(|location| location.rsplit_once(':')).map(|(_, line)| line).collect();
    assert_eq!(lines, ["3", "7", "10"]);
}

#[test]
fn invalid_group_matchers_are_reported_with_their_line() {
    for (groups, expected) in [
        ("name = \"a\"\npaths = []\n", "5: group.paths: empty list: add a value or remove the key"),
        (
            "name = \"a\"\npaths = \"[a\"\n",
            "5: group.paths: invalid pattern \"[a\": unclosed character class; missing ']'",
        ),
        (
            "name = \"a\"\ncertificates = \"*.site.example\"\n",
            "5: group.certificates: are never presented without server.client_ca: set it or remove them",
        ),
        (
            "name = \"default\"\npaths = \"/a\"\n",
            "4: group.name: \"default\" is reserved for clients of no other group: use another name",
        ),
        (
            "name = \"a\"\n[[group]]\nname = \"b\"\npaths = \"/b\"\n",
            "6: group.name: never matches: group \"a\" before it has no matcher and contains all clients",
        ),
        (
            "name = \"a\"\nsubnets = \"10.0.0.0/8\"\n[[group]]\nname = \"b\"\nsubnets = \"10.0.0.0/8\"\npaths = \"/b\"\n",
            "8: group.subnets: 10.0.0.0/8 belongs to an earlier group: remove it from one of them",
        ),
    ] {
        assert_eq!(
            problems(load(&format!("{MANAGER}[[group]]\n{groups}"))),
            [format!("gupd.toml:{expected}")]
        );
    }
}

#[test]
fn certificate_names_are_exact_or_wildcards_and_need_a_ca() {
    let tls = "[server]\ntls_cert = \"c\"\ntls_key = \"k\"\nclient_ca = \"ca\"\n";
    let group = |names: &str| format!("{MANAGER}{tls}[[group]]\nname = \"a\"\ncertificates = {names}\n");
    let config = load(&group("[\"PC-7.site.example\", \"*.Branch.example\"]")).unwrap();
    assert_eq!(config.groups[0].certificates, ["pc-7.site.example", "*.branch.example"]);
    for wrong in ["*", "*.", "a*.example", "*.*.example", "a b", ""] {
        let lines = problems(load(&group(&format!("[\"{wrong}\"]"))));
        let expected = format!(
            "gupd.toml:9: group.certificates: {wrong:?} is not a certificate name: write it like pc-7.site.example or *.site.example"
        );
        assert_eq!(lines, [expected]);
    }
    let lines = problems(load(&format!("{MANAGER}[server]\nclient_ca = \"ca\"\n")));
    assert_eq!(
        lines,
        [
            "gupd.toml:4: server.client_ca: is set without tls_cert: clients present certificates over TLS only"
        ]
    );
}

#[test]
fn hundred_thousand_subnets_load_within_thirty_seconds() {
    let mut text = format!("{MANAGER}[[group]]\nname = \"all\"\nsubnets = [\n");
    for number in 0..100_000_u32 {
        text += &format!("\"10.{}.{}.{}/28\",\n", number >> 12, number >> 4 & 255, (number & 15) << 4);
    }
    let begun = std::time::Instant::now();
    let config = load(&(text + "\"10.0.0.0/33\"]\n"));
    // Ten times what it takes; every pair of subnets compared would be minutes.
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    let lines = problems(config);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("gupd.toml:100006: group.subnets: \"10.0.0.0/33\""), "{lines:?}");
}
