//! The Secrets: read, made and replaced, each only as it was when it was read.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use gangway_core::certificates::{
    Announced, Authority, Leaf, LeafStep, Lengths, Step, Term, leaf, leaf_term,
};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};

use super::paper::{self, Paper, Said};
use super::{Flags, Wanted};

/// Says that a Secret was made here: no other is ever written.
const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "gangway-certificates");
/// When the next CA was announced: seconds since the epoch.
const SINCE: &str = "gangway.dev/announced";

/// Where certificates are kept.
pub(super) struct Shelf {
    secrets: Api<Secret>,
    ca: String,
}

/// The CA as it was found.
pub(super) struct Found {
    secret: Secret,
    signs: (Paper, Said),
    next: Option<(Paper, Said, i64)>,
    /// Everybody who is believed, in PEM: the one that signs first.
    pub(super) bundle: String,
}

impl Found {
    /// Reads the Secret of the CA.
    fn read(secret: Secret, now: i64) -> anyhow::Result<Self> {
        let read = |name: &str| -> anyhow::Result<(Paper, Said)> {
            let [certificate, key] =
                ["crt", "key"].map(|end| text(&secret, &format!("{name}.{end}")));
            let said = paper::read(&certificate).with_context(|| format!("{name}.crt"))?;
            Ok((Paper { certificate, key }, said))
        };
        let signs = read("tls")?;
        let since = secret.metadata.annotations.as_ref().and_then(|notes| notes.get(SINCE));
        let next = match since.and_then(|since| since.parse().ok()) {
            Some(since) => Some(read("next")?).map(|(paper, said)| (paper, said, since)),
            None => None,
        };
        let mut bundle = signs.0.certificate.clone();
        bundle.extend(next.iter().map(|(paper, ..)| paper.certificate.as_str()));
        bundle.extend(paper::good_ones(&text(&secret, "old.crt"), now));
        Ok(Self { secret, signs, next, bundle })
    }

    pub(super) fn terms(&self) -> Authority {
        let next = self.next.as_ref();
        let next = next.map(|(_, said, since)| Announced { term: said.term, since: *since });
        Authority { signs: self.signs.1.term, next }
    }
}

impl Shelf {
    pub(super) fn new(client: Client, flags: &Flags) -> Self {
        Self { secrets: Api::namespaced(client, &flags.namespace), ca: flags.ca.clone() }
    }

    /// The CA, where there is one that can be used.
    pub(super) async fn authority(&self, now: i64) -> anyhow::Result<Option<Found>> {
        let secret = self.secrets.get_opt(&self.ca).await;
        let Some(secret) = secret.with_context(|| format!("Secret {}", self.ca))? else {
            return Ok(None);
        };
        let found =
            Found::read(secret, now).with_context(|| format!("the CA in Secret {}", self.ca))?;
        Ok(Some(found))
    }

    /// Takes a step, and writes what is so from now on.
    pub(super) async fn turn(
        &self,
        step: Step,
        found: Option<Found>,
        lengths: Lengths,
        now: i64,
    ) -> anyhow::Result<Found> {
        let term = Term::starting(now, lengths.ca);
        let old = found.as_ref().map(|found| text(&found.secret, "old.crt")).unwrap_or_default();
        let signed = found.as_ref().map(|f| f.signs.0.certificate.clone()).unwrap_or_default();
        let (signs, next, old) = match (step, found.as_ref()) {
            (Step::Announce, Some(found)) => (found.signs.0.clone(), Some(paper::ca(term)?), old),
            (Step::Switch, Some(Found { next: Some((next, ..)), .. })) => {
                (next.clone(), None, old + &signed)
            }
            _ => (paper::ca(term)?, None, old + &signed),
        };
        let old = paper::good_ones(&old, now).concat();
        let mut data = BTreeMap::from([
            ("tls.crt".to_owned(), signs.certificate),
            ("tls.key".to_owned(), signs.key),
            ("old.crt".to_owned(), old),
        ]);
        let announced = next.is_some();
        if let Some(next) = next {
            data.insert("next.crt".to_owned(), next.certificate);
            data.insert("next.key".to_owned(), next.key);
        }
        let mut secret = found.map_or_else(Secret::default, |found| found.secret);
        let notes = secret.metadata.annotations.get_or_insert_default();
        notes.remove(SINCE);
        if announced {
            notes.insert(SINCE.to_owned(), now.to_string());
        }
        let secret = self.put(&self.ca, secret, data, "Opaque").await?;
        tracing::info!(secret = self.ca, ?step, "the CA has changed");
        Found::read(secret, now).context("the CA that was just written")
    }

