//! The section `tls`: certificates of a server, and who is let in.

use std::path::PathBuf;

use tokio_rustls::rustls::pki_types::ServerName;

use super::section::{Problems, Section};

/// Certificates of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Where given, clients must show a certificate of this CA. Doors always have one.
    pub(crate) client_ca: Option<PathBuf>,
    /// Names of which a client must have one; none listed means whoever the CA vouches for.
    pub(crate) clients: Vec<ServerName<'static>>,
}

pub(super) fn read_tls(mut tls: Section<'_>, problems: &Problems) -> Option<Tls> {
    let [certificate, key, client_ca] =
        ["certificate", "key", "clientCA"].map(|k| tls.text(k).map(PathBuf::from));
    let listed = tls.texts("clients");
    let at = tls.at("clients");
    tls.finish();
    let name = |name: String| {
        let parsed = ServerName::try_from(name.clone());
        parsed.map_err(|_| problems.add(&at, &format!("{name} is no DNS name and no address"))).ok()
    };
    let any = !listed.is_empty();
    let clients: Vec<_> = listed.into_iter().filter_map(name).collect();
    match (certificate, key, client_ca) {
        (None, None, None) if !any => None,
        (Some(certificate), Some(key), Some(client_ca)) => {
            Some(Tls { certificate, key, client_ca: Some(client_ca), clients })
        }
        _ => {
            problems.add("tls", "needs certificate, key and clientCA together");
            None
        }
    }
}
