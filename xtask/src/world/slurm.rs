//! Slurm itself: its configuration and its daemons, in the order they need each other.

use std::fs;
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, Result};

use super::host::{Host, PEOPLE};
use super::ports::Ports;
use crate::process::ask;

const SLURM_CONF: &str = include_str!("../../../manifests/world/slurm.conf");
const PROLOG: &str = include_str!("../../../manifests/world/prolog.sh");
const GRES_CONF: &str = include_str!("../../../manifests/world/gres.conf");
const TOPOLOGY_YAML: &str = include_str!("../../../manifests/world/topology.yaml");
const SLURMDBD_CONF: &str = include_str!("../../../manifests/world/slurmdbd.conf");
const MY_CNF: &str = include_str!("../../../manifests/world/my.cnf");

/// The nodes that have a slurmd: four that run jobs, and the sink.
pub(crate) const SLURMDS: [&str; 5] = ["h1", "h2", "h3", "h4", "sink"];

/// Writes configuration and keys.
pub(crate) fn configure(host: &Host, ports: Ports) -> Result<()> {
    host.file("etc/slurm/slurm.conf", ports.fill(SLURM_CONF), "root")?;
    host.file("etc/slurm/gres.conf", GRES_CONF, "root")?;
    host.file("etc/slurm/topology.yaml", TOPOLOGY_YAML, "root")?;
    host.script("etc/slurm/prolog.sh", PROLOG)?;
    host.file("etc/slurm/cgroup.conf", "CgroupPlugin=disabled\n", "root")?;
    host.file("etc/slurm/slurmdbd.conf", ports.fill(SLURMDBD_CONF), "slurm")?;
    host.file("etc/slurm/my.cnf", ports.fill(MY_CNF), "root")?;
    host.file("etc/slurm/jwt.key", random(32)?, "slurm")?;
    host.file("etc/munge/munge.key", random(128)?, "munge")
}

/// munge, MariaDB and slurmdbd.
pub(crate) fn start_accounting(host: &Host, ports: Ports) -> Result<()> {
    let munged = "exec setpriv --reuid munge --regid munge --clear-groups munged --foreground";
    host.start("munged", munged)?;
    host.start("mariadbd", "exec mariadbd --defaults-file=/etc/slurm/my.cnf")?;
    let socket = host.base().join("run/munge/munge.socket.2");
    host.wait("munged", 10, || socket.exists())?;
    host.wait("mariadbd", 60, || open(ports.port("mariadb")))?;
    host.start("slurmdbd", "exec setpriv --reuid slurm --regid slurm --clear-groups slurmdbd -D")?;
    host.wait("slurmdbd", 60, || open(ports.port("slurmdbd")))
}

/// The database and what Slurm must know in it: cluster, accounts, users. Done once, for the seed.
pub(crate) fn create_accounts(host: &Host) -> Result<()> {
    let manager = |line: String| -> Result<()> {
        let words: Vec<&str> = ["sacctmgr", "-i"].into_iter().chain(line.split(' ')).collect();
        host.ask(&words).map(drop)
    };
    manager("add cluster world".to_owned())?;
    for account in ["team1", "team2"] {
        manager(format!("add account {account} cluster=world"))?;
    }
    for ((name, _), account) in PEOPLE.iter().zip(["team1", "team2"]) {
        manager(format!("add user {name} account={account}"))?;
    }
    manager("add user slurm account=root adminlevel=admin".to_owned())
}

/// Makes an empty database directory with Slurm's own database user. slurmdbd makes the tables.
pub(crate) fn create_database(host: &Host, ports: Ports) -> Result<()> {
    host.ask(&[
        "mariadb-install-db",
        "--defaults-file=/etc/slurm/my.cnf",
        "--user=mysql",
        "--skip-test-db",
        "--auth-root-authentication-method=normal",
    ])?;
    host.start("mariadbd", "exec mariadbd --defaults-file=/etc/slurm/my.cnf")?;
    host.wait("mariadbd", 60, || open(ports.port("mariadb")))?;
    let sql = "create database slurm_acct_db; \
        create user slurm@'127.0.0.1' identified by 'slurm'; \
        grant all on slurm_acct_db.* to slurm@'127.0.0.1';";
    host.ask(&["mariadb", "--defaults-file=/etc/slurm/my.cnf", "-u", "root", "-e", sql]).map(drop)
}

