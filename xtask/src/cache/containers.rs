//! What a host needs to run containers, beside its kubelet: containerd, runc and CNI plugins from Debian forky, and
//! one image made here.
//!
//! Not in the Slurm root, whose recipe would change with it: a plain world does not pay for containers. No root of
//! their own either: unpacked, they run in the Slurm root, which has their libraries. A kubelet shall live where slurmd
//! lives.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::debs::APT;
use super::{log, root};
use crate::process::{leashed, run};
use crate::progress::step;

/// The image of every container in a world, pods' sandboxes included. Nothing pulls it.
pub(crate) const IMAGE: &str = "world.gangway.dev/busybox:1";

const PACKAGES: &str = "containerd runc containernetworking-plugins busybox-static";

/// Unpacks the packages, tries them in the root they will run in, and makes the image. Told nothing else, a container
/// of that image waits until it is asked to stop.
const BUILD: &str = r#"
root=$4 image=$5; shift 5
cd "$place/debs"
apt-get -q download "$@"
for deb in *.deb; do dpkg-deb -x "$deb" "$place"; done
cd "$place"
rm -rf apt debs usr/share
mkdir kubelet

mount --bind "$place" "$root/opt"
for program in containerd containerd-shim-runc-v2 ctr; do chroot "$root" "/opt/usr/bin/$program" -v; done
chroot "$root" /opt/usr/sbin/runc --version
for plugin in loopback ptp host-local; do chroot "$root" "/opt/usr/lib/cni/$plugin" --version; done
umount "$root/opt"

busybox=$(find . -name busybox -type f)
mkdir -p rootfs/bin rootfs/tmp rootfs/etc rootfs/proc rootfs/sys rootfs/dev
cp "$busybox" rootfs/bin/busybox
for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "rootfs/bin/$applet"; done
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C rootfs -cf layer.tar .
layer=$(sha256sum < layer.tar | cut -d ' ' -f 1)
cat > config.json <<EOF
{"architecture": "$(dpkg --print-architecture)", "os": "linux",
 "config": {"Env": ["PATH=/bin"], "Cmd": ["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}}
EOF
echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$image\"], \"Layers\": [\"layer.tar\"]}]" > manifest.json
tar -cf image.tar config.json layer.tar manifest.json
rm -rf rootfs config.json layer.tar manifest.json
"#;

/// The directory of it all, to be seen as /opt: `image.tar`, Debian's programs where Debian has them, and an empty
/// `kubelet`. Made for this root, if this machine does not have it yet.
pub(super) fn ensure(root: &Path) -> Result<PathBuf> {
    let recipe = format!(
        "{} {} {PACKAGES} {IMAGE} {} {APT}{BUILD}",
        root::SUITE,
        root::MIRROR,
        root.display()
    );
    let what = "fetching containerd, runc and CNI plugins into the cache";
    super::ensure("containers", &recipe, what, |place| step(what, || build(place, root)))
}

fn build(place: &Path, root: &Path) -> Result<()> {
    root::need_root()?;
    let log = log("containers")?;
    let _ = fs::remove_file(&log);
    let mut command = leashed("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &format!("{APT}{BUILD}"), "sh"])
        .arg(place)
        .args([root::SUITE, root::MIRROR])
        .arg(root)
        .arg(IMAGE)
        .args(PACKAGES.split_whitespace());
    run(&mut command, &log)
}
