//! The certificate that is shown, read again when its files change: nobody restarts for a new one.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::config::ServerTls;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What is shown to whoever connects next.
#[derive(Debug)]
pub(super) struct Shown(RwLock<(Vec<u8>, Arc<CertifiedKey>)>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).1.clone())
    }
}

/// A server that shows it.
pub(super) fn server(tls: &ServerTls) -> anyhow::Result<(Arc<ServerConfig>, Arc<Shown>)> {
    let provider = Arc::new(ring::default_provider());
    let shown = Arc::new(Shown(RwLock::new(read(tls, &provider)?)));
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for ca in certificates(&std::fs::read(path).with_context(|| cannot_read(path))?)? {
                roots.add(ca).with_context(|| format!("{}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let mut config = builder.with_cert_resolver(shown.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), shown))
}

/// Looks at the files until `stop`. One that cannot be used changes nothing: it may be half written.
pub(super) async fn follow(
    shown: Arc<Shown>,
    tls: ServerTls,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let provider = Arc::new(ring::default_provider());
    let mut every = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = every.tick() => {}
        }
        match read(&tls, &provider) {
            Ok(new) => {
                let mut shown = shown.0.write().unwrap_or_else(PoisonError::into_inner);
                if shown.0 != new.0 {
                    *shown = new;
                    tracing::info!("a new certificate is shown");
                }
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "cannot use the certificate");
            }
        }
    }
}

/// The certificate as it was read, and with its key.
fn read(
    tls: &ServerTls,
    provider: &Arc<CryptoProvider>,
) -> anyhow::Result<(Vec<u8>, Arc<CertifiedKey>)> {
    let text = std::fs::read(&tls.certificate).with_context(|| cannot_read(&tls.certificate))?;
    let chain = certificates(&text).with_context(|| format!("{}", tls.certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).with_context(|| cannot_read(&tls.key))?;
    let key =
        CertifiedKey::from_der(chain, key, provider).context("tls.certificate and tls.key")?;
    Ok((text, Arc::new(key)))
}

fn certificates(text: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(!all.is_empty(), "there is no certificate in it");
    Ok(all)
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}
