//! Clients that we did not write: the Go SDK, and those of the server API, on three nodes.

use std::{path::Path, process::Command};

use cluster_tests::{
    check, paths,
    sdk::{
        Format::{Json, Protobuf},
        Sdk::{Go, Js},
    },
    step::Step::*,
    wait::ensure,
    world::{World, say_skipped},
};
use serde_json::json;

/// Whether a program is there; says what is skipped if not, and why.
fn is_there(program: &Path, what: &str, why: &str) -> bool {
    let there = program.exists();
    if !there {
        say_skipped(&format!("{what} is not here, for there is no {why}"));
    }
    there
}

#[test]
fn the_go_sdk_publishes_and_recovers_across_nodes() {
    if !is_there(&paths::go_driver(), "the driver of the Go SDK", "Go") {
        return;
    }
    let mut world = World::new(3);
    world.play([
        Connect { client: "gj", sdk: Go, format: Json, node: 0 },
        Connect { client: "gp", sdk: Go, format: Protobuf, node: 1 },
        Connect { client: "js", sdk: Js, format: Json, node: 2 },
        Connect { client: "late", sdk: Js, format: Json, node: 0 },
        Subscribe { client: "gj", room: "book" },
        Subscribe { client: "gp", room: "book" },
        Subscribe { client: "js", room: "book" },
        Publish { clients: vec!["gj", "gp", "js"], room: "book", count: 20, pipelined: false },
        Receive { clients: vec!["gj", "gp", "js"], room: "book", count: 60 },
        Unplug { client: "gp" },
        Publish { clients: vec!["late"], room: "book", count: 10, pipelined: true },
        MoveTo { client: "gp", node: 2, room: "book" },
        Receive { clients: vec!["gj", "gp", "js"], room: "book", count: 70 },
    ]);
    let logs = world.logs(&["gj", "gp", "js"], "book");
    world.check("all have the same, once each", |_| {
        logs.iter().try_for_each(check::no_duplicates)?;
        check::same_order(&logs)
    });
    for client in ["gj", "gp"] {
        world.check(&format!("{client} reads the room"), |world| {
            let call = |world: &mut World, cmd, fields| {
                world.clients.call(client, cmd, fields).map_err(|it| it.to_string())
            };
            let page =
                call(world, "history", json!({"room": "book", "limit": 2, "reverse": true}))?;
            ensure(page["offset"] == 70, || page.to_string())?;
            let there = call(world, "presence_stats", json!({"room": "book"}))?;
            ensure(there["clients"] == 3, || there.to_string())
        });
    }
}

/// Runs a script with the URLs of all nodes and the key of the API.
fn script(world: &mut World, what: &str, mut command: Command) {
    let urls: Vec<String> =
        (0..3).map(|node| format!("http://{}", world.cluster.node(node).http)).collect();
    world.check(what, |_| {
        let done = command.arg(urls.join(",")).arg("test").output().map_err(|it| it.to_string())?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure(done.status.success(), || said(&done.stdout) + &said(&done.stderr))
    });
}

#[test]
fn the_official_clients_of_the_api_work_on_every_node() {
    let mut world = World::new(3);
    let mut python = Command::new(paths::python());
    python.arg(paths::crate_dir().join("clients/python/api.py"));
    script(&mut world, "cent calls every method", python);
    let mut node = Command::new("node");
    node.arg(paths::js("api.mjs"));
    script(&mut world, "cent.js calls every method", node);
    if is_there(&paths::phpcent(), "the client of the API in PHP", "Composer") {
        let mut php = Command::new("php");
        php.arg(paths::crate_dir().join("clients/php/api.php")).arg(paths::phpcent());
        script(&mut world, "phpcent calls every method", php);
    }
}

#[test]
fn clients_of_the_api_that_send_one_command_to_a_line_work_on_every_node() {
    let mut world = World::new(3);
    let mut python = Command::new(paths::python());
    python.arg(paths::crate_dir().join("clients/python/api4.py"));
    script(&mut world, "cent 4 calls every method", python);
    if is_there(&paths::go_api(), "the client of the API in Go", "Go") {
        script(&mut world, "gocent calls every method", Command::new(paths::go_api()));
    }
}

#[test]
fn the_api_is_as_it_is_described() {
    let mut world = World::new(1);
    let http = world.cluster.node(0).http;
    let mut fuzzer = Command::new(paths::python().with_file_name("schemathesis"));
    fuzzer.arg("run").arg(format!("http://{http}/openapi.json"));
    fuzzer.args(["--header", "X-API-Key: test", "--max-examples", "40", "--seed", "1"]);
    fuzzer.args([
        "--exclude-path",
        "/api/drain",
        "--no-color",
        "--phases",
        "examples,coverage,fuzzing",
    ]);
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    fuzzer.args(["--checks", checks]);
    world.check("whatever is sent is answered as described", |_| {
        let done = fuzzer.output().map_err(|it| it.to_string())?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure(done.status.success(), || said)
    });
    world.check("the node is as well as before", |world| {
        world.cluster.api(0, "info", &json!({})).map(drop)
    });
}
