//! Denied content types in the configuration file.

use http::StatusCode;

use super::{MANAGER, load, problems};

#[test]
fn denied_status_is_404_by_default() {
    assert_eq!(load(MANAGER).unwrap().denials.status, StatusCode::NOT_FOUND);
    let config = load(&format!("{MANAGER}[policy]\ndenied_status = 410\n")).unwrap();
    assert_eq!(config.denials.status, StatusCode::GONE);
}

#[test]
fn invalid_denials_are_reported_with_their_line() {
    let known = "known types are catalog, clamav-databases, clamav-deltas";
    for (text, expected) in [
        (
            "[policy]\ndenied_status = 500\n",
            "4: policy.denied_status: invalid value \"500\": use one of 403, 404, 410, 503",
        ),
        ("[policy]\nstatus = 404\n", "4: policy.status: unknown key: policy has the keys denied_status"),
        (
            "[[group]]\nname = \"a\"\ndeny = [\"client-patch\"]\n",
            "5: group.deny: unknown content type \"client-patch\": known types are catalog, clamav-databases, cl",
        ),
        (
            "[[group]]\nname = \"a\"\nallow = \"x\"\n",
            &format!("5: group.allow: unknown content type \"x\": {known}"),
        ),
        (
            "[[route]]\nprefix = \"/\"\ndeny_download = [\"own\", \"others\"]\n[[content_type]]\nname = \"own\"\npattern = \"/x\"\n",
            "5: route.deny_download: unknown content type \"others\": known types are catalog, clamav-databases, cl",
        ),
    ] {
        let lines = problems(load(&format!("{MANAGER}{text}")));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with(&format!("gupd.toml:{expected}")), "{lines:?}");
    }
}

#[test]
fn content_type_denied_and_allowed_is_a_warning() {
    let text = "[[group]]\nname = \"a\"\ndeny = \"catalog\"\nallow = \"catalog\"\n";
    let warnings = load(&format!("{MANAGER}{text}")).unwrap().warnings;
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(
        warning.to_string().ends_with(
            "gupd.toml:5: group.deny: catalog is also in allow, which takes precedence: remove it from one of them"
        ),
        "{warning}"
    );
}
