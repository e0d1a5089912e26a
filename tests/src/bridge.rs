//! A bridge of the story's own: its configuration, its process, its log.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::http;
use crate::wait::{SOON, wait};
use crate::world::World;

/// What may differ between bridges.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where the bridge believes slurmrestd to be.
    pub slurm_url: String,
    /// Where the bridge believes its token to be.
    pub token_file: PathBuf,
    /// Whether the bridge may take nodes at once, where nobody waits.
    pub immediate: bool,
    /// Whether a gang of different roles may be a heterogeneous job.
    pub heterogeneous: bool,
    /// Further keys of the section `slurm`, such as `sink: {...}`.
    pub slurm: String,
    /// Further keys of the one identity, such as `qos: [high]`.
    pub identity: String,
    /// Whether SlurmPolicies decide: `off`, `auto`, `required`.
    pub slurm_policies: &'static str,
    /// Further lines of the policy.
    pub policy: String,
    /// Further YAML for the configuration file.
    pub more: String,
    /// Which bridge of the story it is, as the audit log and the Lease show it.
    pub who: String,
    /// What it logs.
    pub log: &'static str,
    /// The subcommand: `scheduler`, or `controllers`.
    pub verb: &'static str,
    /// Another way to the API server than the world's own.
    pub kubeconfig: Option<PathBuf>,
    /// Further flags, such as `--log-json`.
    pub flags: Vec<String>,
}

impl Setup {
    /// The world's own slurmrestd.
    pub fn of(world: &World) -> Self {
        Self {
            slurm_url: world.slurm_url().to_owned(),
            token_file: world.token_file(),
            immediate: true,
            heterogeneous: true,
            slurm: String::new(),
            identity: String::new(),
            slurm_policies: "off",
            policy: String::new(),
            more: String::new(),
            who: "one".to_owned(),
            log: "info,gangway=debug",
            verb: "scheduler",
            kubeconfig: None,
            flags: Vec::new(),
        }
    }
}

/// One bridge process, started and ended at will; it keeps its name and its ports.
#[derive(Debug)]
pub struct Bridge {
    /// Its port for gRPC.
    pub grpc: u16,
    /// Its port for /metrics.
    pub metrics: u16,
    /// Its port for /healthz and /readyz.
    pub health: u16,
    directory: PathBuf,
    kubeconfig: PathBuf,
    who: String,
    filter: &'static str,
    verb: &'static str,
    flags: Vec<String>,
    child: Option<Child>,
    /// Where its next process dies.
    armed: Option<String>,
}

impl Bridge {
    /// Writes the configuration; nothing is started.
    pub fn new(world: &World, cluster: &str, setup: &Setup) -> Self {
        let who = setup.who.clone();
        let directory = std::env::temp_dir().join(format!("gangway-{cluster}-{who}"));
        fs::create_dir_all(&directory).expect("the temporary directory can be written");
        let [grpc, metrics, health] = [(); 3].map(|()| http::free_port());
        let bridge = Self {
            grpc,
            metrics,
            health,
            kubeconfig: setup.kubeconfig.clone().unwrap_or_else(|| world.bridge_kubeconfig()),
            who,
            filter: setup.log,
            verb: setup.verb,
            flags: setup.flags.clone(),
            child: None,
            armed: None,
            directory,
        };
        let yaml = format!(
            "cluster: {cluster}\n\
             slurm: {{ url: '{}', tokenFile: '{}', immediate: {}, heterogeneous: {}, {} }}\n\
             policy:\n  defaultPartition: gangway\n  slurmPolicies: {}\n  {}\n  identities:\n    \
             - {{ namespace: '*', user: alice, group: alice, account: team1, {} }}\n\
             listen: {{ grpc: '127.0.0.1:{grpc}', metrics: '127.0.0.1:{metrics}', health: '127.0.0.1:{health}' }}\n\
             {}",
            setup.slurm_url,
            setup.token_file.display(),
            setup.immediate,
            setup.heterogeneous,
            setup.slurm,
            setup.slurm_policies,
            setup.policy,
            setup.identity,
            setup.more,
        );
        fs::write(bridge.config(), yaml).expect("the configuration can be written");
        bridge
    }

    fn config(&self) -> PathBuf {
        self.directory.join("gangway.yaml")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("gangway.log")
    }

    /// Where this bridge's files are: gone when the story has ended well.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The binary under test.
    pub fn binary() -> PathBuf {
        if let Some(named) = std::env::var_os("GANGWAY_BIN") {
            return named.into();
        }
        let test = std::env::current_exe().expect("a test has an executable");
        let beside = test.parent().and_then(Path::parent).map(|dir| dir.join("gangway"));
        let found = beside.filter(|path| path.exists());
        found.expect("no gangway binary: run `cargo build -p gangway` first, or set GANGWAY_BIN")
    }

    /// A subcommand of `gangway` with nothing inherited that could lead it elsewhere.
    pub fn command(verb: &str, config: &Path) -> Command {
        let mut command = Command::new(Self::binary());
        for name in ["SLURM_REST_URL", "SLURM_TOKEN_FILE", "GANGWAY_CONFIG", "KUBECONFIG"] {
            command.env_remove(name);
        }
        for name in ["GANGWAY_LEADER_ELECTION", "POD_NAMESPACE", "POD_NAME"] {
            command.env_remove(name);
        }
        // A failing story shows the end of the log: the error, not sixty frames below it.
        command.env("RUST_BACKTRACE", "0");
        command.arg(verb).arg("--config").arg(config).stdin(Stdio::null());
        command
    }

