#!/bin/sh
# slurmd's Prolog in a world: whatever a story has put there.
[ -x /mnt/world/prolog ] || exit 0
exec /mnt/world/prolog >>"/var/log/slurm/prolog.$SLURMD_NODENAME.log" 2>&1
