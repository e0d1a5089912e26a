//! Settings of `gangway ui`. No way to Slurm or Kubernetes is among them: it asks at the door, like a person at a
//! terminal.

use std::path::PathBuf;

use clap::Args;
use gangway_core::placeholder::is_word;

use super::kubescheduler::{Listen, read_door, read_listen};
use super::section::{Problems, Section};
use super::{ConfigError, Door, Tls, read_file, read_tls};

/// Flags of `gangway ui`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct UiFlags {
    /// YAML file with the settings; see docs/reference/ui.md
    #[arg(long, value_name = "FILE", env = "GANGWAY_UI_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The gRPC door of a running `gangway scheduler`, such as https://gangway:50051
    #[arg(long, value_name = "URL", env = "GANGWAY_DOOR_URL")]
    pub(crate) door_url: Option<String>,
    /// What to log, such as info or gangway=debug,warn
    #[arg(long, value_name = "FILTER", env = "GANGWAY_LOG_FILTER", default_value = "info")]
    pub(crate) log: String,
    /// Log one JSON object per line
    #[arg(long)]
    pub(crate) log_json: bool,
}

/// Everything the page's server needs to know, checked.
#[derive(Clone, Debug)]
pub(crate) struct UiSettings {
    /// Shown at the top of the page.
    pub(crate) cluster: String,
    pub(crate) door: Door,
    pub(crate) listen: Listen,
    /// Certificates of the page, where the proxy before it shall not speak plain HTTP.
    pub(crate) tls: Option<Tls>,
    /// Names under which the page may be asked for; none listed: whatever fits where it listens.
    pub(crate) hosts: Vec<String>,
}

impl UiSettings {
    /// Reads the file, if there is one, and lays the flags over it.
    pub(crate) fn load(flags: &UiFlags) -> Result<Self, ConfigError> {
        let file = read_file(flags.config.as_deref())?;
        Self::read(&file, flags).map_err(ConfigError::Problems)
    }

    fn read(file: &serde_json::Value, flags: &UiFlags) -> Result<Self, Vec<String>> {
        let problems = Problems::default();
        let mut root = Section::root(file, &problems);
        let cluster = root.text("cluster").unwrap_or_else(|| "default".to_owned());
        if !is_word(&cluster) {
            problems.add("cluster", "must be letters, digits, '.', '_', ':' or '-'");
        }
        let door = read_door(root.section("door"), flags.door_url.clone(), &problems);
        let listen = read_listen(root.section("listen"), (8080, 9093, 8084));
        let tls = read_tls(root.section("tls"), &problems);
        let hosts = root.texts("hosts");
        root.finish();
        problems.into_result()?;
        Ok(Self { cluster, door, listen, tls, hosts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<UiSettings, Vec<String>> {
        let file = super::super::parse_yaml(yaml).expect("YAML");
        UiSettings::read(&file, &UiFlags::default())
    }

    #[test]
    fn it_is_seen_from_this_host_alone_unless_said_otherwise() {
        let settings = read("door: { url: 'http://gangway:50051' }").expect("usable");
        let listen = settings.listen;
        for address in [listen.http, listen.metrics, listen.health] {
            assert!(address.ip().is_loopback(), "{address}");
        }
        assert!(settings.tls.is_none() && settings.hosts.is_empty());
        let file =
            "door: { url: 'http://g:1' }\nlisten: { http: '0.0.0.0:80' }\nhosts: [q.example]";
        let settings = read(file).expect("usable");
        assert_eq!((settings.listen.http.port(), settings.hosts.len()), (80, 1));
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let yaml = "
cluster: a b
door: { url: 'https://gangway:50051', key: k }
listen: { grpc: '127.0.0.1:1' }
tls: { key: k }
hosts: all
slurm: { url: x }
";
        let problems = read(yaml).expect_err("many problems");
        for path in ["cluster:", "door:", "listen.grpc:", "tls:", "hosts:", "slurm:"] {
            assert!(problems.iter().any(|p| p.starts_with(path)), "{path} in {problems:#?}");
        }
    }
}
