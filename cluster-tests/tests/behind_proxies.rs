//! Nodes behind the proxies that people have, each with the very file that docs/proxies.md shows, but for addresses.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cluster_tests::authority::Authority;
use cluster_tests::cluster::{API_KEY, CONFIG, Cluster};
use cluster_tests::curl::{Curl, Streaming};
use cluster_tests::paths;
use cluster_tests::process::free_address;
use cluster_tests::programs::{self, Running};
use cluster_tests::sdk::Clients;
use cluster_tests::sdk::Format::Json;
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::{REACTION, skip};
use serde_json::{Value, json};

/// How soon a message has to be there that nobody holds back.
const AT_ONCE: Duration = Duration::from_secs(10);
/// How many clients stream at the same time.
const STREAMS: usize = 20;
/// How soon a node that is gone is left out.
const SECONDS: Duration = Duration::from_secs(10);
/// Longer than `client.ping_interval`, and what comes on top of it.
const GONE: Duration = Duration::from_secs(45);
/// Where the client is: an address that the proxy doesn't have.
const CLIENT: &str = "127.0.0.9";
/// Where the nodes are in the files.
const DOCUMENTED: [&str; 3] = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"];

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

/// Nodes behind a proxy.
struct Behind {
    // Clients first, nodes last.
    clients: Clients,
    proxy: Running,
    /// Where the proxy is.
    address: SocketAddr,
    cluster: Cluster,
    authority: Authority,
    /// Whether the client's address comes by the PROXY protocol, through a proxy that sees nothing but bytes.
    opaque: bool,
}

/// What a proxy is started with.
struct Setup<'a> {
    address: SocketAddr,
    /// Where its files are.
    folder: &'a Path,
    nodes: [SocketAddr; 3],
    authority: &'a Authority,
}

impl Setup<'_> {
    /// The documented file `name` with addresses and files of this machine, put into the folder.
    fn file(
        &self,
        name: &str,
        listen: (&str, &str),
        more: &[(&str, String)],
    ) -> Result<PathBuf, String> {
        let documented = paths::crate_dir().join("../config/proxies").join(name);
        let mut content = fs::read_to_string(&documented)
            .map_err(|error| format!("{}: {error}", documented.display()))?;
        let mut replace = |documented: &str, own: &str| {
            let found = content.contains(documented);
            content = content.replace(documented, own);
            ensure(found, || format!("{name} has no {documented:?}"))
        };
        if !listen.0.is_empty() {
            replace(listen.0, listen.1)?;
        }
        for (documented, own) in more {
            replace(documented, own)?;
        }
        for (documented, own) in DOCUMENTED.iter().zip(self.nodes) {
            content = content.replace(documented, &own.to_string());
        }
        let chain = self.authority.chain.display().to_string();
        let key = self.authority.key.display().to_string();
        let all = self.folder.join("all.pem");
        let pem = [&self.authority.chain, &self.authority.key].map(fs::read_to_string);
        fs::write(&all, pem.into_iter().collect::<Result<String, _>>().map_err(text)?)
            .map_err(text)?;
        content = content
            .replace("/etc/ssl/roomcast/cert.pem", &chain)
            .replace("/etc/ssl/roomcast/key.pem", &key)
            .replace("/etc/ssl/roomcast/all.pem", &all.display().to_string());
        let file = self.folder.join(name);
        fs::write(&file, content).map_err(text)?;
        Ok(file)
    }
}

fn nginx(setup: &Setup) -> Result<Command, String> {
    let folder = setup.folder.display();
    // Where it keeps what it is sent is compiled in, and not for everyone to write to.
    let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|it| format!("{it}_temp_path {folder}/{it};"))
        .concat();
    let more = [("http {\n", format!("http {{\naccess_log off; {kept}\n"))];
    let own = format!("{} ssl http2;", setup.address);
    let file = setup.file("nginx.conf", ("[::]:443 ssl http2 ipv6only=off;", &own), &more)?;
    let mut command = Command::new("nginx");
    let log = format!("{folder}/error.log");
    command.args(["-p", &folder.to_string(), "-e", &log, "-c"]).arg(file).args([
        "-g",
        &format!("daemon off; master_process off; pid {folder}/pid; error_log {log};"),
    ]);
    Ok(command)
}

