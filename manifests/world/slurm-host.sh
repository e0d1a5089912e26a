#!/bin/sh
# The first process of a world's Slurm host: it makes the host out of the cached root and then only waits.
# It runs in pid, mount and UTS namespaces of its own; when it ends, every daemon and mount of the host ends.
set -eu
root=$1 host=$2 world=$3 repo=$4 containers=${5-} kubelet=${6-}
top=$host/top
mkdir -p "$top"
mount --bind "$root" "$top"
mount -o remount,bind,ro "$top"

# What the host writes is the world's; the cached root stays as it is.
for place in etc/slurm etc/munge run var/spool var/lib/mysql var/lib/munge home tmp var/tmp root; do
    mount --bind "$host/$place" "$top/$place"
done
for file in passwd group hosts nsswitch.conf; do
    mount --bind "$host/etc/$file" "$top/etc/$file"
done
# Logs lie with the world's other logs, where they outlive the host.
mount --bind "$world/logs/slurm-host" "$top/var/log"
mount --bind "$world" "$top/mnt/world"
mount --bind "$repo" "$top/mnt/repo"
if [ -n "$kubelet" ]; then
    mount --bind "$containers" "$top/opt"
    mount --bind "$kubelet" "$top/opt/kubelet"
fi
mount -t proc proc "$top/proc"
mount --rbind /sys "$top/sys"

# Devices of our own: the usual few, and the GPUs and EFAs that gres.conf names.
mount -t tmpfs -o mode=755 tmpfs "$top/dev"
for device in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do
    mknod -m 666 "$top/dev/${device% *}" c 1 "${device#* }"
done
mknod -m 666 "$top/dev/tty" c 5 0
i=0; while [ $i -lt 8 ]; do mknod -m 666 "$top/dev/world-gpu$i" c 1 3; i=$((i + 1)); done
i=0; while [ $i -lt 32 ]; do mknod -m 666 "$top/dev/world-efa$i" c 1 3; i=$((i + 1)); done
mkdir "$top/dev/pts" "$top/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$top/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$top/dev/shm"
ln -s pts/ptmx "$top/dev/ptmx"
# A kubelet reads there who ran out of memory.
if [ -n "$kubelet" ]; then mknod -m 600 "$top/dev/kmsg" c 1 11; fi
ln -s /proc/self/fd "$top/dev/fd"

hostname slurmhost
cd "$top"
pivot_root . mnt/old
# From here on this is the root's own shell. As pid 1 it collects the orphans of the host while it waits.
exec chroot . /bin/sh -c '
    umount -l /mnt/old
    : > /run/world/ready
    trap "exit 0" TERM
    while :; do sleep infinity & wait $!; done
' <&- >/dev/null 2>&1
