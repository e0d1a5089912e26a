//! TLS towards kube-scheduler: with certificates given, clients must show one of the same CA.
//!
//! Handshakes run beside each other and for a bounded time, so that nobody who connects and says
//! nothing keeps kube-scheduler out.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::serve::Listener;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::config::Tls;

/// How long a handshake may take, and how many may be under way.
const HANDSHAKE: Duration = Duration::from_secs(5);
const HANDSHAKES: usize = 64;

type Shaken = Option<(TlsStream<TcpStream>, SocketAddr)>;

/// Accepts connections whose handshake is done.
pub(crate) struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    shaking: FuturesUnordered<BoxFuture<'static, Shaken>>,
}

impl TlsListener {
    pub(super) fn new(tcp: TcpListener, tls: &Tls) -> anyhow::Result<Self> {
        Ok(Self::accepting(tcp, Arc::new(config(tls).context("certificates of tls")?)))
    }

    /// The same for a server that knows its certificates.
    pub(crate) fn accepting(tcp: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self { tcp, acceptor: TlsAcceptor::from(config), shaking: FuturesUnordered::new() }
    }
}

fn config(tls: &Tls) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in certificates(&tls.client_ca)? {
        roots.add(ca).with_context(|| format!("{}", tls.client_ca.display()))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .with_context(|| format!("cannot read {}", tls.key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&tls.certificate)?, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let all = read().with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(!all.is_empty(), "{} holds no certificate", path.display());
    Ok(all)
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                // axum's own listener waits out the errors of accept.
                (stream, address) = Listener::accept(&mut self.tcp), if self.shaking.len() < HANDSHAKES => {
                    let handshake = self.acceptor.accept(stream);
                    self.shaking.push(Box::pin(async move {
                        match timeout(HANDSHAKE, handshake).await {
                            Ok(Ok(stream)) => Some((stream, address)),
                            Ok(Err(error)) => {
                                tracing::debug!(%address, %error, "handshake");
                                None
                            }
                            Err(_) => None,
                        }
                    }));
                }
                Some(shaken) = self.shaking.next(), if !self.shaking.is_empty() => {
                    if let Some(shaken) = shaken {
                        return shaken;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        TcpListener::local_addr(&self.tcp)
    }
}
