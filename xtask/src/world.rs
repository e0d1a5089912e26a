//! A world: a real Slurm and a real Kubernetes on loopback, in one directory, as many side by side as fit.

pub(crate) mod bridge;
mod cgroups;
pub(crate) mod daemons;
pub(crate) mod doors;
pub(crate) mod host;
mod kinds;
pub(crate) mod kubelets;
pub(crate) mod kubernetes;
pub(crate) mod ports;
pub(crate) mod slurm;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::daemons::Daemons;
use self::host::Host;
use self::kubelets::Kubelets;
use self::kubernetes::Kubernetes;
use self::ports::Ports;
use crate::cache::{self, Parts, remove_tree};
use crate::process::wait_for;
use crate::progress::{minutes, say, step};

/// The environment variable that says whose daemon a process is.
pub(crate) const MARKER: &str = "GANGWAY_WORLD_DAEMON";

/// Data that a stopped world does not need any more; logs and configuration stay to be read.
const DATA: [&str; 4] = ["slurm", "kubernetes", "kubelets", "bin"];

/// How many p5 nodes a world has unless asked.
const NODES: usize = 16;

/// What `world up` is asked for.
pub(crate) struct Wish {
    pub(crate) dir: PathBuf,
    /// How many p5 nodes; whatever is there, or sixteen.
    pub(crate) nodes: Option<usize>,
    pub(crate) bridge: bool,
    /// Also the controllers of JobSet and LeaderWorkerSet, and the kinds whose pods stories make.
    pub(crate) kinds: bool,
    /// Whether a kube-scheduler is to be had in it.
    pub(crate) kube_scheduler: bool,
    /// How many of its hosts have a kubelet, so that pods really run there.
    pub(crate) kubelets: usize,
}

impl Wish {
    /// The least: Slurm and Kubernetes in this directory.
    pub(crate) fn of(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { dir, nodes: None, bridge: false, kinds: false, kube_scheduler: false, kubelets: 0 }
    }
}

/// The root of this repository.
pub(crate) fn repo() -> Result<PathBuf> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let top = here.parent().context("xtask is not in a repository")?;
    top.canonicalize().with_context(|| format!("cannot find {}", top.display()))
}

/// Brings a world up; one that is up and whole already is left as it is.
pub(crate) fn up(wish: &Wish) -> Result<()> {
    cache::root::need_root()?;
    let began = Instant::now();
    fs::create_dir_all(&wish.dir)?;
    let dir = wish.dir.canonicalize()?;
    let _lock = lock(&dir)?;
    if dir.join("env").exists() && whole(&dir) {
        return stay(&dir, wish);
    }
    clear(&dir, true)?;
    let parts = cache::parts()?;
    let controllers = wish.kinds.then(cache::binaries::controllers).transpose()?;
    let kubelets = match wish.kubelets {
        0 => None,
        count => Some(Kubelets::on(count, cache::kubelet_parts(&parts)?)),
    };
    let raised =
        step("bringing the world up", || raise(&dir, &parts, controllers, kubelets.as_ref(), wish));
    if let Err(error) = raised {
        // Nothing half-alive stays behind, but the logs do.
        clear(&dir, false)?;
        return Err(error);
    }
    say(&format!("the world is up after {}", minutes(began.elapsed())));
    println!("\n    source {}\n", dir.join("env").display());
    Ok(())
}

/// A world that is up gets only what it lacks.
fn stay(dir: &Path, wish: &Wish) -> Result<()> {
    let nodes = fs::read_to_string(dir.join("nodes")).unwrap_or_default();
    if wish.nodes.is_some_and(|wanted| nodes != wanted.to_string()) {
        bail!("the world in {} has {nodes} nodes; take it down first", dir.display());
    }
    if wish.kube_scheduler {
        doors::kube_scheduler(dir)?;
    }
    if wish.kinds && Daemons::of(dir).recorded().iter().all(|(name, _)| name != "jobset") {
        bail!("the world in {} was brought up without --kinds; take it down first", dir.display());
    }
    let kubelets = kubelets::hosts(dir).len();
    if wish.kubelets != 0 && kubelets != wish.kubelets {
        bail!("the world in {} has {kubelets} kubelets; take it down first", dir.display());
    }
    if wish.bridge && !bridge::find(dir).is_some_and(|(_, runs)| runs) {
        timed("Gangway", || bridge::start(dir, Ports::of(dir)?))?;
    }
    say(&format!("this world is up already; source {}", dir.join("env").display()));
    Ok(())
}

fn raise(
    dir: &Path,
    parts: &Parts,
    controllers: Option<PathBuf>,
    kubelets: Option<&Kubelets>,
    wish: &Wish,
) -> Result<()> {
    fs::create_dir_all(dir.join("logs"))?;
    let ports = Ports::claim(dir)?;
    let daemons = Daemons::of(dir);
    let count = wish.nodes.unwrap_or(NODES);
    let nodes: Vec<String> = (1..=count).map(|i| format!("p5-{i:04}")).collect();
    let kubernetes = Kubernetes {
        world: dir,
        parts,
        controllers,
        kubelets: kubelets.map_or(&[], |kubelets| &kubelets.hosts),
        ports,
        daemons: &daemons,
    };
    let host = std::thread::scope(|scope| -> Result<Host> {
        let kubernetes = scope.spawn(|| timed("Kubernetes", || kubernetes.up(&nodes)));
        let slurm = timed("Slurm", || raise_slurm(dir, parts, kubelets, ports, &daemons, &nodes));
        let kubernetes = kubernetes.join();
        let host = slurm?;
        kubernetes.map_err(|_| anyhow::anyhow!("bringing up Kubernetes panicked"))??;
        Ok(host)
    })?;
    doors::write(dir, parts, ports, &slurm::token(&host)?)?;
    if let Some(kubelets) = kubelets {
        timed("every kubelet", || kubelets.start(&host, &kubernetes))?;
        doors::kubelets(dir, &kubelets.hosts)?;
    }
    if wish.kube_scheduler {
        doors::kube_scheduler(dir)?;
    }
    if wish.bridge {
        timed("Gangway", || bridge::start(dir, ports))?;
    }
    fs::write(dir.join("nodes"), count.to_string()).context("cannot write the world's size")
}

