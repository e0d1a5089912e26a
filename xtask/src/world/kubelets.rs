//! Real kubelets on the first of the hosts that run slurmd: what is bound there runs in containers, beside the
//! processes of batch jobs. Each has its own containerd, cgroups and pod network, and lives inside the Slurm host.
//!
//! It must leave the machine as it is: no rule of the firewall, no kernel setting, no bridge; what it needs of these it
//! finds faked (`kubelet-host.sh`). Pods have a network of their own each and reach this machine, not each other.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::cgroups;
use super::host::Host;
use super::kubernetes::Kubernetes;
use super::ports::Ports;
use crate::cache::KubeletParts;
use crate::cache::containers::IMAGE;

/// How many hosts there are.
pub(crate) const MOST: usize = 4;

const CONFIG: &str = include_str!("../../../manifests/world/kubelet.yaml");
const CONTAINERD: &str = include_str!("../../../manifests/world/containerd.toml");
const CNI: &str = include_str!("../../../manifests/world/cni.json");
const NEST: &str = include_str!("../../../manifests/world/kubelet-host.sh");

/// Where Debian's programs are, inside.
const PATH: &str = "/opt/usr/bin:/opt/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The kubelets that a world is to have.
pub(crate) struct Kubelets {
    pub(crate) parts: KubeletParts,
    pub(crate) hosts: Vec<String>,
}

impl Kubelets {
    /// On the first `count` hosts.
    pub(crate) fn on(count: usize, parts: KubeletParts) -> Self {
        Self { parts, hosts: (1..=count).map(|number| format!("h{number}")).collect() }
    }

    /// Makes each host's place and starts its containerd. The Slurm host must be up, nothing else need be.
    pub(crate) fn prepare(&self, world: &Path, host: &Host, ports: Ports) -> Result<()> {
        let home = world.join("kubelets");
        fs::create_dir_all(&home)?;
        fs::write(home.join("kubelet-host.sh"), NEST)?;
        for name in &self.hosts {
            cgroups::make(world, name)?;
            configure(world, ports, name)?;
            let place = format!("host-{name}");
            let nest =
                "exec unshare --mount --propagation private sh /mnt/world/kubelets/kubelet-host.sh";
            host.start(&place, &format!("{nest} {name}"))?;
            let ready = home.join(name).join("ready");
            host.wait(&place, 10, || ready.exists())?;
            let config = format!("/mnt/world/kubelets/{name}/containerd.toml");
            let words = format!("containerd --log-level warn --config {config}");
            host.start(&format!("containerd-{name}"), &format!("exec {}", inside(name, &words)))?;
        }
        Ok(())
    }

    /// Loads the image, starts the kubelets and waits until their nodes are ready. Kubernetes must be up.
    pub(crate) fn start(&self, host: &Host, kubernetes: &Kubernetes<'_>) -> Result<()> {
        fs::copy(
            kubernetes.parts.seed.join("tls.crt"),
            host.base().with_file_name("kubelets/client.crt"),
        )?;
        for name in &self.hosts {
            let containerd = format!("containerd-{name}");
            let image = inside(
                name,
                "ctr -n k8s.io images import --local --snapshotter native /opt/image.tar",
            );
            host.wait(&containerd, 30, || {
                host.ask(&["sh", "-c", &inside(name, "ctr version")]).is_ok()
            })?;
            host.ask(&["sh", "-c", &image])?;
            let kubelet = format!(
                "/opt/kubelet/kubelet --config=/mnt/world/kubelets/{name}/kubelet.yaml \
                 --kubeconfig=/mnt/world/kubernetes/{name}.kubeconfig --hostname-override={name} \
                 --cloud-provider=external"
            );
            host.start(&format!("kubelet-{name}"), &format!("exec {}", inside(name, &kubelet)))?;
        }
        for name in &self.hosts {
            host.wait(&format!("kubelet-{name}"), 60, || kubernetes.ready(name))?;
        }
        Ok(())
    }
}

/// The files of a host's kubelet, its containerd and its pods' network.
fn configure(world: &Path, ports: Ports, name: &str) -> Result<()> {
    let own = world.join("kubelets").join(name);
    fs::create_dir_all(own.join("cni"))?;
    let fill = |text: &str| {
        text.replace("{name}", name)
            .replace("{image}", IMAGE)
            .replace("{port}", &ports.port(&format!("kubelet-{name}")).to_string())
            .replace("{cgroup}", &cgroups::of(world, name))
            .replace("{subnet}", &subnet(ports.block(), name))
    };
    fs::write(own.join("kubelet.yaml"), fill(CONFIG))?;
    fs::write(own.join("containerd.toml"), fill(CONTAINERD))?;
    fs::write(own.join("cni/world.conflist"), fill(CNI))?;
    Ok(())
}

/// The hosts of a world that were given a kubelet.
pub(crate) fn hosts(world: &Path) -> Vec<String> {
    let entries = fs::read_dir(world.join("slurm/daemons")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_prefix("kubelet-").map(str::to_owned)).collect()
}

/// A command line that runs where the kubelet of a host lives.
pub(crate) fn inside(name: &str, line: &str) -> String {
    format!("nsenter --mount --target $(cat /run/world/host-{name}.pid) env PATH={PATH} {line}")
}

/// Addresses for the pods of one host, that no other host of any world has: addresses that providers use among
/// themselves, so that no network of this machine's is likely to have them.
fn subnet(block: u16, name: &str) -> String {
    let number: u16 = name.trim_start_matches('h').parse().unwrap_or(1);
    let place = block * 4 + number - 1;
    format!("100.{}.{}.0/24", 64 + place / 256, place % 256)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_hosts_of_any_worlds_share_an_address() {
        let hosts = ["h1", "h2", "h3", "h4"];
        let blocks = 0..super::super::ports::BLOCKS;
        let all = blocks.flat_map(|block| hosts.map(|name| subnet(block, name)));
        let all: Vec<String> = all.collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        // The range ends at 100.127.
        assert!(all.last().is_some_and(|last| last.starts_with("100.69.")), "{:?}", all.last());
    }
}
