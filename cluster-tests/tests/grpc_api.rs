//! The server API by gRPC: programs in Go and Python, with code that others' descriptions of it and ours make.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use cluster_tests::{
    authority::Authority,
    cluster::CONFIG,
    paths,
    process::send,
    sdk::{Format::Json, Sdk::Js},
    wait::{ensure, until},
    world::{World, say_skipped},
};

const GRPC: &str = r#"
[grpc_api]
enabled = true
address = "127.0.0.1"
port = 0
key = "secret"
[[channel.namespaces]]
name = "board"
subscription_type = "map"
[channel.namespaces.map]
mode = "persistent"
ordered = true
"#;

const HANGUP: i32 = 1;

fn world(nodes: usize) -> World {
    World::with(nodes, &format!("{CONFIG}{GRPC}"))
}

fn address(world: &World, node: usize) -> SocketAddr {
    let line = world.cluster.node(node).logged("the API is served by gRPC").expect("it says so");
    let address = line["fields"]["address"].as_str().or(line["address"].as_str());
    address.expect("an address").parse().expect("an address")
}

fn addresses(world: &World, nodes: usize) -> String {
    let all: Vec<_> = (0..nodes).map(|node| address(world, node).to_string()).collect();
    all.join(",")
}

/// What a program says, which has to succeed.
fn run(mut command: Command) -> Result<String, String> {
    let done = command.output().map_err(|it| it.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure(done.status.success(), || said(&done.stdout) + &said(&done.stderr))?;
    Ok(said(&done.stdout))
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new(paths::python());
    command.arg(paths::crate_dir().join("clients/python/grpc_api.py")).args(arguments);
    command
}

#[test]
fn every_method_works_on_every_node_as_others_describe_it() {
    if !paths::go_grpc().exists() {
        return say_skipped("the client of gRPC in Go is not built, for there is no Go");
    }
    let mut world = world(3);
    let url = world.cluster.node(0).ws_url();
    let id = world.clients.connect("js", (Js, Json), &url).expect("it connects");
    let addresses = addresses(&world, 3);
    world.check("every method is called, and every refusal is one", |_| {
        let mut go = Command::new(paths::go_grpc());
        go.args([addresses.as_str(), "secret", &id]);
        run(go).map(drop)
    });
    world.check("the client was closed with what was said", |world| {
        world.clients.until("js", Duration::from_secs(10), |events| {
            let closed =
                events.iter().any(|it| it["state"] == "disconnected" && it["code"] == 4501);
            ensure(closed, || format!("{events:?}"))
        })
    });
}

#[test]
fn many_calls_at_once_as_we_describe_them() {
    let mut world = world(1);
    let address = address(&world, 0).to_string();
    world.check("they are all done", |_| run(python(&["call", &address, "secret"])).map(drop));
}

#[test]
fn our_descriptions_are_a_part_of_those_of_others() -> Result<(), String> {
    for file in ["api.proto", "unistream.proto", "proxy.proto"] {
        let theirs = paths::centrifugo_proto(file);
        if !theirs.exists() {
            say_skipped("the descriptions of others come with their code in Go: there is no Go");
            return Ok(());
        }
        let ours = paths::crate_dir().join("../proto").join(file);
        let (ours, theirs) = (ours.display().to_string(), theirs.display().to_string());
        run(python(&["same", &ours, &theirs]))?;
    }
    Ok(())
}

#[test]
fn calls_come_over_tls() -> Result<(), String> {
    let authority = Authority::new()?;
    authority.issue()?;
    let (chain, key) = (authority.chain.display(), authority.key.display());
    let tls = format!(
        "{CONFIG}{GRPC}[grpc_api.tls]\nenabled = true\ncert_pem = \"{chain}\"\nkey_pem = \"{key}\"\n"
    );
    let world = World::with(1, &tls);
    let address = address(&world, 0).to_string();
    run(python(&["tls", &address, "secret", &authority.own.display().to_string()]))?;
    let plain = run(python(&["call", &address, "secret"]));
    ensure(plain.is_err(), || "it was called without TLS".to_owned())
}

#[test]
fn whoever_does_not_speak_the_protocol_is_let_go() -> Result<(), String> {
    let world = world(1);
    let address = address(&world, 0);
    let beginning = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("half of it", &beginning[..10]),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let mut io = TcpStream::connect(address).map_err(|it| it.to_string())?;
        io.set_read_timeout(Some(Duration::from_secs(15))).map_err(|it| it.to_string())?;
        io.write_all(bytes).map_err(|it| it.to_string())?;
        let begun = Instant::now();
        let mut answer = Vec::new();
        // Whether it ends or breaks is all one.
        let end = io.read_to_end(&mut answer);
        let timed_out = end.is_err_and(|it| it.kind() == std::io::ErrorKind::WouldBlock);
        ensure(!timed_out, || format!("who says {what} is kept for {:?}", begun.elapsed()))?;
    }
    run(python(&["call", &address.to_string(), "secret"])).map(drop)
}

#[test]
fn a_node_that_leaves_does_what_was_begun() -> Result<(), String> {
    let mut world = world(2);
    let address = address(&world, 0).to_string();
    // It is connected, and asks for nothing.
    let mut idle = TcpStream::connect(&address).map_err(|it| it.to_string())?;
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .map_err(|it| it.to_string())?;
    let publisher = std::thread::spawn(move || run(python(&["until_gone", &address, "secret"])));
    until(Duration::from_secs(20), || {
        let page = world.cluster.api(1, "history", &serde_json::json!({"channel": "leaving"}))?;
        ensure(page["offset"].as_u64() > Some(100), || page.to_string())
    })?;
    let begun = Instant::now();
    world.cluster.node(0).terminate();
    let status = world.cluster.node_mut(0).exit_status(Duration::from_secs(15));
    ensure(status.as_ref().is_ok_and(std::process::ExitStatus::success), || format!("{status:?}"))?;
    ensure(begun.elapsed() < Duration::from_secs(10), || format!("it took {:?}", begun.elapsed()))?;
    let said = publisher.join().expect("it ends")?;
    let acked: u64 = said.trim().parse().map_err(|_| said)?;
    let page = world.cluster.api(1, "history", &serde_json::json!({"channel": "leaving"}))?;
    ensure(page["offset"].as_u64() >= Some(acked), || format!("{acked} of {page}"))
}

#[test]
fn the_key_may_be_another_while_the_node_runs() -> Result<(), String> {
    let world = world(1);
    let address = address(&world, 0).to_string();
    run(python(&["key", &address, "secret"]))?;
    world.cluster.configure(&format!("{CONFIG}{}", GRPC.replace("secret", "other")))?;
    send(world.cluster.node(0).pid(), HANGUP)?;
    until(Duration::from_secs(10), || run(python(&["key", &address, "other"])))?;
    ensure(run(python(&["key", &address, "secret"])).is_err(), || "the old key counts".to_owned())?;
    Ok(())
}
