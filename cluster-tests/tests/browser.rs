//! Two people in front of two screens, on two nodes of `roomcast demo`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use cluster_tests::browser::Browser;
use cluster_tests::wait::{ensure, until};
use cluster_tests::{node, paths};

const SIZE: (u32, u32) = (1100, 760);
const PHONE: (u32, u32) = (390, 780);

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
        let mut command = Command::new(paths::server());
        command.args(["demo", "--port", "0"]).stdin(Stdio::null()).stdout(Stdio::piped());
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
