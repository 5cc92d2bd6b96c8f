//! Checks of the documents: links lead to files and headings, named paths exist, and the invariants of ARCHITECTURE.md
//! and the threats of docs/security.md name tests. Each library has its reason. README.md and ARCHITECTURE.md keep to
//! their size.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod portable;
mod settings;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Documents at the root, and folders of further ones.
const ROOTS: [&str; 6] =
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benches/README.md"];

/// Maximum bytes: README.md is read in minutes, ARCHITECTURE.md before the first change.
const SIZES: [(&str, u64); 2] = [("README.md", 9_000), ("ARCHITECTURE.md", 16_000)];

/// Top-level folders of the paths that are checked.
const FOLDERS: [&str; 7] = ["src/", "tests/", "benches/", "config/", "deploy/", "docs/", "fuzz/"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// Asserts that a generated page has this text, or writes it if `UPDATE_REFERENCES` is set.
fn assert_current(name: &str, text: &str) {
    let path = repository().join(name);
    if std::env::var_os("UPDATE_REFERENCES").is_some() {
        fs::write(&path, text).unwrap();
    }
    let differs = fs::read_to_string(path).unwrap_or_default() != text;
    assert!(!differs, "{name} is not current: UPDATE_REFERENCES=1 cargo nextest run --test documents");
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

/// Returns the rows of the table under this heading that do not end with a file and a test.
fn rows_without_test(text: &str, heading: &str, least: usize) -> Vec<String> {
    let table = text.split_once(&format!("\n## {heading}\n")).unwrap().1;
    let table = table.split("\n## ").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    assert!(rows.len() >= least, "only {} rows were found under {heading}", rows.len());
    let missing = rows.iter().filter_map(|row| {
        let named: Vec<&str> = inline_code(row).collect();
        let [.., file, test] = named[..] else { return Some(format!("no file and test: {row}")) };
        let code = fs::read_to_string(repository().join(file)).unwrap_or_default();
        (!code.contains(&format!("fn {test}("))).then(|| format!("{file}: {test}"))
    });
    missing.collect()
}

#[test]
fn invariants_and_threats_name_existing_tests() {
    let mut missing = rows_without_test(&read(&repository().join("ARCHITECTURE.md")), "Invariants", 30);
    missing.extend(rows_without_test(&read(&repository().join("docs/security.md")), "Threats", 30));
    assert!(missing.is_empty(), "documents name tests that do not exist:\n{}", missing.join("\n"));
}

/// Names of the libraries that a manifest's section lists.
fn listed_libraries(manifest: &str, section: &str) -> BTreeSet<String> {
    let section = manifest.split_once(&format!("[{section}]\n")).map_or("", |(_, section)| section);
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once([' ', '.', '=']).map(|(name, _)| name));
    names.filter(|name| !name.starts_with(['#']) && !name.starts_with("gupd-")).map(str::to_owned).collect()
}

#[test]
fn every_library_has_its_reason() {
    let manifest = read(&repository().join("Cargo.toml"));
    let used = listed_libraries(&manifest, "workspace.dependencies");
    let page = read(&repository().join("docs/design/libraries.md"));
    let rows = page.lines().filter(|line| line.starts_with('|')).skip(2);
    let names = rows.filter_map(|row| row.split('|').nth(1));
    // Features stand in parentheses.
    let names = names.flat_map(|names| {
        names.split(')').flat_map(|part| part.split('(').next().unwrap_or_default().split(','))
    });
    let reasoned: BTreeSet<String> =
        names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    let differences: Vec<_> = used.symmetric_difference(&reasoned).collect();
    assert!(
        differences.is_empty(),
        "in one of Cargo.toml and docs/design/libraries.md only: {differences:?}"
    );
}

#[test]
fn crates_take_libraries_from_the_workspace_alone() {
    let manifest = read(&repository().join("Cargo.toml"));
    let workspace = listed_libraries(&manifest, "workspace.dependencies");
    let mut used = listed_libraries(&manifest, "dev-dependencies");
    used.extend(listed_libraries(&manifest, "dependencies"));
    let mut files = Vec::new();
    collect_files(&repository().join("src"), &mut files);
    for file in files.iter().filter(|file| file.ends_with("Cargo.toml")) {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            used.extend(listed_libraries(&read(file), section));
        }
    }
    let differences: Vec<_> = used.symmetric_difference(&workspace).collect();
    assert!(differences.is_empty(), "used or listed in the workspace only: {differences:?}");
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
fn headings_of_a_page_have_different_anchors() {
    let mut twice = Vec::new();
    for (path, text) in documents() {
        let mut anchors = BTreeSet::new();
        for heading in text.lines().filter(|line| line.starts_with('#')) {
            if !anchors.insert(anchor(heading.trim_start_matches('#').trim()))
                && !path.ends_with("CHANGELOG.md")
            {
                twice.push(format!("{}: {heading}", path.display()));
            }
        }
    }
    assert!(twice.is_empty(), "links cannot tell these headings apart:\n{}", twice.join("\n"));
}

/// Returns the words of a text that name a page of docs/, with the heading after `#`.
fn named_pages(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_end = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '/' | '.' | '-' | '_' | '#');
    text.split("docs/").skip(1).filter_map(move |rest| {
        let name = rest.split(is_end).next()?;
        let (page, heading) = name.split_once(".md")?;
        Some((page, heading.strip_prefix('#').unwrap_or_default().trim_end_matches('.')))
    })
}

#[test]
fn pages_named_by_code_and_files_exist() {
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    for folder in ["src", "deploy", "config", "tests"] {
        collect_files(&repository().join(folder), &mut files);
    }
    for (path, text) in files.iter().filter_map(|path| Some((path, fs::read_to_string(path).ok()?))) {
        for (page, heading) in named_pages(&text) {
            let named = fs::read_to_string(repository().join(format!("docs/{page}.md")));
            if !named.is_ok_and(|text| heading.is_empty() || has_anchor(&text, heading)) {
                wrong.push(format!("{}: docs/{page}.md#{heading}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "pages or headings do not exist:\n{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_the_table_of_contents_once() {
    let docs = repository().join("docs");
    let mut files = Vec::new();
    collect_files(&docs, &mut files);
    let pages = files.iter().filter(|path| path.extension().is_some_and(|name| name == "md"));
    let pages: BTreeSet<String> =
        pages.map(|path| path.strip_prefix(&docs).unwrap().display().to_string()).collect();
    for contents in ["SUMMARY.md", "README.md"] {
        let text = read(&docs.join(contents));
        let linked: Vec<&str> = link_targets(&text).filter(|target| !target.starts_with("..")).collect();
        // The table of contents is no page: the book lacks it, and a link to it would be dead there.
        let is_listed = |page: &str| [contents, "SUMMARY.md"].contains(&page) || linked.contains(&page);
        let missing: Vec<_> = pages.iter().filter(|page| !is_listed(page)).collect();
        assert!(missing.is_empty(), "docs/{contents} lacks {missing:?}");
        let twice: Vec<_> =
            pages.iter().filter(|page| linked.iter().filter(|link| link == page).count() > 1).collect();
        assert!(twice.is_empty(), "docs/{contents} has {twice:?} twice");
    }
}

#[test]
fn named_paths_exist() {
    let mut sources = Vec::new();
    for folder in ["src", "tests", "benches", "fuzz"] {
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
