//! SHELL. The certificate of a port: read at the start, and again whenever its files change, since
//! certificates are renewed while nodes run.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context as _;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use tokio::sync::Notify;

use crate::config::raw;

/// How often the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The certificate in use; clients that are connected keep the one that they were shown.
#[derive(Debug)]
pub struct Certificate {
    /// What the options are called that name it.
    section: &'static str,
    options: RwLock<raw::Tls>,
    /// The files are to be looked at now.
    asked: Notify,
    provider: CryptoProvider,
    current: RwLock<Arc<CertifiedKey>>,
}

/// What the options lead to: a certificate chain and its key in PEM.
#[derive(PartialEq, Eq)]
struct Pair {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Reads the certificate that the options of this section name.
    ///
    /// # Errors
    /// If it can't be read, or is none.
    pub fn read(section: &'static str, options: &raw::Tls) -> anyhow::Result<Arc<Self>> {
        let provider = ring::default_provider();
        let current = pair(options).and_then(|it| load(&it, &provider)).context(section)?;
        let current = RwLock::new(Arc::new(current));
        let (options, asked) = (RwLock::new(options.clone()), Notify::new());
        Ok(Arc::new(Self { section, options, asked, provider, current }))
    }

    /// The settings of connections that speak this protocol.
    ///
    /// # Errors
    /// If there are no protocol versions in common with the library.
    pub fn config(self: &Arc<Self>, protocol: &[u8]) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(self.provider.clone()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }

    /// Looks at once whether there is a new certificate, and from now on where these options say.
    pub fn look(&self, options: &raw::Tls) {
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = options.clone();
        self.asked.notify_one();
    }

    fn options(&self) -> raw::Tls {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes each new certificate into use. One that is broken is reported, and the old one stays.
    pub async fn watch(self: Arc<Self>) {
        let mut known = pair(&self.options()).ok();
        loop {
            let asked = tokio::select! {
                () = self.asked.notified() => true,
                () = tokio::time::sleep(LOOK_AGAIN) => false,
            };
            let now = match pair(&self.options()) {
                Ok(now) => now,
                Err(error) => {
                    // The files may be half way through their replacement, unless someone says that they are there.
                    if asked {
                        let error = format!("{error:#}");
                        tracing::error!(
                            error,
                            section = self.section,
                            "there is no new TLS certificate; the old one stays"
                        );
                    }
                    continue;
                }
            };
            if known.as_ref() == Some(&now) {
                continue;
            }
            match load(&now, &self.provider) {
                Ok(key) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                    tracing::info!(section = self.section, "a new TLS certificate is in use");
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(
                        error,
                        section = self.section,
                        "the new TLS certificate is of no use; the old one stays"
                    );
                }
            }
            known = Some(now);
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn pair(options: &raw::Tls) -> anyhow::Result<Pair> {
    let chain = pem(&options.cert_pem).context("cert_pem")?;
    let key = pem(&options.key_pem).context("key_pem")?;
    Ok(Pair { chain, key })
}

/// The option's value is PEM itself, or names a file of it.
fn pem(option: &str) -> anyhow::Result<Vec<u8>> {
    if option.trim_start().starts_with("-----BEGIN") {
        return Ok(option.as_bytes().to_vec());
    }
    std::fs::read(Path::new(option)).with_context(|| format!("{option:?} can't be read"))
}

fn load(pair: &Pair, provider: &CryptoProvider) -> anyhow::Result<CertifiedKey> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pair.chain).collect();
    let chain = chain.context("the certificate is not PEM")?;
    anyhow::ensure!(!chain.is_empty(), "there is no certificate in cert_pem");
    let key = PrivateKeyDer::from_pem_slice(&pair.key).context("the key is not PEM")?;
    let key = CertifiedKey::from_der(chain, key, provider)
        .context("the key is not one that can be used, or not that of the certificate")?;
    Ok(key)
}