fn haproxy(setup: &Setup) -> Result<Command, String> {
    let file = setup.file("haproxy.cfg", (":::443 v4v6", &setup.address.to_string()), &[])?;
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(file);
    Ok(command)
}

fn haproxy_tcp(setup: &Setup, version: &str) -> Result<Command, String> {
    let own = setup.address.to_string();
    let more = [("send-proxy-v2", version.to_owned())];
    let file = setup.file("haproxy-tcp.cfg", (":::443 v4v6", &own), &more)?;
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(file);
    Ok(command)
}

fn caddy(setup: &Setup) -> Result<Command, String> {
    // No ports but its own: neither for its administration nor for redirects.
    let own = format!(
        "{{\n\tadmin off\n\tauto_https disable_redirects\n}}\nhttps://{} {{",
        setup.address
    );
    let file = setup.file("Caddyfile", ("example.com {", &own), &[])?;
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command.env("HOME", setup.folder).env("XDG_DATA_HOME", setup.folder);
    command.env("XDG_CONFIG_HOME", setup.folder);
    Ok(command)
}

fn traefik(setup: &Setup) -> Result<Command, String> {
    let routes = setup.file("traefik-routes.toml", ("", ""), &[])?;
    let more = [("/etc/traefik/traefik-routes.toml", routes.display().to_string())];
    let own = format!("\"{}\"", setup.address);
    let file = setup.file("traefik.toml", ("\":443\"", &own), &more)?;
    let mut command = Command::new("traefik");
    command.arg("--configFile").arg(file);
    Ok(command)
}

/// Three nodes behind the proxy; none if the machine doesn't have it.
fn behind(
    program: &'static str,
    opaque: bool,
    start: impl FnOnce(&Setup) -> Result<Command, String>,
) -> Result<Option<Behind>, String> {
    if programs::find(program).is_none() {
        skip(&format!("there is no {program} here"));
        return Ok(None);
    }
    let authority = Authority::new()?;
    authority.issue()?;
    let log = "[log]\nlevel = \"info,roomcast::server::admission=debug\"\n";
    let config = match opaque {
        false => format!("[http_server]\ntrusted_proxies = [\"127.0.0.1\"]\n{CONFIG}{log}"),
        true => authority.config("trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = true") + log,
    };
    // Opaque proxies are for nodes that take no calls from here without a header.
    let mut cluster = Cluster::start_with(if opaque { 0 } else { 3 }, &config)?;
    while opaque && cluster.running().len() < 3 {
        cluster.add()?;
    }
    let folder = paths::scratch(".proxy");
    fs::create_dir_all(&folder).map_err(text)?;
    let address = free_address()?;
    let nodes = [0, 1, 2].map(|node| cluster.node(node).http);
    let setup = Setup { address, folder: &folder, nodes, authority: &authority };
    let command = start(&setup)?;
    let proxy = Running::start(command, folder.clone())?;
    let mut clients = Clients::default();
    clients.authority = Some(authority.own.clone());
    let behind = Behind { clients, proxy, address, cluster, authority, opaque };
    until(REACTION, || {
        let answer = behind.curl().post("/api/info", &[KEY], "{}")?;
        ensure(answer.status == 200, || format!("{answer:?}"))
    })
    .map_err(|why| format!("{program} does not serve: {why}\n{}", behind.logs()))?;
    Ok(Some(behind))
}

const KEY: (&str, &str) = ("X-API-Key", API_KEY);

impl Behind {
    fn curl(&self) -> Curl {
        Curl::to(&format!("https://{}", self.address), &self.authority.own)
    }

