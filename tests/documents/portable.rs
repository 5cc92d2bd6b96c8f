//! Crates that need no Unix: `docs/on-windows.md` names them for a port, and `tests/run` compiles them for Windows where
//! Rust's library for it is installed.

use super::{collect_files, read, repository};

const PORTABLE: [&str; 3] = ["config", "http", "plan"];

/// Modules and libraries that only a Unix has.
const UNIX: [&str; 6] = ["os::unix", "os::linux", "os::fd", "libc::", "nix::", "rustix::"];

/// Lines after `#[cfg(unix)]` that belong to its item, in this repository.
const ITEM: usize = 4;

/// Returns the places of a source file that need a Unix, except for items of Unix alone.
fn unix_lines(source: &str) -> Vec<usize> {
    let lines: Vec<_> = source.lines().collect();
    let is_unix_item =
        |at: usize| lines[at.saturating_sub(ITEM)..at].iter().any(|line| line.trim() == "#[cfg(unix)]");
    let needs_unix =
        |line: &str| !line.trim().starts_with("//") && UNIX.iter().any(|name| line.contains(name));
    (0..lines.len()).filter(|at| needs_unix(lines[*at]) && !is_unix_item(*at)).map(|at| at + 1).collect()
}

#[test]
fn portable_crates_need_no_unix_and_are_named() {
    let page = read(&repository().join("docs/on-windows.md"));
    let gate = read(&repository().join("tests/run"));
    let mut wrong = Vec::new();
    for name in PORTABLE {
        assert!(page.contains(&format!("`gupd-{name}`")), "the page does not name gupd-{name}");
        assert!(gate.contains(&format!("--package gupd-{name}")), "the gate does not check gupd-{name}");
        let mut files = Vec::new();
        collect_files(&repository().join("src").join(name), &mut files);
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
            wrong
                .extend(unix_lines(&read(file)).into_iter().map(|line| format!("{}:{line}", file.display())));
        }
        let manifest = read(&repository().join("src").join(name).join("Cargo.toml"));
        let needed = manifest.split("\n[target.").next().unwrap_or_default();
        wrong.extend(
            ["libc", "nix", "rustix", "gupd-net", "gupd-store", "gupd-guard"]
                .iter()
                .filter(|unix| needed.contains(&format!("\n{unix}.workspace")))
                .map(|unix| format!("{name}: {unix}")),
        );
    }
    assert!(wrong.is_empty(), "need a Unix:\n{}", wrong.join("\n"));
}

#[test]
fn unix_calls_are_found_outside_of_unix_items() {
    for (source, lines) in [
        ("use std::os::unix::fs::MetadataExt;\n", &[1][..]),
        ("// std::os::unix\nfn a() {}\n", &[]),
        ("#[cfg(unix)]\nfn a() {\n    rustix::fs::sync();\n}\n", &[]),
        ("#[cfg(unix)]\nfn a() {}\n\nfn b() {}\n\nfn c() {\n    libc::sync();\n}\n", &[7]),
    ] {
        assert_eq!(unix_lines(source), lines, "{source}");
    }
}
