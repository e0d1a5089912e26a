//! Who may end a job from a terminal: clients of the door that the configuration names, by the certificate they have
//! shown, and nobody else.

use gangway_core::desk::Row;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::ParsedCertificate;
use tonic::Status;

use crate::config::{Canceller, Desk};

/// A client that may cancel something.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    rules: Vec<&'a Canceller>,
}

/// Whom these certificates, its own first, are of; the door has checked their chain.
pub(super) fn guest<'a>(
    certificates: &[CertificateDer<'_>],
    settings: &'a Desk,
) -> Result<Guest<'a>, Status> {
    let denied = Status::permission_denied;
    if settings.cancel.is_empty() {
        return Err(denied(
            "cancel is off: the configuration (desk.cancel) opens it to nobody; delete the pods, or use scancel",
        ));
    }
    let own = certificates
        .first()
        .ok_or_else(|| denied("cancel needs a client certificate, and this connection has none"))?;
    let own = ParsedCertificate::try_from(own)
        .map_err(|_| denied("the client certificate cannot be read"))?;
    let is = |rule: &&Canceller| verify_server_name(&own, &rule.client).is_ok();
    let rules: Vec<&Canceller> = settings.cancel.iter().filter(is).collect();
    if rules.is_empty() {
        return Err(denied("the configuration (desk.cancel) does not open cancel to this client"));
    }
    Ok(Guest { rules })
}

impl Guest<'_> {
    /// As the configuration knows it, for the log.
    pub(super) fn name(&self) -> String {
        self.rules.first().map(|rule| rule.client.to_str().into_owned()).unwrap_or_default()
    }

    /// A gang is ended by who may for its namespace, whatever else by who may for its owner in Slurm.
    pub(super) fn may_cancel(&self, row: &Row) -> Result<(), Status> {
        let has = |list: &[String], name: &str| list.iter().any(|one| one == "*" || one == name);
        let (what, may) = match &row.workload {
            Some(workload) => (
                format!("gangs of namespace {}", workload.namespace),
                self.rules.iter().any(|rule| has(&rule.namespaces, &workload.namespace)),
            ),
            None => (
                format!("jobs of user {}", row.user),
                self.rules.iter().any(|rule| has(&rule.users, &row.user)),
            ),
        };
        if may {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "the configuration (desk.cancel) does not let this client cancel {what}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use gangway_core::desk::Workload;
    use rcgen::{CertificateParams, KeyPair};
    use tokio_rustls::rustls::pki_types::ServerName;

    use super::*;

    fn certificate(name: &str) -> CertificateDer<'static> {
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    fn rule(client: &'static str, namespaces: &[&str], users: &[&str]) -> Canceller {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let client = ServerName::try_from(client).expect("a name");
        Canceller { client, namespaces: words(namespaces), users: words(users) }
    }

    fn gang(namespace: &str) -> Row {
        let workload = Workload { namespace: namespace.to_owned(), ..Workload::default() };
        Row { user: "alice".to_owned(), workload: Some(workload), ..Row::default() }
    }

    #[test]
    fn nobody_may_unless_the_configuration_names_the_client() {
        let off = Desk::default();
        let on = Desk { cancel: vec![rule("ops", &["*"], &["*"])], ..Desk::default() };
        let ops = [certificate("ops")];
        assert!(guest(&ops, &off).expect_err("it is off").message().contains("desk.cancel"));
        assert!(guest(&[], &on).is_err(), "no certificate");
        assert!(guest(&[certificate("another")], &on).is_err(), "another name");
        assert_eq!(guest(&ops, &on).expect("it is named").name(), "ops");
    }

    #[test]
    fn a_gang_is_its_namespaces_and_a_batch_job_its_owners() {
        let desk = Desk {
            cancel: vec![rule("ops", &["team-a"], &["bob"]), rule("all", &["*"], &[])],
            ..Desk::default()
        };
        let ops = [certificate("ops")];
        let ops = guest(&ops, &desk).expect("it is named");
        assert!(ops.may_cancel(&gang("team-a")).is_ok());
        assert!(ops.may_cancel(&gang("team-b")).is_err());
        let batch = |user: &str| Row { user: user.to_owned(), ..Row::default() };
        assert!(ops.may_cancel(&batch("bob")).is_ok());
        // A placeholder runs as alice, and is still a gang.
        assert!(ops.may_cancel(&batch("alice")).is_err());
        let all = [certificate("all")];
        let all = guest(&all, &desk).expect("it is named");
        assert!(all.may_cancel(&gang("team-b")).is_ok());
        assert!(all.may_cancel(&batch("bob")).is_err(), "no users are opened to it");
    }
}