    /// The versions of HTTP that the proxy takes.
    fn versions(&self) -> &'static [&'static str] {
        if self.opaque { &["--http1.1"] } else { &["--http1.1", "--http2"] }
    }

    fn logs(&self) -> String {
        format!("{}\n{}", self.proxy.log(), self.cluster.logs())
    }

    fn publish(&self, data: Value) -> Result<(), String> {
        let body = json!({"channel": "lobby", "data": data}).to_string();
        let answer = self.curl().post("/api/publish", &[KEY], &body)?;
        ensure(answer.status == 200 && answer.body.contains("result"), || format!("{answer:?}"))
    }

    /// All that is to be checked.
    fn check(mut self) -> Result<(), String> {
        let all = [
            ("the node sees the client's address", Self::address_is_seen as fn(&mut Self) -> _),
            ("refusals reach the client", Self::refusals_arrive),
            ("nothing else is served", Self::rest_is_hidden),
            ("streams are not held back", Self::streams_flow),
            ("whoever goes is gone", Self::leavers_are_noticed),
            ("SDKs work over every transport", Self::sdks_work),
            ("a node that drains is left out", Self::drained_node_is_left_out),
            ("a node that is killed is left out", Self::killed_node_is_left_out),
        ];
        for (what, check) in all {
            check(&mut self).map_err(|why| format!("{what}: {why}\n{}", self.logs()))?;
        }
        Ok(())
    }

    fn address_is_seen(&mut self) -> Result<(), String> {
        // What the client says of itself does not count.
        let claims = [
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Real-IP", "6.6.6.6"),
            ("Forwarded", "for=6.6.6.6"),
        ];
        for version in self.versions() {
            self.stream(version, &claims)?.line(REACTION)?;
        }
        // The node's log comes through a pipe.
        until(REACTION, || {
            let log = self.cluster.logs();
            let seen = log.lines().filter(|it| it.contains("a client connects"));
            let seen: Vec<&str> = seen.collect();
            let right = seen.iter().filter(|it| it.contains(&format!("\"address\":\"{CLIENT}\"")));
            let right = right.count();
            ensure(right == seen.len() && right == self.versions().len(), || format!("{seen:?}"))
        })
    }

    /// A stream of a client that is connected and in `lobby`.
    fn stream(&self, version: &'static str, headers: &[(&str, &str)]) -> Result<Streaming, String> {
        let body = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"lobby\"}}";
        self.curl().version(version).from(CLIENT).stream("/connection/http_stream", headers, body)
    }

    fn refusals_arrive(&mut self) -> Result<(), String> {
        let large = "x".repeat(2_000_000);
        for version in self.versions() {
            for (path, body, status, word) in [
                ("/api/publish", "{}", 401, "X-API-Key"),
                ("/api/publish", &*large, 401, "X-API-Key"),
                ("/emulation", &*large, 413, "65536 bytes"),
            ] {
                for _ in 0..5 {
                    let answer = self.curl().version(version).post(path, &[], body)?;
                    let told = answer.status == status && answer.body.contains(word);
                    ensure(told, || {
                        format!("{path}, {} bytes, {version}: {answer:?}", body.len())
                    })?;
                }
            }
        }
        // Above what the server API takes at all.
        let largest = "x".repeat(17 << 20);
        let answer = self.curl().post("/api/publish", &[KEY], &largest)?;
        ensure(answer.status == 413 && answer.body.contains("bytes"), || format!("{answer:?}"))
    }

    fn rest_is_hidden(&mut self) -> Result<(), String> {
        for path in ["/metrics", "/health", "/"] {
            let answer = self.curl().get(path)?;
            ensure(self.opaque || answer.status == 404, || format!("{path}: {answer:?}"))?;
        }
        Ok(())
    }

    /// However soon the node answers: proxies in Go break off what is answered before they know that it was asked.
    fn streams_flow(&mut self) -> Result<(), String> {
        for version in self.versions() {
            let all = (0..STREAMS).map(|_| self.stream(version, &[]));
            let mut all = all.collect::<Result<Vec<_>, _>>()?;
            for stream in &mut all {
                let begun = stream.line_with("\"subscribe\"", REACTION);
                begun.map_err(|why| format!("{version}: {why}"))?;
            }
            for number in 0..3 {
                let word = format!("{version}-{number}");
                self.publish(json!(word))?;
                for stream in &mut all {
                    let got = stream.line_with(&word, AT_ONCE);
                    got.map_err(|why| format!("{version}: {why}"))?;
                }
            }
        }
        Ok(())
    }

    /// At once through most proxies. HAProxy misses one of some hundred, which has gone once the node pings it.
    fn leavers_are_noticed(&mut self) -> Result<(), String> {
        let mut all = Vec::new();
        for version in self.versions() {
            for _ in 0..STREAMS {
                all.push(self.stream(version, &[])?);
            }
        }
        for stream in &mut all {
            stream.line_with("\"subscribe\"", REACTION)?;
        }
        drop(all);
        // Nodes behind a proxy that passes TLS on take no calls from here; their connections end with the client's.
        let nodes = if self.opaque { 0..0 } else { 0..3 };
        for (most, soon) in [(STREAMS as f64 / 4.0, SECONDS), (0.0, GONE)] {
            until(soon, || {
                let connected =
                    nodes.clone().map(|it| self.cluster.metric(it, "roomcast_connections"));
                let connected: f64 = connected.sum::<Result<f64, String>>()?;
                ensure(connected <= most, || format!("{connected} are connected"))
            })?;
        }
        Ok(())
    }

    fn sdks_work(&mut self) -> Result<(), String> {
        let url = format!("wss://{}/connection/websocket", self.address);
        let clients = &mut self.clients;
        clients.connect("ws", (Js, Json), &url).map_err(text)?;
        clients.connect_over("sse", "sse", Json, &url, &[self.address]).map_err(text)?;
        let names = ["ws", "sse", "lines"];
        let lines = clients.connect_over("lines", "http_stream", Json, &url, &[self.address]);
        lines.map_err(text)?;
        for name in &names {
            clients.subscribe(name, "hall").map_err(text)?;
        }
        for (sent, from) in names.iter().enumerate() {
            clients.publish(from, "hall", json!({"from": from})).map_err(text)?;
            for to in &names {
                clients.until(to, AT_ONCE, |events| {
                    let got = events.iter().filter(|it| it["ev"] == "pub").count();
                    ensure(got == sent + 1, || format!("{to} has {got} after {from}"))
                })?;
            }
        }
        Ok(())
    }

    /// Everyone gets in, and everything that is published goes through, for a while.
    fn all_is_well(&self) -> Result<(), String> {
        for _ in 0..6 {
            self.publish(json!("well"))?;
            let mut stream = self.stream(self.versions()[0], &[])?;
            stream.line_with("\"subscribe\"", REACTION)?;
        }
        Ok(())
    }

    fn drained_node_is_left_out(&mut self) -> Result<(), String> {
        self.cluster.node(1).terminate();
        until(SECONDS, || self.all_is_well())?;
        let status = self.cluster.node_mut(1).exit_status(Duration::from_secs(40))?;
        ensure(status.success(), || format!("it ended with {status}"))?;
        until(SECONDS, || self.all_is_well())
    }

    fn killed_node_is_left_out(&mut self) -> Result<(), String> {
        self.cluster.node_mut(0).kill();
        // What was at home there is claimed by who is left.
        until(SECONDS, || self.all_is_well())
    }
}

fn run(
    program: &'static str,
    opaque: bool,
    start: impl FnOnce(&Setup) -> Result<Command, String>,
) -> Result<(), String> {
    behind(program, opaque, start)?.map_or(Ok(()), Behind::check)
}

#[test]
fn nginx_serves_as_documented() -> Result<(), String> {
    run("nginx", false, nginx)
}

#[test]
fn haproxy_serves_as_documented() -> Result<(), String> {
    run("haproxy", false, haproxy)
}

#[test]
fn haproxy_passes_tls_on_with_the_proxy_protocol_as_documented() -> Result<(), String> {
    run("haproxy", true, |setup| haproxy_tcp(setup, "send-proxy-v2"))
}

#[test]
fn haproxy_passes_tls_on_with_version_1_of_the_proxy_protocol() -> Result<(), String> {
    run("haproxy", true, |setup| haproxy_tcp(setup, "send-proxy"))
}

#[test]
fn caddy_serves_as_documented() -> Result<(), String> {
    run("caddy", false, caddy)
}

#[test]
fn traefik_serves_as_documented() -> Result<(), String> {
    run("traefik", false, traefik)
}
