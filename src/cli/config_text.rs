//! Configuration files that commands write: quoting, the check of `gupd check`, and a file that replaces none.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::CommandError;
use gupd_config::{Config, Overrides};

/// Returns a TOML string.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(quoted, "\\u{:04X}", u32::from(char));
            }
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// Checks the text as the file of a relay.
///
/// # Errors
/// When a relay would refuse it; the lines of the messages are those of the text.
pub(crate) fn check(text: &str) -> Result<(), CommandError> {
    let failed = |error: io::Error| CommandError::Failed(format!("temporary file: {error}"));
    let path = std::env::temp_dir().join(format!("gupd-config-{}.toml", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let checked = file.write_all(text.as_bytes()).map_err(failed).and_then(|()| {
        let loaded = Config::load(&Overrides::default(), Some(&path), std::iter::empty());
        loaded.map_err(|problems| {
            let text = problems.to_string().replace(&*path.to_string_lossy(), "new configuration");
            CommandError::Configuration(text)
        })
    });
    std::fs::remove_file(&path).map_err(failed)?;
    checked.map(drop)
}

/// Writes a file that does not exist yet.
pub(crate) fn write_new(path: &Path, text: &str) -> Result<(), CommandError> {
    let failed = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::AlreadyExists => "move it away, or pass another --output",
            _ => "pass an --output that can be written, or use sudo",
        };
        CommandError::Failed(format!("{}: {error}: {remedy}", path.display()))
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}
