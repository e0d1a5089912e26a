//! One certificate as text: made, and read back. Keys are ECDSA on P-256.

use anyhow::Context as _;
use gangway_core::certificates::Term;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// A certificate and its key, both in PEM.
#[derive(Clone)]
pub(super) struct Paper {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) term: Term,
    /// Who it is of, and who signed it.
    pub(super) subject: String,
    pub(super) issuer: String,
    /// Its names, sorted.
    pub(super) names: Vec<String>,
}

/// A CA that signs itself. Its name is its own: which one has signed a certificate is told by that.
pub(super) fn ca(term: Term) -> anyhow::Result<Paper> {
    let mut params = CertificateParams::new(Vec::new())?;
    let key = KeyPair::generate()?;
    let mark = fingerprint(&key);
    params.distinguished_name = named(&format!("gangway CA {mark}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set(&mut params, term)?;
    let certificate = params.self_signed(&key)?.pem();
    Ok(Paper { certificate, key: key.serialize_pem() })
}

/// A certificate for servers and clients of ours.
pub(super) fn leaf(ca: &Paper, names: &[String], term: Term) -> anyhow::Result<Paper> {
    let signer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = named("gangway");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    set(&mut params, term)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &signer)?.pem();
    Ok(Paper { certificate, key: key.serialize_pem() })
}

/// Reads the first certificate in it.
pub(super) fn read(pem: &str) -> anyhow::Result<Said> {
    let first = Pem::iter_from_buffer(pem.as_bytes()).next();
    let first = first.context("there is no certificate in it")?.context("it is not PEM")?;
    said(&first.parse_x509().context("it is no certificate")?)
}

/// All certificates in it that are not over, as text.
pub(super) fn good_ones(text: &str, now: i64) -> Vec<String> {
    let whole = text.split_inclusive("-----END CERTIFICATE-----");
    let good = |one: &&str| read(one).is_ok_and(|said| now < said.term.until);
    whole.map(str::trim).filter(good).map(|one| format!("{one}\n")).collect()
}

fn said(certificate: &X509Certificate<'_>) -> anyhow::Result<Said> {
    let validity = certificate.validity();
    let term =
        Term { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() + 1 };
    let san = certificate.subject_alternative_name().context("its names")?;
    let listed = san.iter().flat_map(|san| &san.value.general_names);
    let mut names: Vec<String> = listed.filter_map(name).collect();
    names.sort();
    let [subject, issuer] = [certificate.subject(), certificate.issuer()].map(ToString::to_string);
    Ok(Said { term, subject, issuer, names })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
            _ => {
                <[u8; 16]>::try_from(*bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
            }
        },
        _ => None,
    }
}

fn set(params: &mut CertificateParams, term: Term) -> anyhow::Result<()> {
    params.not_before = OffsetDateTime::from_unix_timestamp(term.from)?;
    // The last second is still a good one.
    params.not_after = OffsetDateTime::from_unix_timestamp(term.until - 1)?;
    Ok(())
}

fn named(name: &str) -> DistinguishedName {
    let mut own = DistinguishedName::new();
    own.push(DnType::CommonName, name);
    own
}

/// The beginning of the hash of a key: no two CAs have the same.
fn fingerprint(key: &KeyPair) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
    hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_read_back() {
        let term = Term { from: 1_000_000_000, until: 1_000_001_000 };
        let (one, other) = (ca(term).unwrap(), ca(term).unwrap());
        let names = ["door.gangway.svc", "127.0.0.1"].map(str::to_owned);
        let own = leaf(&one, &names, term).unwrap();
        let (said, of_ca) = (read(&own.certificate).unwrap(), read(&one.certificate).unwrap());
        assert_eq!(said.term, term);
        assert_eq!(said.names, ["127.0.0.1", "door.gangway.svc"]);
        assert_eq!(said.issuer, of_ca.subject);
        assert_ne!(of_ca.subject, read(&other.certificate).unwrap().subject);
    }

    #[test]
    fn what_is_over_is_left_out() {
        let ca_until = |until: i64| ca(Term { from: 1_000, until }).unwrap().certificate;
        let text = ca_until(2_000) + &ca_until(9_000);
        assert_eq!(good_ones(&text, 1_999).len(), 2);
        assert_eq!(good_ones(&text, 2_000).concat(), ca_or(&text, 1));
        assert_eq!(good_ones("", 0).len(), 0);
    }

    fn ca_or(text: &str, at: usize) -> String {
        let one = text.split_inclusive("-----END CERTIFICATE-----").nth(at).unwrap();
        format!("{}\n", one.trim())
    }
}
