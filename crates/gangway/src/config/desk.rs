//! The section `desk`: which clients of the door may end jobs from a terminal.

use tokio_rustls::rustls::pki_types::ServerName;

use super::section::{Problems, Section};

/// What the desk lets people do; nothing but looking unless said otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desk {
    pub(crate) cancel: Vec<Canceller>,
}

/// One client that may cancel.
#[derive(Clone, Debug)]
pub(crate) struct Canceller {
    /// A name of its certificate.
    pub(crate) client: ServerName<'static>,
    /// Gangs of these namespaces; `*` for all.
    pub(crate) namespaces: Vec<String>,
    /// sbatch jobs of these users of Slurm; `*` for all.
    pub(crate) users: Vec<String>,
}

/// Reads the section; `secret` is whether the door has certificates at all.
pub(super) fn read(mut desk: Section<'_>, secret: bool, problems: &Problems) -> Desk {
    let at = desk.at("cancel");
    let rules = desk.sections("cancel");
    desk.finish();
    if !rules.is_empty() && !secret {
        problems.add(&at, "needs tls: without certificates nobody knows who a client is");
    }
    let cancel = rules.into_iter().filter_map(|mut rule| {
        let at = rule.at("client");
        let client = rule.text("client");
        let (namespaces, users) = (rule.texts("namespaces"), rule.texts("users"));
        if namespaces.is_empty() && users.is_empty() {
            problems.add(&at, "may cancel nothing: give namespaces, users or both ('*' for all)");
        }
        rule.finish();
        let Some(client) = client else {
            problems.add(&at, "is missing: a name of the client's certificate");
            return None;
        };
        let parsed = ServerName::try_from(client.clone());
        let parsed = parsed.map_err(|_| {
            problems.add(&at, &format!("{client} is no DNS name and no address"));
        });
        Some(Canceller { client: parsed.ok()?, namespaces, users })
    });
    Desk { cancel: cancel.collect() }
}
