//! `gupd check --profile`: validates a profile as a reload does, and runs its test vectors.

use std::path::Path;

use super::{CommandError, print_line};
use gupd_config::Profiles;
use gupd_config::policy::evaluate_vectors;

pub(super) fn run(file: &Path) -> Result<(), CommandError> {
    let (profiles, profile) = Profiles::with_file(file)?;
    let failures = evaluate_vectors(&profile, &profiles)
        .map_err(|error| CommandError::Configuration(format!("{}: {error}", file.display())))?;
    let lines = failures.iter().map(|failure| {
        let line = failure.line.map(|line| format!(":{line}")).unwrap_or_default();
        format!("{}{line}: {failure}", file.display())
    });
    let lines: Vec<_> = lines.collect();
    if !lines.is_empty() {
        return Err(CommandError::Failed(lines.join("\n")));
    }
    if profile.vectors.is_empty() {
        print_line(&format!("warning: {}: has no [[test]]: add one for each rule", file.display()));
    }
    print_line(&format!(
        "profile {} is valid: {} rules, {} tests passed",
        profile.name,
        profile.paths.len(),
        profile.vectors.len()
    ));
    Ok(())
}
