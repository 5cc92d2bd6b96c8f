//! Checks of the documents: links lead to files and headings, named paths exist, and the invariants of ARCHITECTURE.md
//! name tests. README.md and ARCHITECTURE.md keep to their size.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Documents at the root, and folders of further ones.
const ROOTS: [&str; 5] =
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "benches/README.md"];

/// Maximum bytes: README.md is read in minutes, ARCHITECTURE.md before the first change.
const SIZES: [(&str, u64); 2] = [("README.md", 9_000), ("ARCHITECTURE.md", 16_000)];

/// Top-level folders of the paths that are checked.
const FOLDERS: [&str; 6] = ["src/", "tests/", "benches/", "config/", "deploy/", "docs/"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Adds every file below `folder`.
fn collect_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_files(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Every document with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> = ROOTS.iter().map(|name| repository().join(name)).collect();
    collect_files(&repository().join("docs"), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// Returns the inline code of a text: spans between single backticks on one line.
fn inline_code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with("    ")).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The targets of a text's links.
fn link_targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// The anchor that a Markdown viewer gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn has_anchor(text: &str, wanted: &str) -> bool {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).any(|anchor| anchor == wanted)
}

#[test]
fn invariants_name_existing_tests() {
    let text = read(&repository().join("ARCHITECTURE.md"));
    let table = text.split_once("\n## Invariants\n").expect("ARCHITECTURE.md has invariants").1;
    let table = table.split("\n## ").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    assert!(rows.len() >= 30, "only {} invariants were found", rows.len());
    let missing: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let named: Vec<&str> = inline_code(row).collect();
            let [.., file, test] = named[..] else { return Some(format!("no file and test: {row}")) };
            let code = fs::read_to_string(repository().join(file)).unwrap_or_default();
            (!code.contains(&format!("fn {test}("))).then(|| format!("{file}: {test}"))
        })
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names tests that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn relative_links_lead_to_files_and_headings() {
    let mut dead = Vec::new();
    for (path, text) in documents() {
        for target in link_targets(&text).filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            if !linked.exists() || !heading.is_empty() && !has_anchor(&read(&linked), heading) {
                dead.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(dead.is_empty(), "links lead nowhere:\n{}", dead.join("\n"));
}

#[test]
fn named_paths_exist() {
    let mut sources = Vec::new();
    for folder in ["src", "tests", "benches"] {
        collect_files(&repository().join(folder), &mut sources);
    }
    let is_path = |code: &&str| {
        !code.is_empty()
            && code.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-'))
    };
    let exists = |code: &str| {
        if FOLDERS.iter().any(|folder| code.starts_with(folder)) {
            return repository().join(code).exists();
        }
        // A file without its folder, where the text says which crate it is of.
        !code.ends_with(".rs") || sources.iter().any(|path| path.ends_with(code))
    };
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        let named = inline_code(&text).filter(is_path).filter(|code| !exists(code));
        wrong.extend(named.map(|code| format!("{}: {code}", path.display())));
    }
    assert!(wrong.is_empty(), "paths do not exist:\n{}", wrong.join("\n"));
}

#[test]
fn readme_and_architecture_stay_small() {
    for (name, most) in SIZES {
        let size = fs::metadata(repository().join(name)).unwrap().len();
        assert!(size <= most, "{name} has {size} bytes, more than {most}: move text to docs/");
    }
}
