//! Settings of whoever asks from a terminal: the way to the door.

use std::path::PathBuf;

use clap::Args;

use super::kubescheduler::read_door;
use super::section::{Problems, Section};
use super::{ConfigError, Door, read_file};

/// Where the door is when nothing says so: the scheduler on this host, or a port that is forwarded.
const DEFAULT: &str = "http://127.0.0.1:50051";

/// Flags of every verb of the terminal.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TerminalFlags {
    /// The gRPC door of a running `gangway scheduler`, such as https://gangway:50051
    #[arg(long, value_name = "URL", env = "GANGWAY_DOOR_URL")]
    pub(crate) door_url: Option<String>,
    /// YAML file with the section `door` (url, certificate, key, ca, serverName); else
    /// ~/.config/gangway/terminal.yaml where there is one
    #[arg(long, value_name = "FILE", env = "GANGWAY_TERMINAL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

impl TerminalFlags {
    /// The way to the door.
    pub(crate) fn door(&self) -> Result<Door, ConfigError> {
        let own = || std::env::home_dir().map(|home| home.join(".config/gangway/terminal.yaml"));
        let path = self.config.clone().or_else(|| own().filter(|path| path.exists()));
        let file = read_file(path.as_deref())?;
        self.read(&file).map_err(ConfigError::Problems)
    }

    fn read(&self, file: &serde_json::Value) -> Result<Door, Vec<String>> {
        let problems = Problems::default();
        let mut root = Section::root(file, &problems);
        let said = file.get("door").and_then(|door| door.get("url")).is_some();
        let url = self.door_url.clone().or_else(|| (!said).then(|| DEFAULT.to_owned()));
        let door = read_door(root.section("door"), url, &problems);
        root.finish();
        problems.into_result()?;
        Ok(door)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str, url: Option<&str>) -> Result<Door, Vec<String>> {
        let flags = TerminalFlags { door_url: url.map(str::to_owned), config: None };
        flags.read(&super::super::parse_yaml(yaml).expect("YAML"))
    }

    #[test]
    fn the_door_is_on_this_host_unless_said_otherwise() {
        assert_eq!(read("", None).expect("nothing is needed").url, DEFAULT);
        let file = "door: { url: 'http://elsewhere:1' }";
        assert_eq!(read(file, None).expect("a URL").url, "http://elsewhere:1");
        assert_eq!(read(file, Some("http://flag:2")).expect("a URL").url, "http://flag:2");
    }

    #[test]
    fn a_secret_door_needs_certificates_and_may_be_known_by_another_name() {
        let bare = read("", Some("https://gangway:50051")).expect_err("no certificates");
        assert!(bare[0].starts_with("door:"), "{bare:?}");
        let file = "door: { url: 'https://localhost:1', certificate: c, key: k, ca: a, serverName: gangway.slurm }";
        let tls = read(file, None).expect("whole").tls.expect("certificates");
        assert_eq!(tls.name.as_deref(), Some("gangway.slurm"));
        assert!(read("dor: {}", None).is_err(), "an unknown key");
    }
}
