//! TLS before the real slurmrestd, which speaks none: as a proxy in front of it would in production.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::http::free_port;

/// What the proxy shows, and whom it lets in: all in PEM.
#[derive(Debug)]
pub struct Seal {
    /// Its certificate.
    pub certificate: String,
    /// The key of that.
    pub key: String,
    /// Who must have signed the certificates of clients.
    pub client_ca: String,
}

/// The proxy.
#[derive(Debug)]
pub struct Secured {
    /// Its port on loopback.
    pub port: u16,
    acceptor: watch::Sender<Arc<ServerConfig>>,
    let_in: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Secured {
    /// A proxy before `url`.
    pub fn before(url: &str, seal: &Seal) -> Self {
        let target = url.trim_start_matches("http://").trim_end_matches('/');
        let target: SocketAddr = target.parse().expect("slurmrestd's address has a number");
        let port = free_port();
        let acceptor = watch::Sender::new(config(seal));
        let let_in = Arc::new(AtomicUsize::new(0));
        let serving = tokio::spawn(serve(port, target, acceptor.subscribe(), let_in.clone()));
        Self { port, acceptor, let_in, serving }
    }

    /// Where a client should go.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// Shows another certificate and lets others in; what is connected is cut.
    pub fn turn(&self, seal: &Seal) {
        self.acceptor.send_replace(config(seal));
    }

    /// How many connections were let in so far.
    pub fn let_in(&self) -> usize {
        self.let_in.load(Ordering::Relaxed)
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn config(seal: &Seal) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).expect("a certificate");
    roots.add(pem(&seal.client_ca)).expect("a CA");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let key = PrivateKeyDer::from_pem_slice(seal.key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_client_cert_verifier(verifier.expect("a CA"))
        .with_single_cert(vec![pem(&seal.certificate)], key);
    Arc::new(config.expect("the key is the certificate's"))
}

async fn serve(
    port: u16,
    target: SocketAddr,
    acceptors: watch::Receiver<Arc<ServerConfig>>,
    let_in: Arc<AtomicUsize>,
) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
    while let Ok((stream, _)) = listener.accept().await {
        let (mut acceptors, let_in) = (acceptors.clone(), let_in.clone());
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(acceptors.borrow_and_update().clone());
            let passed = async {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let_in.fetch_add(1, Ordering::Relaxed);
                if let Ok(mut server) = TcpStream::connect(target).await {
                    // Either side may hang up at any time.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            };
            tokio::select! {
                () = passed => {}
                _ = acceptors.changed() => {}
            }
        });
    }
}

/// TLS that believes nobody: for clients that never speak it.
pub(crate) fn nobody() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}