/// The controller, the nodes and the REST server; waits until the controller answers and every node is there.
pub(crate) fn start(host: &Host, ports: Ports) -> Result<()> {
    host.start(
        "slurmctld",
        "exec setpriv --reuid slurm --regid slurm --clear-groups slurmctld -D",
    )?;
    for node in SLURMDS {
        host.start(&format!("slurmd-{node}"), &format!("exec slurmd -D -N {node}"))?;
    }
    // slurmrestd must be nobody special: as Slurm's own user it would refuse to start.
    let rest = format!(
        "export SLURM_JWT=daemon\nexec setpriv --reuid 65534 --regid 65534 --clear-groups slurmrestd \
         -a rest_auth/jwt -s openapi/slurmctld,openapi/slurmdbd -d v0.0.44,v0.0.45 -t 8 127.0.0.1:{}",
        ports.port("slurmrestd")
    );
    host.start("slurmrestd", &rest)?;
    host.wait("slurmctld", 60, || open(ports.port("slurmctld")))?;
    host.wait("slurmrestd", 30, || open(ports.port("slurmrestd")))
}

/// Waits until every slurmd has registered.
pub(crate) fn wait_for_nodes(host: &Host) -> Result<()> {
    host.wait("slurmctld", 60, || {
        let nodes = host.ask(&["sinfo", "-h", "-N", "-o", "%N %T", "-n", "h1,h2,h3,h4"]);
        nodes.is_ok_and(|said| said.lines().filter(|line| line.ends_with(" idle")).count() == 4)
    })
}

/// A token of Slurm's own user, for the bridge.
pub(crate) fn token(host: &Host) -> Result<String> {
    let said = host.ask(&["scontrol", "token", "username=slurm", "lifespan=31536000"])?;
    let token = said.trim().strip_prefix("SLURM_JWT=").context("scontrol printed no token")?;
    Ok(token.to_owned())
}

/// Registers the EXTERNAL nodes; the last two can be asked for as a partition of their own.
pub(crate) fn register(host: &Host, ports: Ports, names: &[String]) -> Result<()> {
    let devices = |name: &str, count: usize| {
        (0..count).map(|i| format!(",file={name}{i}")).collect::<String>()
    };
    let gres = format!(
        "count=8,name=gpu,type=h100{}+count=32,name=efa{}",
        devices("gpu", 8),
        devices("efa", 32)
    );
    let spare = names.len().saturating_sub(2);
    // One process reads all lines: a process per node would take ten times as long.
    let lines = names.iter().enumerate().map(|(place, name)| {
        let feature = if place >= spare { "gangway,spare" } else { "gangway" };
        format!(
            "create NodeName={name} NodeAddr=127.0.0.1 Port={} State=EXTERNAL CPUs=192 Sockets=2 \
             CoresPerSocket=96 ThreadsPerCore=1 RealMemory=2000000 Feature={feature} \
             Gres=gpu:h100:8,efa:32 GresConf=\"{gres}\"\n",
            ports.port("sink")
        )
    });
    let said = ask(&mut host.enter(&["scontrol"]), &lines.collect::<String>())?;
    let known = host.ask(&["sinfo", "-h", "-N", "-o", "%N", "-p", "gangway"])?;
    if known.lines().count() != names.len() {
        anyhow::bail!("Slurm did not take every EXTERNAL node: {said}");
    }
    Ok(())
}

/// Something listens on this port.
pub(crate) fn open(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Bytes that nobody can guess.
pub(crate) fn random(count: usize) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = vec![0; count];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Copies the seed's database into the host.
pub(crate) fn plant_database(host: &Host, seed: &Path) -> Result<()> {
    let target = host.base().join("var/lib");
    let mut copy = std::process::Command::new("cp");
    copy.args(["-a", "--reflink=auto", "--sparse=always"]).arg(seed.join("mysql")).arg(target);
    ask(&mut copy, "").map(drop)
}
