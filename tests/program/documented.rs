//! The commands of the documents: each is one that the program has, with its flags.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::{Process, gupd};

/// Returns the documents of operators and the scripts and units of `deploy`.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    pages.filter(|path| path.is_file()).chain([root.join("README.md")]).collect()
}

/// Returns the arguments of a line that runs gupd; `None` for every other line.
fn arguments(line: &str) -> Option<Vec<String>> {
    let line = line.trim_start_matches("$ ").trim_start_matches("sudo ");
    let command = line.strip_prefix("gupd ").or_else(|| line.strip_prefix("target/release/gupd "))?;
    let command =
        command.split(" &").next()?.split(" | ").next()?.split(" >").next()?.split("  # ").next()?;
    let (mut words, mut quote) = (vec![String::new()], None);
    for character in command.chars() {
        match quote {
            _ if quote == Some(character) => quote = None,
            None if matches!(character, '"' | '\'') => quote = Some(character),
            None if character == ' ' => words.push(String::new()),
            _ => words.last_mut()?.push(character),
        }
    }
    for word in &mut words {
        // Placeholders of the documents.
        match word.as_str() {
            "ADDR" => "192.0.2.1".clone_into(word),
            "PATH" => "/path".clone_into(word),
            _ => {}
        }
    }
    Some(words.into_iter().filter(|word| !word.is_empty()).collect())
}

#[test]
fn commands_of_documents_exist() {
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let blocks = text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::trim_start);
        let inline = text.lines().filter(|line| !line.starts_with("    "));
        let inline = inline.flat_map(|line| line.split('`').skip(1).step_by(2));
        for (line, arguments) in blocks.chain(inline).filter_map(|line| Some((line, arguments(line)?))) {
            // Help is printed only if everything before it is understood.
            let ended = Process::start(gupd(&arguments).arg("--help")).wait_for_exit();
            checked += 1;
            if !ended.status.success() {
                wrong.push(format!("{}: {line}: {}", document.display(), ended.errors));
            }
        }
    }
    assert!(wrong.is_empty(), "the program refuses:\n{}", wrong.join("\n"));
    assert!(checked >= 40, "only {checked} commands were found");
}
