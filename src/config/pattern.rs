//! Path patterns, and the folded form of a path that they match. Both are in lower case, because managers serve paths
//! from Windows. Percent escapes of a path are decoded, so that `%7B` equals `{` and no spelling of a private path
//! evades its rule.

use globset::{Glob, GlobBuilder};

/// Compiles a glob. `*` and `?` match within a segment, `**` crosses segments, `[0-9]` matches one of a set, `{a,b}`
/// either alternative. Braces without a comma are literal, as in `/content/{*}/**`.
///
/// # Errors
/// A pattern that is not a glob.
pub fn compile(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(&literal_braces(&pattern.to_ascii_lowercase()))
        .literal_separator(true)
        .backslash_escape(true)
        .build()
}

/// Returns the folded form of a path. `%2F` and `%25` stay escaped: decoded, they would add a separator or an escape.
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

// Every content path of a manager contains `{GUID}`, and an alternation of one would be useless.
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
    fn star_matches_within_a_segment_and_double_star_across() {
        assert!(matches("/a/*/c", "/a/b/c"));
        assert!(!matches("/a/*/c", "/a/b/b/c"));
        assert!(matches("/a/**/c", "/a/b/b/c"));
        assert!(matches("**/minitri.flg", "/minitri.flg"));
        assert!(matches("**/minitri.flg", "/x/y/minitri.flg"));
        assert!(!matches("**/minitri.flg", "/x/notminitri.flg"));
    }

    #[test]
    fn braces_without_comma_are_literal_with_comma_alternate() {
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
    fn escapes_and_case_do_not_evade_a_pattern() {
        assert!(matches("**/secars/**", "/SECARS/secars.dll"));
        assert!(matches("**/secars/**", "/%73ecar%53/secars.dll"));
        assert!(matches("/content/{a}/x", "/content/%7Ba%7d/x"));
        assert_eq!(fold("/a%2Fb%25zz%2"), "/a%2fb%25zz%2");
        assert_eq!(fold("/%+f%é%C3%A9"), "/%+f%é%c3%a9");
    }

    proptest! {
        #[test]
        fn matching_any_path_or_pattern_does_not_panic(text in "\\PC{0,40}|[/%{}\\[\\],*?a-f0-9\\\\]{0,40}") {
            let folded = fold(&text);
            prop_assert!(folded.len() <= text.len());
            if let Ok(glob) = compile(&text) {
                let _ = glob.compile_matcher().is_match(&folded);
            }
        }
    }
}
