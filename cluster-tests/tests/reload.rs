//! The configuration is read again while nodes run: what is taken over, what waits, and what is refused.

use std::fs;
use std::net::SocketAddr;

use cluster_tests::cluster::{CONFIG, Cluster};
use cluster_tests::process::{Process, SECONDS, free_address, in_shell, send};
use cluster_tests::wait::{ensure, until};
use cluster_tests::{http, paths};
use serde_json::json;

const HANGUP: i32 = 1;

fn publish(server: SocketAddr, key: &str, room: &str) -> String {
    let body = json!({"channel": room, "data": {}});
    let answer = http::post(server, "/api/publish", &[("X-API-Key", key)], &body);
    answer.map(|it| format!("{} {}", it.status, it.body)).unwrap_or_else(|error| error)
}

fn of_page(server: SocketAddr) -> u16 {
    let headers = [("Origin", "https://app.example")];
    let answer = http::request(server, "POST", "/emulation", &headers, "{}");
    answer.expect("an answer").status
}

#[test]
fn what_can_be_taken_over_counts_at_once_and_the_rest_is_named() {
    let (file, log) = (paths::scratch(".toml"), paths::scratch(".log"));
    let write = |text: &str| fs::write(&file, text).expect("a scratch file");
    write("[http_api]\nkey = \"one\"\n");
    let http = free_address().expect("a port");
    let after = format!("-c {} 2>{}", file.display(), log.display());
    let mut node = Process::start(in_shell("", http, &after), http).expect("it serves");
    assert!(publish(http, "one", "a").starts_with("200 {\"result\""));
    assert!(publish(http, "one", "news:a").contains("\"code\":102"));
    assert_eq!(of_page(http), 403);

    let text = || fs::read_to_string(&log).unwrap_or_default();
    let said =
        |what: &str| until(SECONDS, || ensure(text().contains(what), text)).expect("it is said");
    write("[http_api]\nkey = 1\n[nonsense]\n[client]\nchannel_limit = \"x\"\n");
    node.signal(HANGUP).expect("it can be sent");
    said("the configuration stays as it is");
    assert!(text().contains("nonsense") && text().contains("client.channel_limit"), "{}", text());
    assert!(publish(http, "one", "a").starts_with("200 {\"result\""));

    write(
        "[http_api]\nkey = \"two\"\n[client]\nallowed_origins = [\"https://app.example\"]\nchannel_limit = 7\n\
         [log]\nlevel = \"debug\"\n[[channel.namespaces]]\nname = \"news\"\n",
    );
    node.signal(HANGUP).expect("it can be sent");
    said("the configuration was read again");
    assert!(text().contains("client.channel_limit"), "{}", text());
    until(SECONDS, || {
        let answers = [publish(http, "two", "news:a"), publish(http, "one", "a")];
        let right = answers[0].starts_with("200 {\"result\"") && answers[1].starts_with("401");
        ensure(right, || format!("{answers:?}"))
    })
    .expect("the new key and the new namespace count, and the old key does not");
    assert_ne!(of_page(http), 403);
    assert!(node.leave().expect("it leaves").success());
    for scratch in [file, log] {
        let _ = fs::remove_file(scratch);
    }
}

/// The configuration of nodes that know these secrets.
fn knowing(secret: &str, others: &[&str]) -> String {
    format!("{CONFIG}[cluster]\nsecret = \"{secret}\"\nother_secrets = {others:?}\n")
}

/// Changes what a node knows while it runs, and waits until it does.
fn reread(cluster: &Cluster, node: usize, config: &str) {
    cluster.configure(config).expect("a scratch file");
    let read = |cluster: &Cluster| {
        cluster.node(node).log().matches("the configuration was read again").count()
    };
    let before = read(cluster);
    send(cluster.node(node).pid(), HANGUP).expect("it can be sent");
    until(SECONDS, || ensure(read(cluster) > before, || cluster.node(node).log()))
        .expect("it is read");
}

#[test]
fn the_secret_changes_while_the_cluster_runs() {
    let (old, new) = ("the secret of before", "the secret from now on");
    let mut cluster = Cluster::start_with(2, &knowing(old, &[])).expect("a cluster");
    for (secret, others) in [(old, vec![new]), (new, vec![old]), (new, vec![])] {
        for node in 0..2 {
            reread(&cluster, node, &knowing(secret, &others));
        }
        cluster.converged().expect("they still hear each other");
    }
    let third = cluster.add().expect("a node that knows only the new one starts");
    cluster.converged().expect("it is one of them");
    cluster.configure(&knowing(old, &[])).expect("a scratch file");
    cluster.add().expect("a node that knows only the old one starts");
    let alone = cluster.metric(third, "roomcast_cluster_nodes").expect("a number");
    assert!((alone - 3.0).abs() < 0.5, "{alone} nodes");
}
