//! TLS: what connections are offered, exchanged while they go on.
//!
//! Invariant: a reload that fails changes nothing. Client certificates are optional; one that is shown is verified.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::pki::Pki;
use crate::settings::Settings;

/// What new connections are offered.
#[derive(Clone)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

impl Tls {
    /// Starts with this.
    pub fn new(config: ServerConfig) -> Tls {
        Tls(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// From now on, this.
    pub fn replace(&self, config: ServerConfig) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// What a connection that comes now is offered.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What `settings` and `pki` ask for.
pub fn config(settings: &Settings, pki: &Pki) -> anyhow::Result<ServerConfig> {
    let (chain, key) = match (&settings.tls_cert, &settings.tls_key) {
        (Some(certificate), Some(key)) => (read(certificate)?, read(key)?),
        (None, None) => (pki.server.certificate.clone().into_bytes(), pki.server.key.clone().into_bytes()),
        _ => bail!("--tls-cert and --tls-key belong together: give both, or none to let Stint make its own"),
    };
    let mut authorities = certificates(pki.ca.as_bytes(), Path::new("pki/ca.crt"))?;
    if let Some(path) = &settings.client_ca {
        authorities.extend(certificates(&read(path)?, path)?);
    }
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).context("a certificate of a client authority can't be used")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .context("can't verify client certificates")?;
    let own = PathBuf::from("pki/server");
    let name = settings.tls_cert.as_ref().unwrap_or(&own);
    let key = PrivateKeyDer::from_pem_slice(&key).with_context(|| format!("the key of {} is none", name.display()))?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder
        .context("can't offer TLS")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&chain, name)?, key)
        .with_context(|| format!("can't serve with the certificate {}", name.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

fn certificates(pem: &[u8], name: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.with_context(|| format!("{} is not PEM", name.display()))?;
    if found.is_empty() {
        bail!("{} holds no certificate", name.display());
    }
    Ok(found)
}
