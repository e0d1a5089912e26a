//! A stock kube-scheduler and `gangway extender` beside it, of the story's own.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::bridge::{Bridge, signal};
use crate::http;
use crate::story::Story;
use crate::wait::{SOON, wait};

/// The profile of the pods that it schedules.
const PROFILE: &str = "gangway-extended";

/// What may differ.
#[derive(Clone, Debug)]
pub struct Terms {
    /// kube-scheduler sends names (true) or whole nodes (false).
    pub node_cache_capable: bool,
    /// How long it may leave an allocation untaken.
    pub take_up_seconds: u32,
    /// Further YAML for the extender's configuration file.
    pub more: String,
    /// How kube-scheduler reaches the extender, and what else it needs for it.
    pub scheme: &'static str,
    /// `tlsConfig` of kube-scheduler's extender.
    pub tls: Value,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            node_cache_capable: true,
            take_up_seconds: 300,
            more: String::new(),
            scheme: "http",
            tls: Value::Null,
        }
    }
}

/// Both processes, each started and ended at will.
#[derive(Debug)]
pub struct KubeScheduler {
    /// The extender's port for kube-scheduler.
    pub http: u16,
    metrics: u16,
    health: u16,
    directory: PathBuf,
    binary: PathBuf,
    kubeconfig: PathBuf,
    extender: Option<Child>,
    scheduler: Option<Child>,
    /// Where the next extender dies.
    armed: Option<String>,
}

impl KubeScheduler {
    /// Starts both.
    pub async fn begin(story: &Story, terms: &Terms) -> Self {
        let directory = story.bridge.directory().join("kube-scheduler");
        fs::create_dir_all(&directory).expect("the temporary directory can be written");
        let binary = story.world.binary("kube-scheduler");
        assert!(
            binary.exists(),
            "this world has no kube-scheduler: cargo xtask world up --kube-scheduler"
        );
        let [http, metrics, health] = [(); 3].map(|()| http::free_port());
        let mut this = Self {
            http,
            metrics,
            health,
            binary,
            kubeconfig: story.world.extender_kubeconfig(),
            extender: None,
            scheduler: None,
            armed: None,
            directory,
        };
        let extender = format!(
            "cluster: {}\nschedulerName: {PROFILE}\ntakeUpSeconds: {}\n\
             listen: {{ http: '127.0.0.1:{http}', metrics: '127.0.0.1:{metrics}', health: '127.0.0.1:{health}' }}\n{}",
            story.cluster,
            terms.take_up_seconds,
            if terms.more.is_empty() {
                format!("door: {{ url: 'http://127.0.0.1:{}' }}\n", story.bridge.grpc)
            } else {
                terms.more.clone()
            },
        );
        this.write("extender.yaml", &extender);
        let config = configuration(&story.world.kubeconfig(), http, terms);
        this.write("kube-scheduler.yaml", &config);
        this.start_extender().await;
        this.start_scheduler();
        this
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.join(name), text).expect("the temporary directory can be written");
    }

    fn spawn(&self, name: &str, command: &mut Command) -> Child {
        let log = self.directory.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).expect("a log");
        command.env_remove("KUBECONFIG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().unwrap_or_else(|error| unreachable!("{name} cannot be started: {error}"))
    }

    /// Starts the extender, which runs not yet, and waits until it is ready.
    pub async fn start_extender(&mut self) {
        self.spawn_extender();
        wait("the extender is ready", SOON, async || {
            match http::get(self.health, "/readyz").await {
                Some((200, _)) => Ok(()),
                other => Err(format!("{other:?}: {}", self.tail("extender", 5))),
            }
        })
        .await;
    }

    /// Starts the extender; it need not become ready.
    pub fn spawn_extender(&mut self) {
        assert!(self.extender.is_none(), "it runs already");
        let mut command = Command::new(Bridge::binary());
        for name in ["GANGWAY_EXTENDER_CONFIG", "GANGWAY_DOOR_URL"] {
            command.env_remove(name);
        }
        command.arg("extender").arg("--config").arg(self.directory.join("extender.yaml"));
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(["--log", "info,gangway=debug"]);
        command.envs(self.armed.take().map(|at| ("GANGWAY_CRASH_AT", at)));
        self.extender = Some(self.spawn("extender", &mut command));
    }

    /// Starts kube-scheduler, which runs not yet.
    pub fn start_scheduler(&mut self) {
        assert!(self.scheduler.is_none(), "it runs already");
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(self.directory.join("kube-scheduler.yaml"));
        command.args(["--secure-port=0", "--authentication-skip-lookup=true", "-v=3"]);
        self.scheduler = Some(self.spawn("kube-scheduler", &mut command));
    }

    /// SIGKILL for the extender, as a crash would be.
    pub fn kill_extender(&mut self) {
        kill(self.extender.take());
    }

    /// Lets the extender that is started next die at a fail point.
    pub fn arm_extender(&mut self, at: &str) {
        self.armed = Some(at.to_owned());
    }

    /// Waits until the extender has died at the fail point at which it was to.
    pub async fn extender_dies(&mut self, at: &str) {
        let ended = wait(&format!("the extender dies at {at}"), SOON, async || {
            let child = self.extender.as_mut().expect("an extender that runs");
            child.try_wait().ok().flatten().ok_or_else(|| "it runs".to_owned())
        })
        .await;
        self.extender = None;
        // SIGABRT, which nothing else of it ever raises.
        assert_eq!(ended.signal(), Some(6), "{at}: {ended:?}\n{}", self.tail("extender", 20));
    }

    /// SIGKILL for kube-scheduler.
    pub fn kill_scheduler(&mut self) {
        kill(self.scheduler.take());
    }

    /// What /readyz of the extender says.
    pub async fn readyz(&self) -> Option<(u16, String)> {
        http::get(self.health, "/readyz").await
    }

    /// One series of the extender's metrics, by everything before its value.
    pub async fn series(&self, series: &str) -> f64 {
        let (_, text) = http::get(self.metrics, "/metrics").await.expect("/metrics answers");
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    /// A pod template for its profile.
    pub fn template(template: &Value) -> Value {
        let mut template = template.clone();
        template["spec"]["schedulerName"] = json!(PROFILE);
        template
    }

    /// The end of a log.
    pub fn tail(&self, name: &str, lines: usize) -> String {
        let log = fs::read_to_string(self.directory.join(format!("{name}.log")));
        let log = log.unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n    ")
    }

    /// Ends the story and then both processes; the extender must end well by itself.
    pub async fn end(mut self, story: Story) {
        // The bridge's directory goes with the story, and both write into it.
        let _keep = self.extender.as_ref().expect("the extender runs");
        story.end().await;
        kill(self.scheduler.take());
        let mut child = self.extender.take().expect("the extender runs");
        signal(child.id(), "TERM");
        let ended = wait("the extender ends after SIGTERM", Duration::from_secs(15), async || {
            child.try_wait().ok().flatten().ok_or_else(|| "it runs".to_owned())
        });
        assert!(ended.await.success(), "the extender did not end well");
    }
}

