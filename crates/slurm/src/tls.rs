//! Certificates for `https`, and noticing that they were rotated.
//!
//! It must never trust anybody but the given CA, and never give up what works for what cannot be read: a half-written
//! file is looked at again with the next new connection.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::Error;
use crate::mark::Mark;

/// Certificates for a slurmrestd behind `https`. Each file is read again when it changes.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Who may have signed slurmrestd's certificate (PEM); nobody else is believed.
    pub ca: PathBuf,
    /// What we show of ourselves, where that is asked for.
    pub client: Option<ClientCertificate>,
}

/// Our own certificate.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The certificate and those between it and the CA (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

/// The certificates in use.
pub(crate) struct Certificates {
    files: Tls,
    held: Mutex<Option<Held>>,
}

struct Held {
    marks: Vec<Mark>,
    config: Arc<ClientConfig>,
    /// How many there were before: connections of an earlier one are not used again.
    turn: u64,
}

/// A configuration of rustls, and which one it is.
pub(crate) struct Current {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) turn: u64,
}

impl Certificates {
    pub(crate) fn new(files: Tls) -> Self {
        Self { files, held: Mutex::new(None) }
    }

    /// The certificates as of now; the files are read only where one of them changed.
    pub(crate) fn current(&self) -> Result<Current, Error> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Before reading: what is written meanwhile is seen next time.
        let marks = self.marks();
        let turn = match (held.as_ref(), &marks) {
            (Some(held), Ok(marks)) if held.marks == *marks => return Ok(held.current()),
            (Some(held), _) => held.turn + 1,
            (None, _) => 0,
        };
        match (marks.and_then(|marks| Ok((marks, self.read()?))), held.as_ref()) {
            (Ok((marks, config)), _) => {
                let fresh = Held { marks, config: Arc::new(config), turn };
                let current = fresh.current();
                *held = Some(fresh);
                Ok(current)
            }
            (Err(error), Some(held)) => {
                tracing::warn!(%error, "new certificates for slurmrestd cannot be used; the old ones are kept");
                Ok(held.current())
            }
            (Err(error), None) => Err(error),
        }
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let client = self.files.client.iter().flat_map(|own| [&own.certificate, &own.key]);
        std::iter::once(&self.files.ca).chain(client).map(PathBuf::as_path)
    }

    fn marks(&self) -> Result<Vec<Mark>, Error> {
        self.paths().map(|path| Mark::of(path).map_err(|source| unreadable(path, source))).collect()
    }

    fn read(&self) -> Result<ClientConfig, Error> {
        let mut roots = RootCertStore::empty();
        for ca in certificates(&self.files.ca)? {
            roots.add(ca).map_err(|source| unreadable(&self.files.ca, io::Error::other(source)))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|source| unreadable(&self.files.ca, io::Error::other(source)))?
            .with_root_certificates(roots);
        let Some(own) = &self.files.client else { return Ok(builder.with_no_client_auth()) };
        let key = PrivateKeyDer::from_pem_file(&own.key)
            .map_err(|source| unreadable(&own.key, io::Error::other(source)))?;
        // Refuses a key that is not the certificate's: then one file has come before the other.
        builder
            .with_client_auth_cert(certificates(&own.certificate)?, key)
            .map_err(|source| unreadable(&own.key, io::Error::other(source)))
    }
}

impl Held {
    fn current(&self) -> Current {
        Current { config: self.config.clone(), turn: self.turn }
    }
}

/// TLS that believes nobody: for clients that never speak it.
pub(crate) fn nobody() -> Result<&'static ClientConfig, Error> {
    static NOBODY: LazyLock<Result<ClientConfig, tokio_rustls::rustls::Error>> =
        LazyLock::new(|| {
            let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
            let builder = builder.with_safe_default_protocol_versions()?;
            Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
        });
    NOBODY.as_ref().map_err(|source| Error::Config {
        what: "TLS".to_owned(),
        source: Some(Box::new(source.clone())),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let all = read().map_err(|source| unreadable(path, io::Error::other(source)))?;
    if all.is_empty() {
        return Err(unreadable(path, io::Error::other("it holds no certificate")));
    }
    Ok(all)
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Certificate { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn write(path: &Path, text: &str) {
        let next = path.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, path).unwrap();
    }

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        (own.pem(), key.serialize_pem())
    }

    #[test]
    fn rotated_files_are_read_again_and_half_of_a_pair_never_counts() {
        let dir = std::env::temp_dir().join(format!("gangway-slurm-tls-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let [ca, certificate, key] = ["ca", "crt", "key"].map(|name| dir.join(name));
        let (own, secret) = pair();
        write(&ca, &own);
        write(&certificate, &own);
        let client = ClientCertificate { certificate: certificate.clone(), key: key.clone() };
        let certificates = Certificates::new(Tls { ca: ca.clone(), client: Some(client) });
        let missing = certificates.current().map(|_| ()).unwrap_err();
        assert!(matches!(missing, Error::Certificate { path, .. } if path == key));

        write(&key, &secret);
        let turn = || certificates.current().unwrap().turn;
        assert_eq!((turn(), turn()), (0, 0), "nothing has changed");
        let (new, new_secret) = pair();
        write(&certificate, &new);
        assert_eq!(turn(), 0, "a certificate without its key");
        write(&key, &new_secret);
        assert_eq!((turn(), turn()), (1, 1));
        write(&ca, "no certificate");
        assert_eq!(turn(), 1, "what cannot be read replaces nothing");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
