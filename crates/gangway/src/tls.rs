//! TLS of our servers. Where a CA is given, clients must show a certificate of it and, where names are listed, one of these
//! names.
//!
//! Handshakes run beside each other and for a bounded time, so that nobody who connects and says
//! nothing keeps the others out. Files that were rotated count from the next connection on; what
//! cannot be read never replaces what works.

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
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;

use crate::config::Tls;

/// How long a handshake may take, and how many may be under way.
const HANDSHAKE: Duration = Duration::from_secs(5);
const HANDSHAKES: usize = 64;
/// The files are looked at no more often than this.
const LOOK: Duration = Duration::from_secs(1);

/// What is spoken over TLS, as ALPN names it.
pub(crate) const HTTP_1: &[u8] = b"http/1.1";
/// For gRPC.
pub(crate) const HTTP_2: &[u8] = b"h2";

type Shaken = Option<(TlsStream<TcpStream>, SocketAddr)>;

/// Accepts connections whose handshake is done.
pub(crate) struct TlsListener {
    tcp: TcpListener,
    keys: Keys,
    shaking: FuturesUnordered<BoxFuture<'static, Shaken>>,
}

impl TlsListener {
    pub(crate) fn new(tcp: TcpListener, tls: Tls, speaks: &'static [u8]) -> anyhow::Result<Self> {
        let keys = Keys::read(tls, speaks).context("certificates of tls")?;
        Ok(Self { tcp, keys, shaking: FuturesUnordered::new() })
    }

    /// The same as a stream.
    pub(crate) fn stream(self) -> impl futures::Stream<Item = io::Result<TlsStream<TcpStream>>> {
        futures::stream::unfold(self, |mut listener| async move {
            let (connection, _) = listener.accept().await;
            Some((Ok(connection), listener))
        })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                // axum's own listener waits out the errors of accept.
                (stream, address) = Listener::accept(&mut self.tcp), if self.shaking.len() < HANDSHAKES => {
                    let handshake = self.keys.acceptor().accept(stream);
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

/// The certificates in use.
struct Keys {
    tls: Tls,
    speaks: &'static [u8],
    files: Files,
    acceptor: TlsAcceptor,
    looked: Instant,
}

/// TLS that believes nobody: for clients that never speak it.
pub(crate) fn nobody() -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Certificate, key and CA as they were read.
#[derive(PartialEq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Keys {
    fn read(tls: Tls, speaks: &'static [u8]) -> anyhow::Result<Self> {
        let files = Files::read(&tls)?;
        let acceptor = acceptor(&files, &tls.clients, speaks)?;
        Ok(Self { tls, speaks, files, acceptor, looked: Instant::now() })
    }

    fn acceptor(&mut self) -> &TlsAcceptor {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            if let Err(error) = self.look() {
                let error = crate::chain::explain(error.as_ref());
                tracing::warn!(error, "new certificates cannot be used; the old ones are kept");
            }
        }
        &self.acceptor
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let files = Files::read(&self.tls)?;
        if files != self.files {
            self.acceptor = acceptor(&files, &self.tls.clients, self.speaks)?;
            self.files = files;
            tracing::info!("certificates were rotated");
        }
        Ok(())
    }
}

impl Files {
    fn read(tls: &Tls) -> anyhow::Result<Self> {
        let read = |path: &Path| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let client_ca = tls.client_ca.as_deref().map(read).transpose()?;
        Ok(Self { certificate: read(&tls.certificate)?, key: read(&tls.key)?, client_ca })
    }
}

fn acceptor(
    files: &Files,
    names: &[ServerName<'static>],
    speaks: &[u8],
) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let roots = Arc::new(roots(ca).context("clientCA")?);
            let chain = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let guests = Guests { chain: chain.build()?, names: names.to_vec() };
            builder.with_client_cert_verifier(Arc::new(guests))
        }
    };
    let key = PrivateKeyDer::from_pem_slice(&files.key).context("key")?;
    let chain = certificates(&files.certificate).context("certificate")?;
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![speaks.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Who a certificate is of: its first DNS name, else its subject.
pub(crate) fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let dns =
        names.into_iter().flat_map(|names| &names.value.general_names).find_map(
            |name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            },
        );
    dns.or_else(|| Some(certificate.subject().to_string()))
}

/// TLS of a client that believes this CA (PEM) and shows nothing.
pub(crate) fn believing(ca: &[u8]) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots(ca).context("ca")?).with_no_client_auth())
}

/// TLS of a client that believes this CA and shows this certificate, all in PEM.
pub(crate) fn client(
    ca: &[u8],
    certificate: &[u8],
    key: &[u8],
    speaks: &[u8],
) -> anyhow::Result<ClientConfig> {
    let key = PrivateKeyDer::from_pem_slice(key).context("key")?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca).context("ca")?)
        .with_client_auth_cert(certificates(certificate).context("certificate")?, key)?;
    config.alpn_protocols = vec![speaks.to_vec()];
    Ok(config)
}

fn roots(pem: &[u8]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for ca in certificates(pem)? {
        roots.add(ca)?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(!all.is_empty(), "the file holds no certificate");
    Ok(all)
}

/// Who is let in: whoever the chain vouches for and, where names are listed, has one of them.
#[derive(Debug)]
struct Guests {
    chain: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ClientCertVerifier for Guests {
    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(own, between, now)?;
        let parsed = ParsedCertificate::try_from(own)?;
        let is_guest = |name| verify_server_name(&parsed, name).is_ok();
        if self.names.is_empty() || self.names.iter().any(is_guest) {
            return Ok(verified);
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
