//! The world a story plays in, as its env file describes it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// A running world.
#[derive(Debug)]
pub struct World {
    vars: HashMap<String, String>,
}

static WORLD: LazyLock<Option<World>> = LazyLock::new(World::read);

impl World {
    /// The world there is. Without one a developer's test is skipped; in CI that is a failure.
    pub fn find() -> Option<&'static Self> {
        WORLD.as_ref()
    }

    fn read() -> Option<Self> {
        let Some(file) = std::env::var_os("GANGWAY_WORLD_ENV") else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "GANGWAY_WORLD_ENV is not set");
            return None;
        };
        let text = std::fs::read_to_string(&file).expect("GANGWAY_WORLD_ENV can be read");
        let vars = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('\'').to_owned()))
        });
        Some(Self { vars: vars.collect() })
    }

    fn var(&self, name: &str) -> &str {
        self.vars.get(name).unwrap_or_else(|| unreachable!("the world's env file has no {name}"))
    }

    /// Where slurmrestd is.
    pub fn slurm_url(&self) -> &str {
        self.var("SLURM_REST_URL")
    }

    /// SlurmUser's token.
    pub fn token_file(&self) -> PathBuf {
        self.var("SLURM_TOKEN_FILE").into()
    }

    /// The way to the API server as its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.var("KUBECONFIG").into()
    }

    /// The way to the API server with no more rights than the bridge has in production.
    pub fn bridge_kubeconfig(&self) -> PathBuf {
        self.var("GANGWAY_KUBECONFIG").into()
    }

    fn dir(&self) -> PathBuf {
        self.var("GANGWAY_WORLD_DIR").into()
    }

    /// What is shown inside the Slurm host as `/mnt/world`.
    pub fn shared(&self) -> PathBuf {
        self.dir()
    }

    /// What is `/tmp` inside the Slurm host.
    pub fn slurm_tmp(&self) -> PathBuf {
        self.dir().join("slurm/tmp")
    }

    /// Everything anybody has asked of the API server.
    pub fn audit_log(&self) -> PathBuf {
        let found = ["audit.log", "logs/audit.log"].map(|name| self.dir().join(name));
        found.iter().find(|path| path.exists()).unwrap_or(&found[0]).clone()
    }

    /// Where one of the commands in the world's `bin` is.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.dir().join("bin").join(name)
    }

    /// One of the commands in the world's `bin`.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binary(name));
        command.stdin(Stdio::null());
        command
    }

    /// Runs one of Slurm's commands as a user and gives what it prints.
    pub fn run_as(&self, user: &str, name: &str, words: &[&str]) -> String {
        let ran = self.command(name).args(words).env("SLURM_AS", user).output();
        let ran = ran.unwrap_or_else(|error| unreachable!("{name} cannot be started: {error}"));
        let said = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
        let complaint = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{name} {words:?} as {user}: {said} {complaint}");
        said
    }
}
