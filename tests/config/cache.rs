//! Freshness settings in the configuration file.

use super::{MANAGER, load, problems};

#[test]
fn targeted_fields_are_a_list_in_order_or_off() {
    for (line, expected) in [
        ("", &["cdn-cache-control"][..]),
        ("targeted_fields = [\"CDN-Cache-Control\"]", &["cdn-cache-control"]),
        (
            "targeted_fields = [\"Site-Cache-Control\", \"CDN-Cache-Control\"]",
            &["site-cache-control", "cdn-cache-control"],
        ),
        ("targeted_fields = \"Edge-Control, CDN-Cache-Control\"", &["edge-control", "cdn-cache-control"]),
        ("targeted_fields = \"off\"", &[]),
        ("targeted_fields = [\"off\"]", &[]),
    ] {
        let config = load(&format!("{MANAGER}[cache]\n{line}\n")).unwrap();
        assert_eq!(config.cache.targeted_fields, expected, "{line}");
    }
}

#[test]
fn other_fields_than_targeted_ones_are_refused() {
    for (value, expected) in [
        ("[\"a b\"]", "\"a b\" is not the name of a field"),
        ("[\"\"]", "\"\" is not the name of a field"),
        ("[]", "empty list: add a value or remove the key"),
        (
            "[\"Cache-Control\"]",
            "Cache-Control is not a targeted field: name fields like CDN-Cache-Control, or off",
        ),
        ("[\"Expires\"]", "Expires is not a targeted field: name fields like CDN-Cache-Control, or off"),
        ("[\"Pragma\"]", "Pragma is not a targeted field: name fields like CDN-Cache-Control, or off"),
    ] {
        let lines = problems(load(&format!("{MANAGER}[cache]\ntargeted_fields = {value}\n")));
        assert_eq!(lines, [format!("gupd.toml:4: cache.targeted_fields: {expected}")]);
    }
}