/// The page that people copy their configuration from.
const PAGE: &str = include_str!("../../docs/reference/extender.md");

/// The configuration of that page, with this world's addresses.
fn configuration(kubeconfig: &Path, http: u16, terms: &Terms) -> String {
    let begin = PAGE.find("apiVersion: kubescheduler").expect("the page shows a configuration");
    let (config, _) = PAGE[begin..].split_once("```").expect("the block ends");
    let mut config = config.to_owned();
    let mut put = |theirs: &str, ours: String| {
        assert!(config.contains(theirs), "the page says {theirs}");
        config = config.replace(theirs, &ours);
    };
    put("/etc/kubernetes/scheduler.conf", kubeconfig.display().to_string());
    put("http://127.0.0.1:8888", format!("{}://127.0.0.1:{http}", terms.scheme));
    let capable = "nodeCacheCapable: ";
    put(&format!("{capable}true"), format!("{capable}{}", terms.node_cache_capable));
    if !terms.tls.is_null() {
        let tls = format!("enableHTTPS: true\n    tlsConfig: {}\n    ignorable", terms.tls);
        put("ignorable", tls);
    }
    config
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        // Either fails only where it has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for KubeScheduler {
    /// A story that broke off leaves nothing running, and shows what both said last.
    #[expect(clippy::print_stdout, reason = "a test talks to a person")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["extender", "kube-scheduler"] {
                println!("{name} said last:\n    {}", self.tail(name, 40));
            }
        }
        kill(self.scheduler.take());
        kill(self.extender.take());
    }
}
