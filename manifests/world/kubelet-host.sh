#!/bin/sh
# Makes the place where one host's kubelet and containerd live, and stays there so that others can enter it:
# unshare --mount sh kubelet-host.sh NAME, inside the Slurm host.
# It is the Slurm host itself, same processes, same files, but for the places that a kubelet and a containerd call their
# own by fixed names.
# (A file to name the mount namespace by would do without a process that stays. Linux 6.18 refuses it now and then: it
# takes namespaces made on different CPUs for a loop.)
set -eu
name=$1
own=/mnt/world/kubelets/$name

mkdir -p /run/containerd /run/netns "$own/lib/kubelet" "$own/lib/cni" "$own/run/containerd" "$own/run/netns" "/mnt/world/logs/$name"
mount --bind "$own/lib" /var/lib
mount --bind "$own/run/containerd" /run/containerd
mount --bind "$own/run/netns" /run/netns
mount --bind "/mnt/world/logs/$name" /var/log

# What slurm.conf says of the host is what the kubelet finds: eight CPUs and 4000 MiB, whatever this machine has. CPUs
# without a socket are counted, but nothing is ever pinned to them.
mount -t tmpfs tmpfs /sys/devices/system/node
mount -t tmpfs tmpfs /sys/devices/system/cpu
cpu=0; while [ $cpu -lt 8 ]; do mkdir "/sys/devices/system/cpu/cpu$cpu"; cpu=$((cpu + 1)); done
sed 's/^MemTotal:.*/MemTotal:        4096000 kB/' /proc/meminfo > "$own/meminfo"
mount --bind "$own/meminfo" /proc/meminfo

# Kernel settings that a kubelet and a CNI plugin would change, for the whole machine. Here they read as wanted already.
mkdir -p "$own/sysctl"
while read -r setting value; do
    file=$own/sysctl/$(echo "$setting" | tr / .)
    echo "$value" > "$file"
    mount --bind "$file" "/proc/sys/$setting"
done <<EOF
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
net/ipv4/ip_forward 1
EOF

: > "$own/ready"
exec sleep infinity