    /// Keeps one certificate. Returns when to look at it again.
    pub(super) async fn issue(
        &self,
        wanted: &Wanted,
        ca: &Found,
        lengths: Lengths,
        now: i64,
    ) -> anyhow::Result<i64> {
        let secret = self.secrets.get_opt(&wanted.secret).await;
        let secret = secret.with_context(|| format!("Secret {}", wanted.secret))?;
        let said = secret.as_ref().and_then(|secret| paper::read(&text(secret, "tls.crt")).ok());
        let mut names = wanted.names.clone();
        names.sort();
        let seen = said.as_ref().map(|said| Leaf {
            term: said.term,
            fits: said.issuer == ca.signs.1.subject && said.names == names,
            believes: secret.as_ref().is_some_and(|secret| text(secret, "ca.crt") == ca.bundle),
        });
        let step = leaf(seen, now);
        let secret = secret.unwrap_or_default();
        let (own, at) = match step {
            LeafStep::Keep(at) => return Ok(at),
            LeafStep::Spread => {
                let [certificate, key] = ["tls.crt", "tls.key"].map(|key| text(&secret, key));
                (Paper { certificate, key }, now)
            }
            LeafStep::Issue => {
                let term = leaf_term(lengths, ca.signs.1.term, now);
                (paper::leaf(&ca.signs.0, &wanted.names, term)?, term.due())
            }
        };
        let data = BTreeMap::from([
            ("tls.crt".to_owned(), own.certificate),
            ("tls.key".to_owned(), own.key),
            ("ca.crt".to_owned(), ca.bundle.clone()),
        ]);
        self.put(&wanted.secret, secret, data, "kubernetes.io/tls").await?;
        tracing::info!(secret = wanted.secret, ?step, "a certificate has changed");
        Ok(at)
    }

    /// Writes a Secret, if it is ours and as it was when it was read.
    async fn put(
        &self,
        name: &str,
        mut secret: Secret,
        data: BTreeMap<String, String>,
        kind: &str,
    ) -> anyhow::Result<Secret> {
        let is_new = secret.metadata.resource_version.is_none();
        let ours = secret.metadata.labels.as_ref().and_then(|labels| labels.get(MADE_BY.0));
        if !is_new && ours.is_none_or(|by| by != MADE_BY.1) {
            bail!(
                "Secret {name} was made by somebody else and is left alone; delete it, or name another one"
            );
        }
        if is_new {
            secret.type_ = Some(kind.to_owned());
            let labels = BTreeMap::from([(MADE_BY.0.to_owned(), MADE_BY.1.to_owned())]);
            let annotations = secret.metadata.annotations.take();
            let name = Some(name.to_owned());
            secret.metadata =
                ObjectMeta { name, annotations, labels: Some(labels), ..ObjectMeta::default() };
        }
        let bytes = data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes())));
        secret.data = Some(bytes.collect());
        let write = PostParams::default();
        let written = match is_new {
            true => self.secrets.create(&write, &secret).await,
            false => self.secrets.replace(name, &write, &secret).await,
        };
        written.with_context(|| format!("Secret {name} cannot be written"))
    }
}

fn text(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
}
