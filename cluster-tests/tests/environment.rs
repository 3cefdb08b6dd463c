//! A node in its environment: logs that nobody takes, signals that mean nothing, limits that are low, names.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster_tests::process::{Process, SECONDS, free_address, in_shell};
use cluster_tests::wait::{ensure, until};
use cluster_tests::{http, paths};
use serde_json::Value;

fn at(before: &str, after: &str) -> Process {
    let http = free_address().expect("a port");
    Process::start(in_shell(before, http, after), http).expect("it serves")
}

/// A page of an origin that may not connect: each is logged.
fn refused(server: SocketAddr) {
    let headers = [("Origin", "https://elsewhere.example")];
    let answer = http::request(server, "POST", "/connection/sse", &headers, "{}");
    assert_eq!(answer.expect("an answer").status, 403);
}

#[test]
fn a_log_that_nobody_takes_does_not_end_the_node() {
    let log = paths::scratch(".log");
    let file = format!("2>{}", log.display());
    for (before, streams) in [
        ("", "2>&-"),
        ("", ">&- 2>&-"),
        ("", "2>/dev/full"),
        // A block of 512 bytes, and no more.
        ("ulimit -f 1;", file.as_str()),
    ] {
        let mut node = at(&format!("{before} ROOMCAST_LOG_LEVEL=debug"), streams);
        (0..20).for_each(|_| refused(node.http));
        node.serves().unwrap_or_else(|error| panic!("{streams}: {error}"));
        let status = node.leave().expect(streams);
        assert!(status.success(), "{streams}: {status}");
    }
    let _ = fs::remove_file(log);
}

#[test]
fn a_log_whose_reader_has_gone_does_not_end_the_node() {
    let http = free_address().expect("a port");
    let mut command = in_shell("", http, "");
    command.stderr(Stdio::piped());
    let mut node = Process::start(command, http).expect("it serves");
    drop(node.take_stderr());
    (0..20).for_each(|_| refused(node.http));
    node.serves().expect("it goes on");
    assert!(node.leave().expect("it leaves").success());
}

#[test]
fn a_file_gets_no_colours_and_refusals_do_not_fill_it() {
    let log = paths::scratch(".log");
    let mut node = at("", &format!("2>{}", log.display()));
    (0..300).for_each(|_| refused(node.http));
    let text = || fs::read_to_string(&log).unwrap_or_default();
    until(SECONDS, || {
        let said = text().contains("more like the last ones from there were not logged");
        ensure(said, text)
    })
    .expect("how many were not logged is said");
    let refusals = text().matches("refused a page of an origin").count();
    assert!((1..=20).contains(&refusals), "{refusals} refusals:\n{}", text());
    assert!(node.leave().expect("it leaves").success());
    let text = text();
    assert!(text.contains("ready") && !text.contains('\u{1b}'), "{text}");
    let _ = fs::remove_file(log);
}

#[test]
fn signals_that_mean_nothing_do_not_end_the_node() {
    let mut node = at("", "2>/dev/null");
    // SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, and two of real time.
    for number in [1, 10, 12, 13, 14, 26, 27, 29, 34, 64] {
        node.signal(number).expect("it can be sent");
        std::thread::sleep(Duration::from_millis(50));
        node.serves().unwrap_or_else(|error| panic!("signal {number}: {error}"));
    }
    assert!(node.leave().expect("it leaves").success());
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_goes() {
    let node = at("ulimit -Sn 200; ulimit -Hn 4000;", "2>/dev/null");
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.pid())).expect("readable");
    let files = limits.lines().find(|it| it.starts_with("Max open files")).expect("a limit");
    let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["4000", "4000"]);
}

/// The name in the line that says that a node is ready.
fn name(before: &str, listen: &str) -> String {
    let log = paths::scratch(".log");
    let script = format!("exec {before} \"$0\" serve --listen {listen} 2>{}", log.display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(paths::server());
    command.env("ROOMCAST_LOG_FORMAT", "json").env_remove("ROOMCAST_BIN").stdin(Stdio::null());
    let http = free_address().expect("a port");
    let _node = Process::launch(command, http).expect("it starts");
    let line = until(SECONDS, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let line = text.lines().find(|it| it.contains("\"ready\"")).map(str::to_owned);
        line.ok_or(text)
    });
    let line: Value = serde_json::from_str(&line.expect("it is ready")).expect("JSON");
    let _ = fs::remove_file(log);
    line["node"].as_str().expect("a name").to_owned()
}

#[test]
fn a_node_is_called_after_its_host_and_no_other_of_the_host_alike() {
    let port = free_address().expect("a port").port();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("readable");
    let listen = format!("127.0.0.1:{port}");
    let own = name("", &listen);
    assert!(own.ends_with(&format!(":{port}")), "{own}");
    if !host.trim().starts_with("localhost") {
        assert_eq!(own, format!("{}:{port}", host.trim()));
    }
    let (one, other) = (name("", "127.0.0.1:0"), name("", "127.0.0.1:0"));
    assert_ne!(one, other);
    let probe = Command::new("unshare").args(["--uts", "hostname", "probe-7"]).status();
    if probe.is_ok_and(|it| it.success()) {
        // As in a container: what files say may be another host's.
        let other_host = "unshare --uts sh -c 'hostname probe-7; exec \"$0\" \"$@\"'";
        assert_eq!(name(other_host, &listen), format!("probe-7:{port}"));
    }
}
