//! `roomcast bench`: the load generator as its users have it, against real nodes.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use cluster_tests::cluster::Cluster;
use cluster_tests::node::spawn_bound;
use cluster_tests::paths;
use cluster_tests::wait::{ensure, hold, until};
use roomcast_bench::reading::Processes;
use serde_json::Value;

const CONFIG: &str = r#"
[client]
insecure = true
[http_api]
key = "test"
[[channel.namespaces]]
name = "kept"
history_size = 1000
history_ttl = "1h"
force_recovery = true
[[channel.namespaces]]
name = "short"
history_size = 1
history_ttl = "1h"
force_recovery = true
[[channel.namespaces]]
name = "jobs"
history_size = 300
history_ttl = "1h"
queue = { groups = ["*"] }
"#;

const SOON: Duration = Duration::from_secs(60);

/// The exit code of a load that lost messages.
const LOST: i32 = 3;

/// Starts the load on every node of the cluster.
fn start(cluster: &mut Cluster, options: &[&str]) -> Result<Child, String> {
    let mut command = Command::new(paths::server());
    command.arg("bench").args(["--json", "--quiet"]).args(options);
    for node in cluster.running() {
        command.arg(cluster.node(node).ws_url());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn_bound(command).map_err(|error| format!("starting the load: {error}"))
}

/// Waits for its end: its exit code, and the last line of what it prints.
fn end(child: Child) -> Result<(i32, Value, String), String> {
    let Output { status, stdout, stderr } =
        child.wait_with_output().map_err(|error| format!("waiting for the load: {error}"))?;
    let printed = String::from_utf8_lossy(&stdout).into_owned();
    let errors = String::from_utf8_lossy(&stderr).into_owned();
    let last = printed.lines().last().unwrap_or_default();
    let json = serde_json::from_str(last).unwrap_or(Value::Null);
    Ok((status.code().unwrap_or(-1), json, printed + &errors))
}

fn load(cluster: &mut Cluster, options: &[&str]) -> Result<(i32, Value, String), String> {
    end(start(cluster, options)?)
}

/// Memory that only the node has, in KiB.
fn memory(cluster: &Cluster) -> Result<u64, String> {
    let memory = Processes::new(vec![cluster.node(0).pid()]).memory();
    Ok(memory.map_err(|error| error.to_string())?.private)
}

#[test]
fn clients_on_three_nodes_miss_nothing_while_some_lose_their_connections() -> Result<(), String> {
    let mut cluster = Cluster::start_with(3, CONFIG)?;
    cluster.converged()?;
    for protocol in ["json", "protobuf"] {
        let (code, seen, text) = load(
            &mut cluster,
            &[
                "--protocol",
                protocol,
                "--room-prefix",
                "kept:",
                "--clients",
                "200",
                "--rooms",
                "10",
                "--rooms-per-client",
                "2",
                "--rate",
                "100",
                "--publishers",
                "3",
                "--size",
                "100..2000",
                "--seconds",
                "4",
                "--churn",
                "20",
                "--storm-every",
                "2",
            ],
        )?;
        ensure(code == 0 && seen["lost"] == 0 && seen["told"] == 0, || format!("{code}\n{text}"))?;
        let published = seen["published"].as_u64().unwrap_or(0);
        // Each room has 40 of the clients.
        let got = seen["delivered"].as_u64().unwrap_or(0) + seen["recovered"].as_u64().unwrap_or(0);
        ensure(published >= 350 && got == published * 40, || text.clone())?;
        let storms = seen["storm_seconds"].as_array().map_or(0, Vec::len);
        ensure(storms == 1 && seen["recovered"].as_u64() > Some(0), || text)?;
    }
    Ok(())
}

#[test]
fn clients_that_have_gone_leave_their_memory_to_the_system() -> Result<(), String> {
    const CLIENTS: u64 = 8_000;
    let mut cluster = Cluster::start_with(1, CONFIG)?;
    let clients = CLIENTS.to_string();
    let options = ["--clients", &clients, "--rate", "1", "--seconds", "5"];
    // A server that has had clients holds more than a new one: its tables, and code that was run.
    let (code, _, text) = load(&mut cluster, &options)?;
    ensure(code == 0, || text)?;
    let before = until(SOON, || {
        let before = memory(&cluster)?;
        hold(Duration::from_secs(3));
        // Half a percent comes and goes all the time.
        let moved = memory(&cluster)?.abs_diff(before);
        ensure(moved <= before / 200, || format!("memory moves by {moved} KiB")).map(|()| before)
    })?;
    let child = start(&mut cluster, &options)?;
    let with = until(SOON, || {
        let connected = cluster.metric(0, "roomcast_connections")?;
        ensure(connected >= CLIENTS as f64, || format!("{connected} clients"))?;
        memory(&cluster)
    })?;
    let (code, _, text) = end(child)?;
    ensure(code == 0 && with > before + CLIENTS / 2, || format!("{before}, {with} KiB\n{text}"))?;
    until(SOON, || {
        let left = memory(&cluster)?;
        ensure(left < (before + with) / 2, || format!("{before}, {with}, {left} KiB"))
    })
}

#[test]
fn a_load_that_loses_messages_says_so_by_its_exit_code() -> Result<(), String> {
    let mut cluster = Cluster::start_with(1, CONFIG)?;
    let (code, seen, text) = load(
        &mut cluster,
        &[
            "--room-prefix",
            "short:",
            "--clients",
            "50",
            "--rate",
            "500",
            "--seconds",
            "3",
            "--storm-every",
            "1",
            "--api-key",
            "test",
        ],
    )?;
    ensure(code == LOST && seen["told"].as_u64() > Some(0), || format!("{code}\n{text}"))
}

#[test]
fn a_server_that_wants_a_token_is_named_as_the_reason_at_once() -> Result<(), String> {
    let mut cluster = Cluster::start_with(1, "[http_api]\nkey = \"test\"\n")?;
    let (code, _, text) = load(&mut cluster, &["--clients", "5"])?;
    ensure(code == 1 && text.contains("--token"), || format!("{code}\n{text}"))
}

#[test]
fn messages_of_a_queue_on_three_nodes_are_all_acknowledged() -> Result<(), String> {
    let mut cluster = Cluster::start_with(3, CONFIG)?;
    cluster.converged()?;
    let url = |node: usize| cluster.node(node).ws_url();
    let urls = [url(0), url(1), url(2)];
    let queue = |options: &[&str]| {
        let mut command = Command::new(paths::server());
        command.args(["bench", "queue", "--json", "--api-key"]).args(options).args(&urls);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        end(spawn_bound(command).map_err(|error| format!("starting the load: {error}"))?)
    };
    let small = ["test", "--consumers", "20", "--rooms", "4"];
    // More than the rooms can hold: publishers are refused for a while, and nothing is lost.
    let (code, json, printed) = queue(&[&small[..], &["--messages", "5000"]].concat())?;
    ensure(code == 0 && json["acked"] == 5_000 && json["lost"] == 0, || printed.clone())?;
    let steady = ["--messages", "400", "--rate", "400", "--group", "other"];
    let (code, json, printed) = queue(&[&small[..], &steady].concat())?;
    ensure(code == 0 && json["acked"] == 400 && json["refused"] == 0, || printed.clone())?;
    ensure(printed.contains("from due to given, p99"), || printed.clone())?;
    let (code, _, printed) = queue(&["wrong"])?;
    ensure(code == 1 && printed.contains("http_api.key"), || printed.clone())
}
