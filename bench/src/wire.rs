//! What a connection's bytes go over: TCP, or TLS over it.
//!
//! In: bytes to send, and that the socket is ready. Out: bytes that came. Nothing here waits: what can't be done now
//! is `WouldBlock`.

use anyhow::{Context, Result};
use mio::net::TcpStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

/// How connections are secured, and who is expected there.
#[derive(Clone, Debug)]
pub struct Security {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Security {
    /// For the server at `host`. `insecure` takes any certificate; otherwise the system's authorities have to
    /// vouch for it.
    pub fn new(host: &str, insecure: bool) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .context("TLS")?;
        let config = if insecure {
            let verifier = Arc::new(TakesAnyone(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            builder.with_root_certificates(roots).with_no_client_auth()
        };
        // In URLs addresses of IPv6 are in brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name =
            ServerName::try_from(host.clone()).with_context(|| format!("TLS to {host:?}"))?;
        Ok(Self { config: Arc::new(config), name })
    }
}

/// A connection that is dialed, or being dialed.
#[derive(Debug)]
pub enum Wire {
    /// Bare.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<Secured>),
}

/// TLS, and what it goes over.
#[derive(Debug)]
pub struct Secured {
    tcp: TcpStream,
    tls: ClientConnection,
}

impl Wire {
    /// Bytes over `tcp`, secured if they are to be.
    pub fn new(tcp: TcpStream, security: Option<&Security>) -> Result<Self> {
        let Some(Security { config, name }) = security else { return Ok(Self::Plain(tcp)) };
        let mut tls = ClientConnection::new(config.clone(), name.clone()).context("TLS")?;
        // What is written is taken whole, and sent as there is room.
        tls.set_buffer_limit(None);
        Ok(Self::Tls(Box::new(Secured { tcp, tls })))
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(secured) => &secured.tcp,
        }
    }

    /// Whether a read of less than there was room for has emptied the socket. TLS gives a record at a time.
    pub fn short_read_empties(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Sends what TLS holds, as far as there is room.
    pub fn push(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(secured) => secured.push(),
        }
    }
}

impl Secured {
    fn push(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.tcp) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                other => other?,
            };
        }
        Ok(())
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let secured = match self {
            Self::Plain(tcp) => return tcp.read(buffer),
            Self::Tls(secured) => &mut **secured,
        };
        loop {
            match secured.tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Ended without a word of TLS.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            let read = secured.tls.read_tls(&mut secured.tcp)?;
            secured.tls.process_new_packets().map_err(io::Error::other)?;
            // The handshake goes on.
            secured.push()?;
            if read == 0 && secured.tls.is_handshaking() {
                return Ok(0);
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(secured) => {
                let taken = secured.tls.writer().write(bytes)?;
                secured.push()?;
                Ok(taken)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push()
    }
}

/// Takes any certificate, as long as the server has its key.
#[derive(Debug)]
struct TakesAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
