//! Two people in front of two screens, on two nodes of `roomcast demo`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use cluster_tests::browser::Browser;
use cluster_tests::cluster::CONFIG;
use cluster_tests::step::Step::*;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::World;
use cluster_tests::ws::{Event, Frame, Socket, opcode};
use cluster_tests::{node, paths};
use serde_json::Value;

const SIZE: (u32, u32) = (1100, 760);
const PHONE: (u32, u32) = (390, 780);

/// In this time the page shows who came and who went.
const SHOWN: Duration = Duration::from_secs(6);

/// `roomcast demo`, and the nodes that it printed.
struct Demo {
    process: Child,
    nodes: BTreeMap<String, DemoNode>,
}

struct DemoNode {
    url: String,
    pid: i32,
}

impl Demo {
    fn start() -> Self {
        Self::start_at(0, &std::env::temp_dir())
    }

    /// At these ports, with its files here.
    fn start_at(port: u16, temporary: &Path) -> Self {
        let mut command = Command::new(paths::server());
        command.env("TMPDIR", temporary);
        command
            .args(["demo", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // Ours, and no option of the server, which would refuse it.
        command.env_remove("ROOMCAST_BIN");
        let mut process = node::spawn_bound(command).expect("the demo starts");
        let lines = lines_of(&mut process);
        let mut demo = Self { process, nodes: BTreeMap::new() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while demo.nodes.len() < 3 {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).expect("three nodes within 30 s");
            demo.nodes.extend(parse(&line));
        }
        demo
    }

    fn url(&self, name: &str) -> &str {
        &self.nodes[name].url
    }

    /// Ctrl-C.
    fn interrupt(&mut self) {
        node::interrupt_process(&self.process);
        let ended = || match self.process.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("it runs on: {other:?}")),
        };
        until(Duration::from_secs(20), ended).expect("it ends at Ctrl-C");
    }