fn raise_slurm(
    dir: &Path,
    parts: &Parts,
    kubelets: Option<&Kubelets>,
    ports: Ports,
    daemons: &Daemons,
    nodes: &[String],
) -> Result<Host> {
    let mut host = Host::prepare(dir, &parts.root)?;
    slurm::configure(&host, ports)?;
    slurm::plant_database(&host, &parts.seed)?;
    let more = kubelets.map(|kubelets| &kubelets.parts);
    let unshare = host.boot((MARKER, &dir.to_string_lossy()), &repo()?, more)?;
    daemons.record("slurm-host", unshare)?;
    if let Some(kubelets) = kubelets {
        kubelets.prepare(dir, &host, ports)?;
    }
    slurm::start_accounting(&host, ports)?;
    slurm::start(&host, ports)?;
    slurm::register(&host, ports, nodes)?;
    slurm::wait_for_nodes(&host)?;
    Ok(host)
}

/// Stops everything of a world and takes its data away. Right for a world that is up, half up, or not there.
pub(crate) fn down(dir: &Path) -> Result<()> {
    if !dir.exists() {
        say(&format!("no world in {}", dir.display()));
        return Ok(());
    }
    let dir = dir.canonicalize()?;
    let _lock = lock(&dir)?;
    clear(&dir, false)?;
    say(&format!("the world in {} is down", dir.display()));
    Ok(())
}

fn clear(dir: &Path, logs_too: bool) -> Result<()> {
    let daemons = Daemons::of(dir);
    daemons.stop_all()?;
    // The kernel ends the Slurm host's processes when its first one is gone; their marks tell when they are.
    if !wait_for(Duration::from_secs(20), || Ok(daemons.marked().is_empty()))? {
        bail!("processes of {} do not end: {:?}", dir.display(), daemons.marked());
    }
    cgroups::remove(dir)?;
    ports::release(dir)?;
    for file in ["env", "nodes", "slurm.token", "gangway.pid"] {
        let _ = fs::remove_file(dir.join(file));
    }
    for data in DATA {
        remove_tree(&dir.join(data))?;
    }
    if logs_too {
        remove_tree(&dir.join("logs"))?;
        for file in ["audit.log", "gangway.log"] {
            let _ = fs::remove_file(dir.join(file));
        }
    }
    Ok(())
}

/// Prints a table of the world's parts; false when one of them is dead.
pub(crate) fn status(dir: &Path) -> Result<bool> {
    if !dir.join("ports").exists() {
        bail!("no world in {}; `cargo xtask world up` makes one", dir.display());
    }
    let dir = dir.canonicalize()?;
    let ports = Ports::of(&dir)?;
    let mut text = format!("{:<26}{:>9}  {:<6}  url\n", "part", "pid", "state");
    let mut well = true;
    let bridge = bridge::find(&dir).map(|(pid, runs)| ("gangway".to_owned(), Some(pid), runs));
    for (name, pid, alive) in table(&dir).into_iter().chain(bridge) {
        well &= alive;
        let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let state = if alive { "up" } else { "dead" };
        let _ = writeln!(text, "{name:<26}{pid:>9}  {state:<6}  {}", url(ports, &name));
    }
    // A reader that has seen enough (`| head`) is no reason to fail.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(well)
}

fn whole(dir: &Path) -> bool {
    table(dir).iter().all(|(_, _, alive)| *alive)
}

/// Every part of the world but the bridge: name, pid, alive.
fn table(dir: &Path) -> Vec<(String, Option<u32>, bool)> {
    let outside = Daemons::of(dir).recorded().into_iter();
    let outside = outside.map(|(name, process)| (name, Some(process.pid), process.alive()));
    let base = dir.join("slurm");
    let inside = fs::read_dir(base.join("daemons")).into_iter().flatten().flatten();
    let mut inside: Vec<String> =
        inside.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    inside.sort();
    let inside = inside.into_iter().map(|name| {
        let pid = host::daemon(&base, &name);
        (name, pid, pid.is_some())
    });
    outside.chain(inside).collect()
}

fn url(ports: Ports, name: &str) -> String {
    let at = |scheme: &str, name: &str| format!("{scheme}://127.0.0.1:{}", ports.port(name));
    match name {
        "kube-apiserver" => at("https", "apiserver"),
        "kube-controller-manager" => at("https", "controller-manager"),
        "training-operator" => at("http", "operator-metrics"),
        "gangway" => format!("{}/readyz", at("http", "health")),
        "etcd" | "kwok" | "slurmrestd" => at("http", name),
        "slurmctld" | "slurmdbd" | "mariadb" => at("tcp", name),
        "mariadbd" => at("tcp", "mariadb"),
        _ if name.starts_with("kubelet-") => at("https", name),
        _ => name.strip_prefix("slurmd-").map_or_else(String::new, |node| at("tcp", node)),
    }
}

fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    let result = work()?;
    say(&format!("{what} is up, {}", minutes(began.elapsed())));
    Ok(result)
}

/// Two commands on one world wait for each other. The lock lies beside the directory, which may come and go.
fn lock(dir: &Path) -> Result<File> {
    let lock = File::create(dir.join("lock"))?;
    lock.lock()?;
    Ok(lock)
}
