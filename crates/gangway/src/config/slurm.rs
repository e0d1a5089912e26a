//! The section `slurm`: where slurmrestd is, and how it is spoken with.

use std::path::PathBuf;

use gangway_core::placeholder::JobIds;
use gangway_core::poison::Sink;
use gangway_slurm::{ClientCertificate, Tls};

use super::Flags;
use super::section::{Problems, Section};

/// The section `slurm`.
#[derive(Clone, Debug)]
pub(crate) struct Slurm {
    pub(crate) url: String,
    /// For https.
    pub(crate) tls: Option<Tls>,
    pub(crate) token_file: PathBuf,
    /// The token's user.
    pub(crate) user: String,
    /// Whether the immediate path may be used.
    pub(crate) immediate: bool,
    /// Whether a gang of different roles may be a heterogeneous job.
    pub(crate) heterogeneous: bool,
    pub(crate) job_ids: JobIds,
    /// Who answers for EXTERNAL nodes, where they are to be healed.
    pub(crate) sink: Option<Sink>,
    /// For so many seconds a node that has failed is not asked for again.
    pub(crate) shun_failed_nodes: u32,
}

pub(super) fn read_slurm(mut slurm: Section<'_>, flags: &Flags, problems: &Problems) -> Slurm {
    let url = flags.slurm_url.clone().or_else(|| slurm.text("url"));
    // A flag goes over the file, so the file's value is read either way: it is no unknown key.
    let _ = slurm.text("url");
    let file = slurm.text("tokenFile").map(PathBuf::from);
    let token_file = flags.slurm_token_file.clone().or(file);
    if url.is_none() {
        problems.add("slurm.url", "is missing: give it here, as --slurm-url or as $SLURM_REST_URL");
    }
    if let Some(url) = &url
        && !(url.starts_with("http://") || url.starts_with("https://"))
    {
        problems.add("slurm.url", "must begin with http:// or https://");
    }
    if token_file.is_none() {
        problems.add(
            "slurm.tokenFile",
            "is missing: give it here, as --slurm-token-file or as $SLURM_TOKEN_FILE",
        );
    }
    let secret = url.as_ref().is_some_and(|url| url.starts_with("https://"));
    let tls = read_wire(slurm.section("tls"), secret, problems);
    let user = slurm.text("user").unwrap_or_else(|| "slurm".to_owned());
    let immediate = slurm.flag("immediate").unwrap_or(true);
    let heterogeneous = slurm.flag("heterogeneous").unwrap_or(true);
    let mut ids = slurm.section("jobIds");
    let default = JobIds::default();
    let job_ids = JobIds {
        first: ids.number("first").unwrap_or(default.first),
        last: ids.number("last").unwrap_or(default.last),
    };
    ids.finish();
    let sink = read_sink(slurm.section("sink"), problems);
    let shun_failed_nodes = slurm.number("shunFailedNodes").unwrap_or(300);
    slurm.finish();
    if job_ids.first == 0 || job_ids.last <= job_ids.first || job_ids.last > 0x03ff_ffff {
        problems.add("slurm.jobIds", "must be a range 1 <= first < last <= 67108863");
    }
    Slurm {
        url: url.unwrap_or_default(),
        tls,
        token_file: token_file.unwrap_or_default(),
        user,
        immediate,
        heterogeneous,
        job_ids,
        shun_failed_nodes,
        sink,
    }
}

fn read_sink(mut sink: Section<'_>, problems: &Problems) -> Option<Sink> {
    let (address, partitions) = (sink.text("address"), sink.texts("partitions"));
    sink.finish();
    match address {
        Some(address) if !partitions.is_empty() => Some(Sink { address, partitions }),
        None if partitions.is_empty() => None,
        _ => {
            problems.add(
                "slurm.sink",
                "needs address, and partitions: those whose EXTERNAL nodes are ours",
            );
            None
        }
    }
}

/// `secret`: whether the address says https.
fn read_wire(mut tls: Section<'_>, secret: bool, problems: &Problems) -> Option<Tls> {
    let [ca, certificate, key] =
        ["ca", "certificate", "key"].map(|k| tls.text(k).map(PathBuf::from));
    tls.finish();
    let client = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        _ => {
            problems.add("slurm.tls", "needs certificate and key together");
            None
        }
    };
    match (ca, secret) {
        (Some(ca), true) => Some(Tls { ca, client }),
        (None, true) => {
            problems.add(
                "slurm.tls.ca",
                "is missing: slurm.url says https, and nobody else is believed",
            );
            None
        }
        (None, false) if client.is_none() => None,
        (_, false) => {
            problems.add("slurm.tls", "has no use: slurm.url does not say https");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_yaml;

    fn problems(yaml: &str) -> Vec<String> {
        let (file, problems) = (parse_yaml(yaml).expect("YAML"), Problems::default());
        let flags = Flags { slurm_token_file: Some("token".into()), ..Flags::default() };
        let mut root = Section::root(&file, &problems);
        read_slurm(root.section("slurm"), &flags, &problems);
        problems.into_result().err().unwrap_or_default()
    }

    #[test]
    fn https_needs_a_ca_and_http_has_no_use_for_one() {
        let none = Vec::<String>::new();
        let secret = "url: https://s, tls: ";
        assert_eq!(problems(&format!("slurm: {{ {secret} {{ ca: a }} }}")), none);
        assert_eq!(
            problems(&format!("slurm: {{ {secret} {{ ca: a, certificate: b, key: c }} }}")),
            none
        );
        for (yaml, path) in [
            ("slurm: { url: https://s }", "slurm.tls.ca: "),
            ("slurm: { url: https://s, tls: { ca: a, key: c } }", "slurm.tls: "),
            ("slurm: { url: https://s, tls: { ca: a, insecure: true } }", "slurm.tls.insecure: "),
            ("slurm: { url: http://s, tls: { ca: a } }", "slurm.tls: "),
        ] {
            let said = problems(yaml);
            assert!(said.len() == 1 && said[0].starts_with(path), "{yaml}: {said:?}");
        }
    }
}