    /// The machine of this node is gone.
    fn kill(&self, name: &str) {
        node::kill_process(self.nodes[name].pid);
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        for node in self.nodes.values() {
            node::kill_process(node.pid);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn lines_of(process: &mut Child) -> Receiver<String> {
    let stdout = process.stdout.take().expect("stdout is piped");
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

/// `node a  http://127.0.0.1:PORT  pid 1234`
fn parse(line: &str) -> Option<(String, DemoNode)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["node", name, url, "pid", pid] => {
            let node = DemoNode { url: url.to_owned(), pid: pid.parse().ok()? };
            Some((name.to_owned(), node))
        }
        _ => None,
    }
}

fn join(browser: &mut Browser, window: &str, url: &str, size: (u32, u32)) -> Result<(), String> {
    browser.open(window, url, size)?;
    browser.fill(window, "#name", window)?;
    browser.click(window, "#join")?;
    browser.wait_attribute(window, "#node", ("data-state", "connected"))
}

fn say(browser: &mut Browser, window: &str, text: &str) -> Result<(), String> {
    browser.fill(window, "#text", text)?;
    browser.click(window, "#send")
}

/// The node that a window shows itself on.
fn node_of(browser: &mut Browser, window: &str) -> Result<String, String> {
    Ok(browser.texts(window, "#node")?.join(" "))
}

#[test]
fn two_windows_chat_and_survive_the_death_of_a_node() -> Result<(), String> {
    let demo = Demo::start();
    let mut browser = Browser::start()?;
    join(&mut browser, "Ann", demo.url("a"), SIZE)?;
    join(&mut browser, "Bob", demo.url("b"), PHONE)?;
    for (window, other) in [("Ann", "Bob"), ("Bob", "Ann")] {
        // On a phone the list is folded away, and still there.
        browser.wait_attribute(window, "#people li", ("data-name", other))?;
    }
    say(&mut browser, "Ann", "hello from a")?;
    browser.wait_text("Bob", "#messages .message .text", "hello from a")?;
    say(&mut browser, "Bob", "hello from b")?;
    browser.wait_text("Ann", "#messages .message .text", "hello from b")?;
    browser.screenshot("Ann", "chat-desktop.png")?;
    browser.screenshot("Bob", "chat-phone.png")?;
    for window in ["Ann", "Bob"] {
        let wide = browser.overflow(window)?;
        ensure(wide <= 0, || format!("{window}'s page is {wide} pixels too wide"))?;
    }

    let before = node_of(&mut browser, "Ann")?;
    demo.kill("a");
    say(&mut browser, "Bob", "are you there?")?;
    let moved = |browser: &mut Browser| {
        let now = node_of(browser, "Ann")?;
        ensure(!now.is_empty() && now != before, || format!("Ann is still on {now}"))
    };
    until(Duration::from_secs(20), || moved(&mut browser))?;
    browser.wait_attribute("Ann", "#node", ("data-state", "connected"))?;
    browser.wait_text("Ann", "#messages .message .text", "are you there?")?;
    say(&mut browser, "Ann", "still here")?;
    browser.wait_text("Bob", "#messages .message .text", "still here")?;
    browser.screenshot("Ann", "chat-after-a-node-died.png")?;

    let all = ["hello from a", "hello from b", "are you there?", "still here"];
    for window in ["Ann", "Bob"] {
        let texts = browser.texts(window, "#messages .message .text")?;
        ensure(texts == all, || format!("{window} sees {texts:?}"))?;
    }
    let errors = browser.page_errors();
    ensure(errors.is_empty(), || format!("the page threw {errors:?}"))
}

#[test]
fn the_chat_of_the_demo_is_there_after_ctrl_c_and_a_new_start() -> Result<(), String> {
    let temporary = std::env::temp_dir().join(format!("roomcast-demo-test-{}", std::process::id()));
    std::fs::create_dir_all(&temporary).map_err(|it| it.to_string())?;
    let port = cluster_tests::cluster::free_ports_in_a_row(3)?;
    for here in [&[][..], &["before"]] {
        let mut demo = Demo::start_at(port, &temporary);
        let mut browser = Browser::start()?;
        join(&mut browser, "Ann", demo.url("b"), SIZE)?;
        for text in here {
            browser.wait_text("Ann", "#messages .message .text", text)?;
        }
        say(&mut browser, "Ann", "before")?;
        until(SHOWN, || {
            let texts = browser.texts("Ann", "#messages .message .text")?;
            ensure(texts.len() == here.len() + 1, || format!("Ann sees {texts:?}"))
        })?;
        demo.interrupt();
    }
    std::fs::remove_dir_all(&temporary).map_err(|it| it.to_string())
}

#[test]
fn what_people_type_is_text_and_never_markup() -> Result<(), String> {
    let demo = Demo::start();
    let mut browser = Browser::start()?;
    join(&mut browser, "Eve", demo.url("a"), SIZE)?;
    join(&mut browser, "Ann", demo.url("c"), SIZE)?;
    let markup = "<img src=x onerror=document.title='owned'><b>bold</b>";
    say(&mut browser, "Eve", markup)?;
    browser.wait_text("Ann", "#messages .message .text", markup)?;
    let injected = browser.texts("Ann", "#messages img, #messages .text b")?;
    ensure(injected.is_empty(), || format!("markup got through: {injected:?}"))
}

/// [`CONFIG`] of nodes that serve the page.
fn with_page() -> String {
    let client = "[client]\nallowed_origins = [\"http://127.0.0.1:*\"]\n\
                  token = { hmac_secret_key = \"of the page's tokens\" }";
    format!("{}[demo]\nenabled = true\n", CONFIG.replacen("[client]", client, 1))
}

/// Waits until a window lists exactly these nodes as being there.
fn lists(browser: &mut Browser, window: &str, names: &[&str]) -> Result<(), String> {
    let wanted: Vec<String> = names.iter().map(|name| format!("node {name}")).collect();
    until(SHOWN, || {
        let listed = browser.texts(window, "#nodes li[data-live=true] .node-name")?;
        ensure(listed == wanted, || format!("{window} sees {listed:?}, not {wanted:?}"))
    })
}

#[test]
fn the_page_shows_at_once_who_comes_and_who_goes() {
    let mut world = World::with(3, &with_page());
    let mut browser = Browser::start().expect("a browser");
    let url = format!("http://{}", world.cluster.node(0).http);
    world.check("Ann is in and sees three nodes", |_| {
        join(&mut browser, "Ann", &url, SIZE)?;
        lists(&mut browser, "Ann", &["a", "b", "c"])
    });
    world.play([Kill { node: 2 }]);
    world.check("c is gone from the page", |_| lists(&mut browser, "Ann", &["a", "b"]));
    world.play([Add]);
    world.check("d is on the page", |_| lists(&mut browser, "Ann", &["a", "b", "d"]));
    world.play([Terminate { node: 1 }]);
    world.check("b is gone from the page", |_| lists(&mut browser, "Ann", &["a", "d"]));
    world.play([Kill { node: 0 }]);
    // By the feed of another node, since the one of its own is gone.
    world.check("the page's own node is gone from it", |_| lists(&mut browser, "Ann", &["d"]));
    let errors = browser.page_errors();
    world.check("the page threw nothing", |_| ensure(errors.is_empty(), || format!("{errors:?}")));
}

/// The node's feed, asked for by a page of this origin.
fn feed(world: &World, node: usize, origin: &str) -> Result<(Socket, String), String> {
    Socket::upgrade(world.cluster.node(node).http, "/demo/feed", &[("Origin", origin)])
}

/// The next thing that the feed tells: names and phases.
fn told(socket: &mut Socket) -> Result<Vec<String>, String> {
    match socket.event(SHOWN)? {
        Event::Text(text) => {
            let told: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let nodes = told["nodes"].as_array().ok_or_else(|| text.clone())?;
            let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
            Ok(nodes.iter().map(|it| text(&it["name"]) + " " + &text(&it["phase"])).collect())
        }
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn the_feed_is_for_pages_that_may_connect_and_answers_what_the_protocol_asks() {
    let mut world = World::with(1, &with_page());
    let page = "http://127.0.0.1:1";
    let mut socket = None;
    world.check("a page that may connect is told at once who is there", |world| {
        let (mut it, head) = feed(world, 0, page)?;
        ensure(head.starts_with("HTTP/1.1 101"), || head)?;
        let nodes = told(&mut it)?;
        ensure(nodes == ["a ready"], || format!("{nodes:?}"))?;
        socket = Some(it);
        Ok(())
    });
    let mut socket = socket.expect("it is open");
    world.check("a ping is answered, and a text is not", |_| {
        socket.send_text("hello")?;
        socket.send(&Frame::new(opcode::PING, "x"))?;
        let answer = socket.event(SHOWN)?;
        ensure(answer == Event::Control(opcode::PONG, b"x".to_vec()), || format!("{answer:?}"))
    });
    world.play([Add]);
    world.check("it is told who joins, and how far that one is", |_| {
        let (joining, ready) = (["a ready", "b joining"], ["a ready", "b ready"]);
        let first = told(&mut socket)?;
        let then = if first == joining { told(&mut socket)? } else { first };
        ensure(then == ready, || format!("{then:?}"))
    });
    world.check("a close is answered with the same code", |_| {
        socket.send(&Frame::new(opcode::CLOSE, 1000_u16.to_be_bytes()))?;
        let closed = socket.close_code(SHOWN)?;
        ensure(closed == Some((1000, String::new())), || format!("{closed:?}"))
    });
    world.check("a page of another site is refused", |world| {
        let (_, head) = feed(world, 0, "http://example.com")?;
        ensure(head.starts_with("HTTP/1.1 403"), || head)
    });
}

#[test]
fn there_is_no_feed_where_there_is_no_page() {
    let mut world = World::new(1);
    world.check("it is not found", |world| {
        let (_, head) = Socket::upgrade(world.cluster.node(0).http, "/demo/feed", &[])?;
        ensure(head.starts_with("HTTP/1.1 404"), || head)
    });
}
