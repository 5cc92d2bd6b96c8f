//! Path patterns: how they are written, and the form of a path they are matched against. Both sides are brought to
//! lower case, because the managers' paths are served from Windows; a path's escapes are decoded, so that
//! `%7B` is `{` and no spelling of a private path hides it from its rule.

use globset::{Glob, GlobBuilder};

/// Compiles a glob: `*` and `?` stay within a segment, `**` crosses segments, `[0-9]` is one of a set, `{a,b}` is
/// either. Braces around no comma mean themselves, as in `/content/{*}/**`.
pub fn compile(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(&literal_braces(&pattern.to_ascii_lowercase()))
        .literal_separator(true)
        .backslash_escape(true)
        .build()
}

/// The path as patterns see it. A decoded `%2F` would make a separator and `%25` an escape, so those two stay.
pub fn fold(path: &str) -> String {
    let mut folded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        folded.push_str(before);
        let escaped = after.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let decoded = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded {
            Some(byte @ b' '..=b'~') if byte != b'/' && byte != b'%' => {
                folded.push(char::from(byte));
                rest = &after[2..];
            }
            _ => {
                folded.push('%');
                rest = after;
            }
        }
    }
    folded.push_str(rest);
    folded.make_ascii_lowercase();
    folded
}

// An alternation of one says nothing, while every path of a manager's content holds `{GUID}`.
fn literal_braces(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        match after.find(['{', '}', ',']) {
            Some(end) if after[end..].starts_with('}') && !before.ends_with(['\\', '[']) => {
                out.push_str("[{]");
                out.push_str(&after[..end]);
                out.push_str("[}]");
                rest = &after[end + 1..];
            }
            _ => {
                out.push('{');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        compile(pattern).unwrap().compile_matcher().is_match(fold(path))
    }

    #[test]
    fn a_star_stays_within_a_segment_and_two_cross() {
        assert!(matches("/a/*/c", "/a/b/c"));
        assert!(!matches("/a/*/c", "/a/b/b/c"));
        assert!(matches("/a/**/c", "/a/b/b/c"));
        assert!(matches("**/minitri.flg", "/minitri.flg"));
        assert!(matches("**/minitri.flg", "/x/y/minitri.flg"));
        assert!(!matches("**/minitri.flg", "/x/notminitri.flg"));
    }

    #[test]
    fn braces_without_a_comma_mean_themselves_and_with_one_an_alternation() {
        assert!(matches("/content/{*}/x", "/content/{AB-cd}/x"));
        assert!(matches("/content/{AB}/{CD}", "/content/{ab}/{cd}"));
        assert!(!matches("/content/{ab}/x", "/content/ab/x"));
        assert!(matches("*.{dax,zip}", "f.ZIP"));
        assert!(matches("{a,b{c}}", "b{c}"));
        assert!(matches(r"\{a\}", "{a}"));
        assert!(matches("[{]a[}]", "{a}"));
        assert!(compile("{a,").is_err());
        assert!(compile("[a").is_err());
    }

    #[test]
    fn escapes_and_case_hide_nothing() {
        assert!(matches("**/secars/**", "/SECARS/secars.dll"));
        assert!(matches("**/secars/**", "/%73ecar%53/secars.dll"));
        assert!(matches("/content/{a}/x", "/content/%7Ba%7d/x"));
        assert_eq!(fold("/a%2Fb%25zz%2"), "/a%2fb%25zz%2");
        assert_eq!(fold("/%+f%é%C3%A9"), "/%+f%é%c3%a9");
    }

    proptest! {
        #[test]
        fn no_path_or_pattern_panics(text in "\\PC{0,40}|[/%{}\\[\\],*?a-f0-9\\\\]{0,40}") {
            let folded = fold(&text);
            prop_assert!(folded.len() <= text.len());
            if let Ok(glob) = compile(&text) {
                let _ = glob.compile_matcher().is_match(&folded);
            }
        }
    }
}
