//! Keeps pure code pure: a test that reads the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What only shells may name.
const IMPURE: [&str; 12] = [
    "actix",
    "tokio",
    "Instant",
    "SystemTime",
    "clock::",
    "getrandom",
    "rand::",
    "std::net::Tcp",
    "std::thread",
    "std::process",
    "tracing::",
    "prometheus",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

/// The code of a line, without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

#[test]
fn pure_files_name_no_actor_socket_or_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut pure, mut broken) = (Vec::new(), 0, Vec::new());
    sources(&root, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let name = file.strip_prefix(&root).expect("below src").display().to_string();
        let first = text.lines().next().unwrap_or_default();
        if first.starts_with("//! SHELL.") || name == "main.rs" {
            continue;
        }
        pure += 1;
        for (number, line) in text.lines().enumerate() {
            let named = IMPURE.iter().find(|it| code(line).contains(*it));
            broken.extend(named.map(|it| format!("{name}:{} names {it}", number + 1)));
        }
    }
    assert!(pure > 20, "only {pure} pure files: does a shell's first line say SHELL by mistake?");
    assert!(broken.is_empty(), "pure files name what only shells may:\n{}", broken.join("\n"));
}

#[test]
fn bincode_is_confined_to_the_wire() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let name = file.strip_prefix(&root).expect("below src").display().to_string();
        if name != "mesh/wire.rs" {
            let text = fs::read_to_string(&file).expect("readable");
            assert!(!text.lines().any(|line| code(line).contains("bincode")), "{name}");
        }
    }
}
