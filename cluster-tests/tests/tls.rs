//! TLS on the clients' port: the official SDK over every transport, and certificates that change.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cluster_tests::check::{self, Log, messages_of};
use cluster_tests::cluster::CONFIG;
use cluster_tests::node::{Node, NodeArgs};
use cluster_tests::paths;
use cluster_tests::sdk::Clients;
use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::wait::{ensure, until};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};

/// An authority of our own, and the files of a node.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The authority's certificate.
    own: PathBuf,
    chain: PathBuf,
    key: PathBuf,
}

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

impl Authority {
    fn new() -> Result<Self, String> {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(text)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(text)?;
        let files = [".ca.pem", ".cert.pem", ".key.pem"].map(paths::scratch);
        let [own, chain, key] = files;
        fs::write(&own, issuer.pem()).map_err(text)?;
        Ok(Self { issuer, own, chain, key })
    }

    /// Puts a new certificate where the node looks for it.
    fn issue(&self) -> Result<CertificateDer<'static>, String> {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(text)?;
        // Not that of its authority, or OpenSSL takes it for its own.
        params.distinguished_name.push(rcgen::DnType::CommonName, "node");
        let key = KeyPair::generate().map_err(text)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(text)?;
        fs::write(&self.chain, certificate.pem()).map_err(text)?;
        fs::write(&self.key, key.serialize_pem()).map_err(text)?;
        Ok(certificate.der().clone())
    }

    fn config(&self) -> String {
        let (chain, key) = (self.chain.display(), self.key.display());
        format!(
            "[http_server.tls]\nenabled = true\ncert_pem = \"{chain}\"\nkey_pem = \"{key}\"\n{CONFIG}"
        )
    }

    fn start(&self) -> Result<Node, String> {
        let file = paths::scratch(".toml");
        fs::write(&file, self.config()).map_err(text)?;
        let args = NodeArgs {
            name: "a".to_owned(),
            config: file.clone(),
            join: Vec::new(),
            host: None,
            gossip_port: 0,
            under: Vec::new(),
        };
        let node = Node::start(paths::server(), &args);
        let _ = fs::remove_file(file);
        node
    }

    /// The certificate that the node shows, and its answer to a request.
    fn look(&self, node: SocketAddr) -> Result<(CertificateDer<'static>, String), String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).map_err(text)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(text)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::from(node.ip());
        let mut tls = rustls::ClientConnection::new(Arc::new(config), name).map_err(text)?;
        let mut tcp = TcpStream::connect(node).map_err(text)?;
        tcp.set_read_timeout(Some(Duration::from_secs(5))).map_err(text)?;
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        let request = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).map_err(text)?;
        let mut answer = Vec::new();
        // The end may come without TLS saying so.
        let _ = stream.read_to_end(&mut answer);
        let shown = tls.peer_certificates().and_then(|it| it.first()).ok_or("no certificate")?;
        Ok((shown.clone().into_owned(), String::from_utf8_lossy(&answer).into_owned()))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        for file in [&self.own, &self.chain, &self.key] {
            let _ = fs::remove_file(file);
        }
    }
}

#[test]
fn the_sdk_works_over_tls_on_every_transport() -> Result<(), String> {
    let authority = Authority::new()?;
    authority.issue()?;
    let node = authority.start()?;
    let url = format!("wss://{}/connection/websocket", node.http);
    let mut clients = Clients::default();
    clients.authority = Some(authority.own.clone());
    let names = ["json", "proto", "sse", "lines"];
    clients.connect("json", (Js, Json), &url).map_err(text)?;
    clients.connect("proto", (Js, Protobuf), &url).map_err(text)?;
    clients.connect_over("sse", "sse", Json, &url, &[node.http]).map_err(text)?;
    clients.connect_over("lines", "http_stream", Protobuf, &url, &[node.http]).map_err(text)?;
    for name in names {
        clients.subscribe(name, "lobby").map_err(text)?;
    }
    // Large enough to fill what TLS and the kernel hold.
    let pad = "x".repeat(40_000);
    for (name, count) in names.map(|name| (name, 10)) {
        for seq in 1..=count {
            let data = serde_json::json!({"from": name, "seq": seq, "pad": pad});
            clients.publish(name, "lobby", data).map_err(text)?;
        }
    }
    for name in names {
        clients.until(name, Duration::from_secs(20), |events| {
            let count = events.iter().filter(|it| it["ev"] == "pub").count();
            ensure(count == 40, || format!("it has {count}"))
        })?;
    }
    let logs: Vec<Log> = names.iter().map(|name| clients.log(name, "lobby")).collect();
    let sent = names.map(|name| (name, 10));
    let sent: Vec<_> = sent.iter().flat_map(|(name, count)| messages_of(name, *count)).collect();
    check::complete(&logs, &sent)
}

#[test]
fn a_new_certificate_is_used_and_a_broken_one_is_not() -> Result<(), String> {
    let authority = Authority::new()?;
    let first = authority.issue()?;
    let node = authority.start()?;
    let (shown, answer) = authority.look(node.http)?;
    ensure(shown == first && answer.starts_with("HTTP/1.1 200"), || answer.clone())?;
    fs::write(&authority.chain, "-----BEGIN CERTIFICATE-----\nnonsense").map_err(text)?;
    until(Duration::from_secs(15), || {
        let log = node.log();
        ensure(log.contains("the old one stays"), || log.clone())
    })?;
    ensure(authority.look(node.http)?.0 == first, || "it shows another".to_owned())?;
    let second = authority.issue()?;
    until(Duration::from_secs(15), || {
        let (shown, _) = authority.look(node.http)?;
        ensure(shown == second, || "it shows the old one".to_owned())
    })
}

#[test]
fn who_speaks_no_tls_gets_nothing() -> Result<(), String> {
    let authority = Authority::new()?;
    authority.issue()?;
    let node = authority.start()?;
    let mut plain = TcpStream::connect(node.http).map_err(text)?;
    plain.set_read_timeout(Some(Duration::from_secs(8))).map_err(text)?;
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").map_err(text)?;
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).map_err(text)?;
    ensure(!answer.starts_with(b"HTTP"), || String::from_utf8_lossy(&answer).into_owned())?;
    let (_, answer) = authority.look(node.http)?;
    ensure(answer.starts_with("HTTP/1.1 200"), || answer.clone())
}
