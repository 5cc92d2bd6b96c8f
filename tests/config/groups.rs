//! What groups ask of clients, as an administrator writes it.

use super::{MANAGER, load, problems};

#[test]
fn a_subnet_may_be_shared_with_a_group_that_asks_for_more() {
    let config = load(&format!(
        "{MANAGER}[[group]]\nname = \"pilot\"\nsubnets = [\"10.1.0.0/16\"]\npaths = [\"**/full.zip\"]\n\
         [[group]]\nname = \"branch\"\nsubnets = [\"10.1.0.0/16\"]\n[[group]]\nname = \"rest\"\n"
    ))
    .unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let places: Vec<_> =
        config.groups.iter().map(|group| group.place.as_ref().unwrap().to_string()).collect();
    let lines: Vec<_> =
        places.iter().filter_map(|place| place.rsplit_once(':')).map(|(_, line)| line).collect();
    assert_eq!(lines, ["3", "7", "10"]);
}

#[test]
fn every_mistake_about_whom_a_group_takes_is_named_with_its_line() {
    for (groups, expected) in [
        (
            "name = \"a\"\npaths = []\n",
            "5: group.paths: is empty; give at least one value, or leave the key out",
        ),
        ("name = \"a\"\npaths = \"[a\"\n", "5: group.paths: \"[a\": unclosed character class; missing ']'"),
        (
            "name = \"a\"\ncertificates = \"*.site.example\"\n",
            "5: group.certificates: are shown by no client without server.client_ca; give it, or leave them out",
        ),
        (
            "name = \"default\"\npaths = \"/a\"\n",
            "4: group.name: \"default\" is the name of all others; give this group its own",
        ),
        (
            "name = \"a\"\n[[group]]\nname = \"b\"\npaths = \"/b\"\n",
            "6: group.name: comes after group \"a\", which has no matcher and so takes all clients",
        ),
        (
            "name = \"a\"\nsubnets = \"10.0.0.0/8\"\n[[group]]\nname = \"b\"\nsubnets = \"10.0.0.0/8\"\npaths = \"/b\"\n",
            "8: group.subnets: 10.0.0.0/8 is in a group before this one; give it to one of them",
        ),
    ] {
        assert_eq!(
            problems(load(&format!("{MANAGER}[[group]]\n{groups}"))),
            [format!("gupd.toml:{expected}")]
        );
    }
}

#[test]
fn names_of_certificates_are_exact_or_all_below_one_and_need_an_issuer() {
    let tls = "[server]\ntls_cert = \"c\"\ntls_key = \"k\"\nclient_ca = \"ca\"\n";
    let group = |names: &str| format!("{MANAGER}{tls}[[group]]\nname = \"a\"\ncertificates = {names}\n");
    let config = load(&group("[\"PC-7.site.example\", \"*.Branch.example\"]")).unwrap();
    assert_eq!(config.groups[0].certificates, ["pc-7.site.example", "*.branch.example"]);
    for wrong in ["*", "*.", "a*.example", "*.*.example", "a b", ""] {
        let lines = problems(load(&group(&format!("[\"{wrong}\"]"))));
        let expected = format!(
            "gupd.toml:9: group.certificates: {wrong:?} is not a name of a certificate; write it like pc-7.site.example or *.site.example"
        );
        assert_eq!(lines, [expected]);
    }
    let lines = problems(load(&format!("{MANAGER}[server]\nclient_ca = \"ca\"\n")));
    assert_eq!(
        lines,
        ["gupd.toml:4: server.client_ca: is given without tls_cert; clients show certificates over TLS only"]
    );
}

#[test]
fn a_hundred_thousand_subnets_are_read_while_an_administrator_waits() {
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
