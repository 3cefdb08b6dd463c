//! What people type: commands that they know from elsewhere, and files and variables with mistakes in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use cluster_tests::paths;
use cluster_tests::process::{self, Process, free_address};

/// Runs the server with a file; `{}` among the arguments is its name.
fn with_file(extension: &str, text: &str, arguments: &[&str]) -> Output {
    let file = paths::scratch(&format!(".{extension}"));
    fs::write(&file, text).expect("a scratch file");
    let name = file.to_str().expect("a plain name");
    let arguments: Vec<&str> =
        arguments.iter().map(|it| if *it == "{}" { name } else { it }).collect();
    let output = process::run(&arguments).expect("it runs");
    let _ = fs::remove_file(file);
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(suffix: &str) -> Self {
        Self(paths::scratch(suffix))
    }

    fn name(&self) -> &str {
        self.0.to_str().expect("a plain name")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_file_alone_runs_a_node() {
    let http = free_address().expect("a port");
    let file = Scratch::new(".toml");
    let text = format!("[http_server]\naddress = \"127.0.0.1\"\nport = {}\n", http.port());
    fs::write(&file.0, text).expect("a scratch file");
    let mut command = process::command(&["-c", file.name()]);
    command.stderr(Stdio::null());
    let mut node = Process::start(command, http).expect("it serves");
    node.serves().expect("it serves");
    assert!(node.leave().expect("it leaves").success());
}

#[test]
fn the_version_is_a_command_and_a_flag() {
    let says = |arguments: &[&str]| text(&process::run(arguments).expect("it runs").stdout);
    let version = says(&["version"]);
    assert!(version.starts_with("roomcast ") && version == says(&["--version"]), "{version}");
}

#[test]
fn a_configuration_to_begin_with_is_written_once_for_its_owner_and_is_valid() {
    for extension in [".toml", ".json", ".yaml"] {
        let file = Scratch::new(extension);
        let made = process::run(&["genconfig", "-c", file.name()]).expect("it runs");
        assert!(made.status.success() && text(&made.stdout).contains("roomcast -c "));
        let checked = process::run(&["checkconfig", "-c", file.name()]).expect("it runs");
        assert!(checked.status.success(), "{}", text(&checked.stderr));
        let written = fs::read_to_string(&file.0).expect("it is there");
        assert!(written.contains("hmac_secret_key") && written.contains("key"));
        assert_eq!(mode(&file.0), 0o600);
        let again = process::run(&["genconfig", "-c", file.name()]).expect("it runs");
        assert_eq!(again.status.code(), Some(1));
        assert_eq!(fs::read_to_string(&file.0).expect("it is there"), written);
    }
}

fn mode(file: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn all_mistakes_are_said_at_once() {
    let mistakes =
        "[client]\nalowed_origins = []\n[http_server]\nport = 70000\n[consumers]\nx = 1\n";
    let output = with_file("toml", mistakes, &["checkconfig", "-c", "{}"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.starts_with("roomcast: the configuration is not valid; 3 things are wrong:"),
        "{said}"
    );
    for key in ["client.alowed_origins", "http_server.port", "consumers"] {
        assert!(said.contains(&format!("\n  {key}: ")), "{said}");
    }
}

#[test]
fn what_has_no_effect_is_said_and_is_no_mistake() {
    let mut command = process::command(&["checkconfig"]);
    command.env("CENTRIFUGO_CLIENT_ALLOWED_ORIGINS", "https://a").env("ROOMCAST_VERSION", "1");
    let output = command.output().expect("it runs");
    let said = text(&output.stderr);
    assert!(
        output.status.success() && said.contains("ours is ROOMCAST_CLIENT_ALLOWED_ORIGINS"),
        "{said}"
    );
    assert!(said.contains("the variable ROOMCAST_VERSION is ignored"), "{said}");
}

#[test]
fn values_that_are_no_text_do_no_harm() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let mut command = process::command(&["checkconfig"]);
    command.env("FOO", OsStr::from_bytes(b"\xff"));
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut command = process::command(&["checkconfig"]);
    command.env("ROOMCAST_NODE_NAME", OsStr::from_bytes(b"\xff"));
    let output = command.output().expect("it runs");
    assert!(text(&output.stderr).contains("ROOMCAST_NODE_NAME: its value is not UTF-8"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_configuration_of_centrifugo_becomes_one_of_ours() {
    let v6 = r#"{
        "client": {"token": {"hmac_secret_key": "x"}, "allowed_origins": ["https://a"]},
        "engine": {"type": "redis"}, "prometheus": {"enabled": true},
        "channel": {"namespaces": [{"name": "chat", "history_size": 5, "history_ttl": "1m0s"}]}
    }"#;
    let v5 = "token_hmac_secret_key: x\nallowed_origins: [https://a]\nengine: redis\nprometheus: true\n\
              namespaces:\n  - name: chat\n    history_size: 5\n    history_ttl: 1m0s\n";
    let [of_v6, of_v5] = [("json", v6), ("yaml", v5)].map(|(extension, theirs)| {
        let output = with_file(extension, theirs, &["migrate", "{}"]);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("engine is dropped: there is nothing to connect to"), "{said}");
        assert!(said.contains("prometheus is dropped: "), "{said}");
        let ours = text(&output.stdout);
        let checked = with_file("toml", &ours, &["checkconfig", "-c", "{}"]);
        assert!(checked.status.success(), "{ours}\n{}", text(&checked.stderr));
        // The first line names the file.
        ours.split_once('\n').expect("lines").1.to_owned()
    });
    assert_eq!(of_v6, of_v5);
    assert!(
        of_v6.contains("[[channel.namespaces]]") && of_v6.contains("name = \"chat\""),
        "{of_v6}"
    );
}

#[test]
fn what_is_still_wrong_after_that_is_said() {
    let theirs = "[channel.without_namespace]\nforce_recovery = true\n";
    let output = with_file("toml", theirs, &["migrate", "{}"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("force_recovery = true"));
    assert!(text(&output.stderr).contains("channel.without_namespace.force_recovery: needs"));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let mut command = process::command(&["defaultconfig"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}
