//! Settings of `gangway extender`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use gangway_core::names;
use gangway_core::placeholder::is_word;

use super::section::{Problems, Section};
use super::{
    Command, ConfigError, Election, Gangs, ProcessFlags, Tls, command, election, gangs, read_file,
    read_tls,
};

/// Flags of `gangway extender`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ExtenderFlags {
    /// YAML file with the settings; see docs/reference/extender.md
    #[arg(long, value_name = "FILE", env = "GANGWAY_EXTENDER_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The gRPC door of a running `gangway scheduler`, such as https://gangway:50051
    #[arg(long, value_name = "URL", env = "GANGWAY_DOOR_URL")]
    pub(crate) door_url: Option<String>,
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
}

/// Everything the extender needs to know, checked.
#[derive(Clone, Debug)]
pub(crate) struct ExtenderSettings {
    /// Names this process's world in every placeholder. It ends with the scheduler name, so that it
    /// is never the world of a `gangway scheduler`: each would end the other's placeholders.
    pub(crate) cluster: String,
    /// `spec.schedulerName` of its pods.
    pub(crate) scheduler_name: String,
    pub(crate) door: Door,
    pub(crate) listen: Listen,
    /// Certificates of the HTTP side.
    pub(crate) tls: Option<Tls>,
    /// How long kube-scheduler may leave an allocation untaken, in seconds.
    pub(crate) take_up_seconds: u32,
    pub(crate) kubeconfig: Option<PathBuf>,
    /// This process among its replicas.
    pub(crate) identity: String,
    pub(crate) election: Option<Election>,
    /// What is run when a gang is warned.
    pub(crate) warning_command: Option<Command>,
    /// What is shown of gangs.
    pub(crate) gangs: Gangs,
}

/// The way to the gRPC door.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    pub(crate) url: String,
    /// Certificates for an https URL: our own, and the CA of the door.
    pub(crate) tls: Option<DoorTls>,
}

#[derive(Clone, Debug)]
pub(crate) struct DoorTls {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
    /// The name in the door's certificate, where the URL has another one: behind a port that is forwarded.
    pub(crate) name: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    pub(crate) http: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) health: SocketAddr,
}

impl ExtenderSettings {
    /// Reads the file, if there is one, and lays the flags over it.
    pub(crate) fn load(flags: &ExtenderFlags) -> Result<Self, ConfigError> {
        let file = read_file(flags.config.as_deref())?;
        Self::read(&file, flags).map_err(ConfigError::Problems)
    }

    fn read(file: &serde_json::Value, flags: &ExtenderFlags) -> Result<Self, Vec<String>> {
        let problems = Problems::default();
        let mut root = Section::root(file, &problems);
        let scheduler_name =
            root.text("schedulerName").unwrap_or_else(|| "gangway-extended".to_owned());
        if !is_word(&scheduler_name) {
            problems.add("schedulerName", "must be letters, digits, '.', '_', ':' or '-'");
        }
        if scheduler_name == names::SCHEDULER {
            problems.add(
                "schedulerName",
                "is the name whose pods `gangway scheduler` binds itself; choose another",
            );
        }
        let cluster = root.text("cluster").unwrap_or_else(|| "default".to_owned());
        let cluster = format!("{cluster}:{scheduler_name}");
        if !is_word(&cluster) {
            problems.add("cluster", "must be letters, digits, '.', '_', ':' or '-'");
        }
        let take_up_seconds = root.number("takeUpSeconds").unwrap_or(300);
        if take_up_seconds == 0 {
            problems.add("takeUpSeconds", "must be 1 or more");
        }
        let door = read_door(root.section("door"), flags.door_url.clone(), &problems);
        let listen = read_listen(root.section("listen"), (8888, 9092, 8083));
        let tls = read_tls(root.section("tls"), &problems);
        let kubeconfig =
            flags.process.kubeconfig.clone().or_else(|| root.text("kubeconfig").map(Into::into));
        let identity = election::identity(&flags.process);
        let election = root.section("leaderElection");
        let election =
            election::read(election, &flags.process, &identity, "gangway-extender", &problems);
        let warning_command = command::read(root.section("warningCommand"), &problems);
        let gangs = gangs::read(root.section("gangs"));
        root.finish();
        problems.into_result()?;
        Ok(Self {
            cluster,
            scheduler_name,
            door,
            listen,
            tls,
            take_up_seconds,
            kubeconfig,
            identity,
            election,
            warning_command,
            gangs,
        })
    }
}

/// Reads the section; a URL from elsewhere goes over its own.
pub(super) fn read_door(
    mut door: Section<'_>,
    elsewhere: Option<String>,
    problems: &Problems,
) -> Door {
    let file = door.text("url");
    let url = elsewhere.or(file);
    let name = door.text("serverName");
    let [certificate, key, ca] =
        ["certificate", "key", "ca"].map(|k| door.text(k).map(PathBuf::from));
    door.finish();
    let secret = url.as_ref().is_some_and(|url| url.starts_with("https://"));
    match &url {
        None => problems
            .add("door.url", "is missing: give it here, as --door-url or as $GANGWAY_DOOR_URL"),
        Some(url) if !secret && !url.starts_with("http://") => {
            problems.add("door.url", "must begin with http:// or https://");
        }
        Some(_) => {}
    }
    let tls = match (certificate, key, ca) {
        (None, None, None) if !secret => None,
        (Some(certificate), Some(key), Some(ca)) if secret => {
            Some(DoorTls { certificate, key, ca, name })
        }
        _ => {
            problems.add("door", "an https URL needs certificate, key and ca, an http URL none");
            None
        }
    };
    Door { url: url.unwrap_or_default(), tls }
}

/// Ports on this host alone, unless said otherwise: for HTTP, metrics and health.
pub(super) fn read_listen(
    mut listen: Section<'_>,
    (http, metrics, health): (u16, u16, u16),
) -> Listen {
    let mut address = |key: &str, port: u16| {
        listen.address(key).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
    };
    let out = Listen {
        http: address("http", http),
        metrics: address("metrics", metrics),
        health: address("health", health),
    };
    listen.finish();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<ExtenderSettings, Vec<String>> {
        let file = super::super::parse_yaml(yaml).expect("YAML");
        ExtenderSettings::read(&file, &ExtenderFlags::default())
    }

    #[test]
    fn its_world_is_never_that_of_a_scheduler() {
        let settings =
            read("cluster: prod\ndoor: { url: 'http://gangway:50051' }").expect("usable");
        assert_eq!(settings.cluster, "prod:gangway-extended");
        assert_eq!(settings.take_up_seconds, 300);
        let problems = read("schedulerName: gangway\ndoor: { url: 'http://g:1' }");
        let problems = problems.expect_err("two would bind the same pods");
        assert!(problems[0].starts_with("schedulerName:"), "{problems:?}");
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let yaml = "
cluster: a b
takeUpSeconds: 0
takeupSeconds: 3
door: { url: 'https://gangway:50051', key: k }
listen: { grpc: '127.0.0.1:1' }
tls: { key: k }
";
        let problems = read(yaml).expect_err("many problems");
        for path in
            ["cluster:", "takeUpSeconds:", "takeupSeconds:", "door:", "listen.grpc:", "tls:"]
        {
            assert!(problems.iter().any(|p| p.starts_with(path)), "{path} in {problems:#?}");
        }
    }
}
