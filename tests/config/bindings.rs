//! Upstream bindings of groups in the configuration file.

use super::{MANAGER, load, problems};

const SECOND: &str = "[[upstream]]\nurl = \"http://b:80\"\nname = \"b\"\n[[upstream]]\nurl = \"http://c:80\"\nname = \"c+d\"\n";

fn group(settings: &str) -> String {
    format!("{MANAGER}{SECOND}[[group]]\nname = \"pilot\"\nsubnets = \"10.0.0.0/8\"\n{settings}\n")
}

#[test]
fn group_binding_keeps_the_order_of_its_upstreams() {
    let config = load(&group("upstreams = [\"b\", \"manager:8014\"]")).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let binding = config.groups[0].binding.as_ref().unwrap();
    assert_eq!((binding.name(), binding.upstreams()), ("b+manager:8014", &[1, 0][..]));
    assert_eq!(load(&group("")).unwrap().groups[0].binding, None);
}

#[test]
fn invalid_group_upstreams_are_reported_with_their_line() {
    for (upstreams, expected) in [
        ("\"e\"", "unknown upstream \"e\": known upstreams are manager:8014, b, c+d"),
        ("[\"b\", \"b\"]", "\"b\" is listed twice: list it once"),
        ("[\"c+d\"]", "\"c+d\" contains +, which separates names here: rename the upstream"),
        ("[]", "empty list: add a value or remove the key"),
    ] {
        let lines = problems(load(&group(&format!("upstreams = {upstreams}"))));
        assert_eq!(lines, [format!("gupd.toml:12: group.upstreams: {expected}")]);
    }
}

#[test]
fn binding_over_routes_with_other_upstreams_is_a_warning() {
    let routes = "[[route]]\nprefix = \"/\"\nupstreams = \"b\"\n[[route]]\nprefix = \"/lu\"\nupstreams = [\"manager:8014\", \"c+d\"]\n";
    let of =
        |settings: &str| load(&(group(&format!("upstreams = \"b\"\n{settings}")) + routes)).unwrap().warnings;
    let warnings = of("");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let line = warnings[0].to_string();
    assert!(line.contains("gupd.toml:12: group.upstreams: apply to every route"), "{line}");
    assert!(of("paths = \"/content/**\"").is_empty());
}
