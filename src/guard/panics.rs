//! The panic hook of every process: one error in the log, with the place in the source. Values in the message are left
//! out, because they may be of a client's request: an `unwrap` prints all of its error.

use std::panic::{PanicHookInfo, set_hook};

/// Texts behind which std and formatted messages have their values.
const SEPARATORS: [&str; 5] = [": ", "; ", "\"", "'", "\n"];

/// Replaces the hook that prints panics to standard error. Call it when the log is set up.
pub fn install_hook() {
    set_hook(Box::new(|info| {
        let place = info.location().map(tracing::field::display);
        let thread = std::thread::current();
        tracing::error!(
            place,
            reason = reason(info),
            thread = thread.name(),
            "panic: a defect of gupd: report it"
        );
    }));
}

fn reason<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    // A constant is a part of the program and has no values.
    match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(constant), _) => constant,
        (None, Some(message)) => strip_values(message),
        (None, None) => "unknown",
    }
}

/// Returns the text of a message up to its first value.
fn strip_values(message: &str) -> &str {
    SEPARATORS.iter().fold(message, |message, separator| {
        message.split_once(separator).map_or(message, |(constant, _)| constant)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_a_panic_has_no_values() {
        for (message, expected) in [
            (
                "called `Result::unwrap()` on an `Err` value: InvalidHeader(\"Basic c2VjcmV0\")",
                "called `Result::unwrap()` on an `Err` value",
            ),
            ("index out of bounds: the len is 3 but the index is 7", "index out of bounds"),
            (
                "byte index 1 is not a char boundary; it is inside 'é' (bytes 0..2) of `é secret`",
                "byte index 1 is not a char boundary",
            ),
            ("token \"secret\" is wrong", "token "),
            ("attempt to subtract with overflow", "attempt to subtract with overflow"),
            ("assertion `left == right` failed\n  left: 1\n right: 2", "assertion `left == right` failed"),
        ] {
            assert_eq!(strip_values(message), expected);
        }
    }
}
