//! What a person or a test uses to get at a world: the env file, the command wrappers, the bridge's configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::kubelets;
use super::ports::Ports;
use crate::cache::containers::IMAGE;
use crate::cache::{self, Parts};

/// Slurm's own commands that work from outside, by name.
const COMMANDS: [&str; 10] = [
    "squeue", "sbatch", "srun", "salloc", "scontrol", "scancel", "sacct", "sacctmgr", "sinfo",
    "sprio",
];

/// Writes `bin/`, `gangway.yaml`, the token and `env`.
pub(crate) fn write(world: &Path, parts: &Parts, ports: Ports, token: &str) -> Result<()> {
    let bin = world.join("bin");
    fs::create_dir_all(&bin)?;
    script(&bin.join("in-slurm"), &enter(world))?;
    let inside = bin.join("in-slurm");
    let inside = inside.display();
    for name in COMMANDS {
        script(&bin.join(name), &format!("exec '{inside}' {name} \"$@\""))?;
    }
    // The repository is at /mnt/repo there, this world at /mnt/world.
    let python =
        format!("cd_to=/mnt/repo exec '{inside}' env PYTHONDONTWRITEBYTECODE=1 python3 \"$@\"");
    script(&bin.join("root-python3"), &python)?;
    let daemon = format!("exec '{inside}' sh /mnt/world/slurm/daemon.sh \"$@\"");
    script(&bin.join("slurm-daemon"), &daemon)?;
    let kubectl = bin.join("kubectl");
    let _ = fs::remove_file(&kubectl);
    std::os::unix::fs::symlink(parts.bin.join("kubectl"), kubectl)?;

    let secret = world.join("slurm.token");
    fs::write(&secret, token)?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    fs::write(world.join("gangway.yaml"), bridge_config(world, ports))?;

    let file = |name: &str| world.join(name).display().to_string();
    let rest = format!("http://127.0.0.1:{}", ports.port("slurmrestd"));
    let env = env_lines(&[
        ("KUBECONFIG", &file("kubernetes/kubeconfig")),
        ("GANGWAY_KUBECONFIG", &file("kubernetes/gangway.kubeconfig")),
        ("GANGWAY_CONTROLLERS_KUBECONFIG", &file("kubernetes/controllers.kubeconfig")),
        ("GANGWAY_ADMISSION_KUBECONFIG", &file("kubernetes/admission.kubeconfig")),
        ("GANGWAY_CERTIFICATES_KUBECONFIG", &file("kubernetes/certificates.kubeconfig")),
        ("GANGWAY_EXTENDER_KUBECONFIG", &file("kubernetes/extender.kubeconfig")),
        ("GANGWAY_SINK_PORT", &ports.port("sink").to_string()),
        ("SLURM_REST_URL", &rest),
        ("SLURM_TOKEN_FILE", &file("slurm.token")),
        ("SLURM_CONF", &file("slurm/etc/slurm/slurm.conf")),
        ("GANGWAY_WORLD_DIR", &world.display().to_string()),
        ("GANGWAY_CONFIG", &file("gangway.yaml")),
    ]);
    let path = format!("export PATH='{}':\"$PATH\"\n", bin.display());
    fs::write(world.join("env"), env + &path).context("cannot write the env file")
}

/// Puts a kube-scheduler into `bin/`, built first where the cache has none.
pub(crate) fn kube_scheduler(world: &Path) -> Result<()> {
    let link = world.join("bin/kube-scheduler");
    let _ = fs::remove_file(&link);
    let built = cache::binaries::kube_scheduler()?.join("kube-scheduler");
    std::os::unix::fs::symlink(built, link).context("cannot link kube-scheduler")
}

/// Says which hosts have a kubelet and what runs there, and makes a command that enters the place where it does.
pub(crate) fn kubelets(world: &Path, hosts: &[String]) -> Result<()> {
    let bin = world.join("bin");
    let inside = kubelets::inside("$0", "\"$@\"");
    let body = format!(
        "# Runs a command where the kubelet of a host lives: on-host NAME COMMAND...\n\
         exec '{}' sh -c 'exec {inside}' \"$@\"",
        bin.join("in-slurm").display()
    );
    script(&bin.join("on-host"), &body)?;
    add(world, &[("GANGWAY_KUBELETS", &hosts.join(" ")), ("GANGWAY_POD_IMAGE", IMAGE)])
}

/// Sets variables in the env file.
pub(crate) fn add(world: &Path, variables: &[(&str, &str)]) -> Result<()> {
    let env = world.join("env");
    let mut text = fs::read_to_string(&env)?;
    for (key, _) in variables {
        let old = format!("export {key}=");
        let kept = text.lines().filter(|line| !line.starts_with(&old));
        text = kept.map(|line| format!("{line}\n")).collect();
    }
    fs::write(&env, text + &env_lines(variables)).context("cannot write the env file")
}

/// Makes an executable shell script.
pub(crate) fn script(path: &Path, body: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{body}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn env_lines(variables: &[(&str, &str)]) -> String {
    variables.iter().map(|(key, value)| format!("export {key}='{value}'\n")).collect()
}

/// Enters the Slurm host as the user in SLURM_AS, in that user's home.
fn enter(world: &Path) -> String {
    format!(
        "# Runs a command inside this world's Slurm host, as root or as the user in SLURM_AS.\n\
         read -r pid < '{world}/slurm/init.pid' || {{ echo 'this world is not up' >&2; exit 1; }}\n\
         user=${{SLURM_AS:-root}} home=/home/${{SLURM_AS:-root}}\n\
         case $user in\n\
         root) id=0 home=/root ;;\n\
         alice) id=5001 ;;\n\
         bob) id=5002 ;;\n\
         *) echo \"SLURM_AS=$user: nobody is called that here\" >&2; exit 2 ;;\n\
         esac\n\
         # The caller's SLURM_CONF names a path outside; in here it is the usual place.\n\
         unset SLURM_CONF\n\
         export HOME=$home USER=$user LOGNAME=$user LC_ALL=C.UTF-8\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         export cd_to=\"${{cd_to:-$home}}\"\n\
         exec /usr/bin/nsenter -m -u -p -t \"$pid\" -S $id -G $id -- \
         /bin/sh -c 'cd \"$cd_to\" && unset cd_to && exec \"$@\"' sh \"$@\"",
        world = world.display()
    )
}

fn bridge_config(world: &Path, ports: Ports) -> String {
    let port = |name| ports.port(name);
    format!(
        "cluster: world\n\
         slurm: {{ url: \"http://127.0.0.1:{}\", tokenFile: \"{}/slurm.token\" }}\n\
         policy:\n  defaultPartition: gangway\n  identities:\n    \
         - {{ namespace: \"*\", user: alice, group: alice, account: team1 }}\n\
         listen: {{ grpc: \"127.0.0.1:{}\", metrics: \"127.0.0.1:{}\", health: \"127.0.0.1:{}\" }}\n",
        port("slurmrestd"),
        world.display(),
        port("grpc"),
        port("metrics"),
        port("health"),
    )
}
