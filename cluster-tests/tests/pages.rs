//! What the documentation shows is what happens: its examples are run as they stand there.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster_tests::cluster::API_KEY;
use cluster_tests::paths;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::World;

/// How long an example may run.
const LIMIT: Duration = Duration::from_secs(20);

/// A block of a page: its language and its text.
type Block = (String, String);

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(language) => {
                blocks.push((language.to_owned(), String::new()));
                inside = true;
            }
            None if inside => {
                let text = &mut blocks.last_mut().expect("one is open").1;
                *text += line;
                text.push('\n');
            }
            None => {}
        }
    }
    blocks
}

fn interpreter(language: &str) -> Option<Command> {
    let mut command = match language {
        "sh" => Command::new("bash"),
        "js" => {
            let mut node = Command::new("node");
            node.args(["--input-type=module", "-"]);
            node
        }
        "python" => Command::new(paths::python()),
        _ => return None,
    };
    // Where the SDK's modules are.
    command.current_dir(paths::js(""));
    Some(command)
}

/// Runs a program from its standard input: what it printed.
fn run(language: &str, program: &str) -> Result<String, String> {
    let mut command = interpreter(language).ok_or_else(|| format!("what is {language}?"))?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(program.as_bytes()).map_err(|e| e.to_string())?;
    drop(stdin);
    let ended = until(LIMIT, || match child.try_wait() {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("it goes on and on: {other:?}")),
    });
    let _ = child.kill();
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let [printed, complaint] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    ended.map_err(|why| format!("{why}\n{printed}\n{complaint}"))?;
    ensure(output.status.success(), || format!("{}\n{printed}\n{complaint}", output.status))?;
    Ok(printed)
}

/// Whether lines are as shown; `…` stands for anything.
fn as_shown(shown: &str, printed: &str) -> bool {
    let same = |(shown, printed): (&str, &str)| {
        let mut rest = printed;
        let mut parts = shown.split('…');
        let first = parts.next().unwrap_or_default();
        let Some(after) = rest.strip_prefix(first) else { return false };
        rest = after;
        let mut open = false;
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
            open = part.is_empty();
        }
        rest.is_empty() || open
    };
    shown.lines().count() == printed.lines().count() && shown.lines().zip(printed.lines()).all(same)
}

/// Runs the examples of a page in their order. The first TOML block is the node's configuration; a block with
/// output is run and compared; one without is what the later ones of its language begin with.
fn play(page: &str) {
    let path: PathBuf = paths::crate_dir().join("../docs").join(page);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let text = text.replace("backend-key", API_KEY);
    let all = blocks(&text);
    let config = &all.iter().find(|(language, _)| language == "toml").expect("a configuration").1;
    let mut world = World::with(1, config);
    let address = world.cluster.node(0).http.to_string();
    let mut preludes: Vec<Block> = Vec::new();
    let mut ran = 0;
    for (index, (language, program)) in all.iter().enumerate() {
        if interpreter(language).is_none() {
            continue;
        }
        let program = program.replace("127.0.0.1:8000", &address);
        let output = all.get(index + 1).filter(|(language, _)| language == "text");
        let Some((_, shown)) = output else {
            preludes.push((language.clone(), program));
            continue;
        };
        let prelude = preludes.iter().filter(|(of, _)| of == language);
        let whole: String = prelude.map(|(_, text)| text.as_str()).chain([&*program]).collect();
        world.check(&format!("example {index} of {page}:\n{program}"), |_| {
            let printed = run(language, &whole)?;
            ensure(as_shown(shown, &printed), || format!("it printed\n{printed}\nnot\n{shown}"))
        });
        ran += 1;
    }
    assert!(ran > 0, "{page} has no examples");
}

#[test]
fn queues() {
    play("queues.md");
}

#[test]
fn streams() {
    play("streams.md");
}

#[test]
fn what_is_left_out_stands_for_anything() {
    assert!(as_shown("a…c\n…", "abc\nxyz\n"));
    assert!(!as_shown("a…c", "abd") && !as_shown("a", "a\nb") && !as_shown("ab", "abc"));
}