    /// Starts the process; it need not be ready yet.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "this bridge runs already");
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.expect("the log can be written");
        let child = Self::command(self.verb, &self.config())
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--log", self.filter, "--identity", &self.who])
            .args(&self.flags)
            .envs(self.armed.take().map(|at| ("GANGWAY_CRASH_AT", at)))
            .env("GANGWAY_CRASH_LOG", self.passed_file())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the bridge can be started"));
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.wait_ready().await;
    }

    /// Waits until both sides answer and the watches are synced.
    pub async fn wait_ready(&mut self) {
        wait("the bridge is ready", SOON, async || {
            assert!(self.alive(), "the bridge has ended:\n{}", self.tail(20));
            match self.readyz().await {
                Some((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// What /readyz says.
    pub async fn readyz(&self) -> Option<(u16, String)> {
        http::get(self.health, "/readyz").await
    }

    /// Whether the process is there.
    pub fn alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Every fail point of the binary under test. It must have been built with them.
    pub fn fail_points() -> Vec<String> {
        let told = Command::new(Self::binary()).arg("fail-points").output();
        let told = told.expect("the bridge can be started");
        assert!(
            told.status.success(),
            "this gangway has no fail points: run `cargo build -p gangway --features fail-points`"
        );
        let text = String::from_utf8(told.stdout).expect("names are text");
        text.lines().filter_map(|line| Some(line.split_once('\t')?.0.to_owned())).collect()
    }

    /// Lets the process that is started next die at a fail point: `pod.bound`, or `pod.bound:3` for the
    /// third time.
    pub fn arm(&mut self, at: &str) {
        self.armed = Some(at.to_owned());
    }

    /// The fail points that its processes have passed.
    pub fn passed(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.passed_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn passed_file(&self) -> PathBuf {
        self.directory.join("passed")
    }

    /// Waits until it has died at the fail point at which it was to.
    pub async fn dies(&mut self, at: &str) {
        // It stays ours until it has ended: whoever gives up ends it.
        let ended = wait(&format!("the bridge dies at {at}"), SOON, async || {
            let child = self.child.as_mut().expect("a bridge that runs");
            child.try_wait().ok().flatten().ok_or_else(|| self.tail(5))
        })
        .await;
        self.child = None;
        // SIGABRT, which nothing else of it ever raises.
        assert_eq!(ended.signal(), Some(6), "{at}: {ended:?}\n{}", self.tail(20));
    }

    /// SIGKILL, as a crash would be.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Either fails only where it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops its clock (SIGSTOP) or lets it go on (SIGCONT).
    pub fn freeze(&self, frozen: bool) {
        let id = self.child.as_ref().expect("a bridge that runs").id();
        signal(id, if frozen { "STOP" } else { "CONT" });
    }

    /// Waits until it has ended by itself, and how.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("a bridge that runs");
        let ended = wait("the bridge ends by itself", within, async || {
            child.try_wait().ok().flatten().ok_or_else(|| "it runs".to_owned())
        });
        ended.await
    }

    /// SIGTERM, and how it ended.
    pub async fn stop(&mut self, within: Duration) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        signal(child.id(), "TERM");
        let ended = wait("the bridge ends after SIGTERM", within, async || {
            child.try_wait().ok().flatten().ok_or_else(|| "it runs".to_owned())
        });
        Some(ended.await)
    }

    /// Sum of all series of a metric.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = http::get(self.metrics, "/metrics").await.expect("/metrics answers");
        let own =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values = text.lines().filter(own).filter_map(|line| line.rsplit_once(' '));
        values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }

    /// Requests to slurmrestd that are about one gang: all but those of the poller.
    pub async fn requests(&self) -> f64 {
        let all = self.metric("gangway_slurm_requests_total").await;
        let (_, text) = http::get(self.metrics, "/metrics").await.expect("/metrics answers");
        let polls = text.lines().filter(|line| {
            line.starts_with("gangway_slurm_requests_total{endpoint=\"jobs/state\"")
                || line.starts_with("gangway_slurm_requests_total{endpoint=\"jobs\"")
                || line.starts_with("gangway_slurm_requests_total{endpoint=\"ping\"")
                || line.starts_with("gangway_slurm_requests_total{endpoint=\"diag\"")
        });
        let polls = polls.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        all - polls.sum::<f64>()
    }

    /// The end of its log.
    pub fn tail(&self, lines: usize) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        let mut out = String::new();
        for line in &all[all.len().saturating_sub(lines)..] {
            let short: String = line.chars().take(600).collect();
            writeln!(out, "    {short}").expect("a String takes everything");
        }
        out
    }

    /// Takes its files away.
    pub fn clear(&self) {
        // What cannot be removed is in the temporary directory.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process of ours. The shell's own `kill` is always there.
pub(crate) fn signal(id: u32, signal: &str) {
    let told = Command::new("sh").args(["-c", &format!("kill -{signal} {id}")]).status();
    assert!(told.is_ok_and(|status| status.success()), "process {id} cannot be told {signal}");
}
