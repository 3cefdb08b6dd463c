//! Keeps pure code pure and modules in layers: tests that read the sources.

use std::{
    collections::BTreeSet,
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
    "prometheus::",
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
fn bincode_is_confined_to_the_wire_and_the_log() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let name = file.strip_prefix(&root).expect("below src").display().to_string();
        if !["mesh/wire.rs", "room/persisted.rs"].contains(&&*name) {
            let text = fs::read_to_string(&file).expect("readable");
            assert!(!text.lines().any(|line| code(line).contains("bincode")), "{name}");
        }
    }
}

/// The top-level modules that a source uses: `crate::name`, alone or in a group.
fn used_modules(source: &str) -> BTreeSet<String> {
    let text: String = source.lines().map(code).collect::<Vec<_>>().join("\n");
    let mut used = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(identifier(rest));
            continue;
        };
        let (mut depth, mut expected) = (1, true);
        for (at, it) in group.char_indices() {
            match it {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => expected = true,
                it if expected && !it.is_whitespace() => {
                    used.insert(identifier(&group[at..]));
                    expected = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    used
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
}

#[test]
fn used_modules_are_found_alone_and_in_groups() {
    let source = "use crate::{\n    a::b,\n    c::{d::{e, f}, g},\n    h,\n};\nlet x = crate::i::j(); // crate::k";
    assert_eq!(used_modules(source).into_iter().collect::<Vec<_>>(), ["a", "c", "h", "i"]);
}

/// The one file that names a close code: what it says to other nodes has had that in it since the first version.
const NAMES_A_CLOSE_CODE: &str = "room/single_connection.rs";

#[test]
fn rooms_know_no_client_protocol() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root.join("room"), &mut files);
    for file in files {
        let name = file.strip_prefix(&root).expect("below src").display().to_string();
        let text = fs::read_to_string(&file).expect("readable");
        let named = text.lines().any(|line| code(line).contains("protocol::"));
        assert_eq!(named, name == NAMES_A_CLOSE_CODE, "{name}");
    }
}

/// The library's modules from the lowest layer up: each may use only those before it.
const LAYERS: [&str; 18] = [
    "metrics",
    "runtime",
    "log",
    "protocol",
    "cluster",
    "queue",
    "map",
    "access",
    "room",
    "backend",
    "shared_poll",
    "webhooks",
    "config",
    "session",
    "hub",
    "mesh",
    "server",
    "node",
];

#[test]
fn modules_use_only_those_of_lower_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut uses) = (Vec::new(), BTreeSet::new());
    sources(&root, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let name = file.strip_prefix(&root).expect("below src").display().to_string();
        if name.ends_with("_tests.rs") {
            continue;
        }
        let module = identifier(&name);
        let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
        let others = used_modules(shipped).into_iter().filter(|used| *used != module);
        uses.extend(others.map(|used| (module.clone(), used)));
    }
    assert!(uses.len() > 40, "only {} uses: are the sources read?", uses.len());
    let layer = |module: &str| LAYERS.iter().position(|it| *it == module);
    let upward =
        uses.iter().filter(|(user, used)| layer(used).is_none() || layer(used) >= layer(user));
    let upward: Vec<_> = upward.map(|(user, used)| format!("{user} uses {used}")).collect();
    assert!(upward.is_empty(), "not of a lower layer (see LAYERS): {upward:?}");
}
