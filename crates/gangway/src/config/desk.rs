//! The section `desk`: which clients of the door may end jobs from a terminal, and where Prometheus is.

use std::path::PathBuf;

use tokio_rustls::rustls::pki_types::ServerName;

use super::section::{Problems, Section};

/// What the desk lets people do; nothing but looking unless said otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desk {
    pub(crate) cancel: Vec<Canceller>,
    /// What is asked how well devices were used.
    pub(crate) prometheus: Option<Prometheus>,
}

/// A Prometheus that has the series of manifests/monitoring/rules.yaml.
#[derive(Clone, Debug)]
pub(crate) struct Prometheus {
    pub(crate) url: String,
    /// For https: nobody else is believed.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) token_file: Option<PathBuf>,
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
    let prometheus = read_prometheus(desk.section("prometheus"), problems);
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
    Desk { cancel: cancel.collect(), prometheus }
}

fn read_prometheus(mut section: Section<'_>, problems: &Problems) -> Option<Prometheus> {
    let url = section.text("url");
    let [ca, token_file] = ["ca", "tokenFile"].map(|key| section.text(key).map(PathBuf::from));
    let at = |key: &str| section.at(key);
    let (ats, said) =
        ([at("url"), at("ca"), at("tokenFile")], ca.is_some() || token_file.is_some());
    section.finish();
    let Some(url) = url else {
        if said {
            problems.add(&ats[0], "is missing");
        }
        return None;
    };
    let (plain, secret) = (url.starts_with("http://"), url.starts_with("https://"));
    if !plain && !secret {
        problems.add(&ats[0], "must begin with http:// or https://");
    }
    if secret && ca.is_none() {
        problems.add(&ats[1], "is missing: the url says https, and nobody else is believed");
    }
    if plain && ca.is_some() {
        problems.add(&ats[1], "has no use: the url does not say https");
    }
    if plain && token_file.is_some() {
        problems.add(&ats[2], "needs https: everybody on the way could read the token");
    }
    Some(Prometheus { url, ca, token_file })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_yaml;

    fn prometheus(yaml: &str) -> Result<Option<Prometheus>, Vec<String>> {
        let (file, problems) = (parse_yaml(yaml).expect("YAML"), Problems::default());
        let mut root = Section::root(&file, &problems);
        let desk = read(root.section("desk"), true, &problems);
        problems.into_result().map(|()| desk.prometheus)
    }

    #[test]
    fn a_prometheus_is_believed_by_its_ca_and_gets_a_token_in_secret_alone() {
        let of = |inside: &str| prometheus(&format!("desk: {{ prometheus: {{ {inside} }} }}"));
        assert!(prometheus("desk: {}").expect("fine").is_none());
        assert_eq!(of("url: 'http://p:9090'").expect("fine").expect("one").url, "http://p:9090");
        let whole = of("url: 'https://p', ca: a, tokenFile: t").expect("fine").expect("one");
        assert_eq!((whole.ca, whole.token_file), (Some("a".into()), Some("t".into())));
        for (inside, path) in [
            ("ca: a", "desk.prometheus.url: is missing"),
            ("url: p", "desk.prometheus.url: must begin"),
            ("url: 'https://p'", "desk.prometheus.ca: is missing"),
            ("url: 'http://p', ca: a", "desk.prometheus.ca: has no use"),
            ("url: 'http://p', tokenFile: t", "desk.prometheus.tokenFile: needs https"),
            ("url: 'http://p', token: t", "desk.prometheus.token: unknown"),
        ] {
            let problems = of(inside).expect_err(inside);
            assert!(problems.len() == 1 && problems[0].starts_with(path), "{inside}: {problems:?}");
        }
    }
}
