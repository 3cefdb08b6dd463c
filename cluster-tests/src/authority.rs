//! An authority of our own, for tests with TLS: certificates in files, nodes that show them, and a client that looks.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};

use crate::cluster::CONFIG;
use crate::node::{Node, NodeArgs};
use crate::paths;

/// An authority, and the files of who has a certificate of it.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The authority's certificate.
    pub own: PathBuf,
    /// The last certificate that was issued.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

impl Authority {
    /// A new one, which has issued nothing.
    pub fn new() -> Result<Self, String> {
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
    pub fn issue(&self) -> Result<CertificateDer<'static>, String> {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).map_err(text)?;
        // Not that of its authority, or OpenSSL takes it for its own.
        params.distinguished_name.push(rcgen::DnType::CommonName, "node");
        let key = KeyPair::generate().map_err(text)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(text)?;
        fs::write(&self.chain, certificate.pem()).map_err(text)?;
        fs::write(&self.key, key.serialize_pem()).map_err(text)?;
        Ok(certificate.der().clone())
    }

    /// [`CONFIG`] of nodes with TLS, and these options of `http_server`.
    pub fn config(&self, options: &str) -> String {
        let (chain, key) = (self.chain.display(), self.key.display());
        format!(
            "[http_server]\n{options}\n[http_server.tls]\nenabled = true\ncert_pem = \"{chain}\"\n\
             key_pem = \"{key}\"\n{CONFIG}"
        )
    }

    /// A node with TLS.
    pub fn start(&self) -> Result<Node, String> {
        let file = paths::scratch(".toml");
        fs::write(&file, self.config("")).map_err(text)?;
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

    /// The certificate that is shown at `server`, and the answer to a request.
    pub fn look(&self, server: SocketAddr) -> Result<(CertificateDer<'static>, String), String> {
        let request = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        self.exchange(server, b"", request)
    }

    /// The same with another request, and after other bytes that go before TLS.
    pub fn exchange(
        &self,
        server: SocketAddr,
        before: &[u8],
        request: &str,
    ) -> Result<(CertificateDer<'static>, String), String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).map_err(text)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(text)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::from(server.ip());
        let mut tls = rustls::ClientConnection::new(Arc::new(config), name).map_err(text)?;
        let mut tcp = TcpStream::connect(server).map_err(text)?;
        tcp.set_read_timeout(Some(Duration::from_secs(5))).map_err(text)?;
        tcp.write_all(before).map_err(text)?;
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
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
