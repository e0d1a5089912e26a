//! The worlds that stories play in, as their env files describe them, and which story plays in which.
//!
//! A bridge serves a whole world, so in each one story is told at a time. With several worlds several stories are told
//! at once; a story never learns which one it got.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::time::Instant;

/// A running world.
#[derive(Debug)]
pub struct World {
    vars: HashMap<String, String>,
}

static WORLDS: LazyLock<Vec<World>> = LazyLock::new(World::read);

/// The worlds in which no story is told.
static FREE: LazyLock<Mutex<Vec<&World>>> = LazyLock::new(|| Mutex::new(WORLDS.iter().collect()));

/// Tells those who wait that a world has become free.
static FREED: Condvar = Condvar::new();

thread_local! {
    /// The world of the story that is told by this thread, for as long as the thread lives: the test runner gives
    /// every test a thread of its own, and runs those with one thread on the same one.
    static STAGE: OnceCell<Stage> = const { OnceCell::new() };
}

/// A world that nobody else plays in until this is dropped.
struct Stage {
    world: &'static World,
    since: Instant,
}

impl Stage {
    /// Waits for a free world that will do.
    fn take(will_do: impl Fn(&World) -> bool) -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(place) = free.iter().rposition(|world| will_do(world)) {
                return Self { world: free.remove(place), since: Instant::now() };
            }
            free = FREED.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.world);
        // Whoever is woken first may want another one.
        FREED.notify_all();
        self.tell();
    }
}

impl Stage {
    /// Writes down how long a story had a world, where `GANGWAY_TIMES` says.
    fn tell(&self) {
        let Some(path) = std::env::var_os("GANGWAY_TIMES") else { return };
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        let line = format!("{:.1}\t{name}\n", self.since.elapsed().as_secs_f32());
        let file = File::options().append(true).create(true).open(path);
        // Nobody fails for want of a figure.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

impl World {
    /// The world of the test that asks: for itself alone until it ends, and the same each time it asks. May wait for
    /// other tests to end. To be asked by the test's own thread, not by tasks on others. Without any world a
    /// developer's test is skipped; in CI that is a failure.
    pub fn find() -> Option<&'static Self> {
        if WORLDS.is_empty() {
            return None;
        }
        STAGE.with(|stage| Some(stage.get_or_init(|| Stage::take(|_| true)).world))
    }

    /// The same, for a test that not every world will do for. Without one that will the test is skipped.
    pub fn find_where(will_do: impl Fn(&Self) -> bool) -> Option<&'static Self> {
        if !WORLDS.iter().any(&will_do) {
            return None;
        }
        let found = STAGE.with(|stage| stage.get_or_init(|| Stage::take(&will_do)).world);
        will_do(found).then_some(found)
    }

    /// `GANGWAY_WORLD_ENV` names one, `GANGWAY_MORE_WORLDS` any number, with a colon between two.
    fn read() -> Vec<Self> {
        let Some(first) = std::env::var_os("GANGWAY_WORLD_ENV") else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "GANGWAY_WORLD_ENV is not set");
            return Vec::new();
        };
        let more = std::env::var_os("GANGWAY_MORE_WORLDS").unwrap_or_default();
        let more = std::env::split_paths(&more).filter(|file| !file.as_os_str().is_empty());
        let files = std::iter::once(PathBuf::from(first)).chain(more);
        files.map(|file| Self::of(&file)).collect()
    }

    fn of(file: &Path) -> Self {
        let text = std::fs::read_to_string(file)
            .unwrap_or_else(|error| unreachable!("{} cannot be read: {error}", file.display()));
        let vars = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('\'').to_owned()))
        });
        Self { vars: vars.collect() }
    }

    fn var(&self, name: &str) -> &str {
        self.vars.get(name).unwrap_or_else(|| unreachable!("the world's env file has no {name}"))
    }

    /// The hosts that have a kubelet, so that pods really run there (`world up --kubelets`).
    pub fn kubelets(&self) -> Vec<&str> {
        self.vars.get("GANGWAY_KUBELETS").map_or("", String::as_str).split_whitespace().collect()
    }

    /// The image that kubelets have: a shell and the usual commands, and by default something that waits to be stopped.
    pub fn pod_image(&self) -> &str {
        self.var("GANGWAY_POD_IMAGE")
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

    /// The way to the API server with the rights of `gangway controllers`.
    pub fn controllers_kubeconfig(&self) -> PathBuf {
        self.var("GANGWAY_CONTROLLERS_KUBECONFIG").into()
    }

    /// The way to the API server with the rights of `gangway admission`.
    pub fn admission_kubeconfig(&self) -> PathBuf {
        self.var("GANGWAY_ADMISSION_KUBECONFIG").into()
    }

    /// The way to the API server with the rights of `gangway certificates`.
    pub fn certificates_kubeconfig(&self) -> PathBuf {
        self.var("GANGWAY_CERTIFICATES_KUBECONFIG").into()
    }

    /// The way to the API server with the rights of `gangway extender`.
    pub fn extender_kubeconfig(&self) -> PathBuf {
        self.var("GANGWAY_EXTENDER_KUBECONFIG").into()
    }

    /// The port of the slurmd that answers for EXTERNAL nodes, on loopback.
    pub fn sink_port(&self) -> u16 {
        self.var("GANGWAY_SINK_PORT").parse().expect("a port")
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

    /// What slurmctld says of itself.
    pub fn slurmctld_log(&self) -> PathBuf {
        self.dir().join("logs/slurm-host/slurm/slurmctld.log")
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
