#!/bin/sh
# Starts and stops one daemon inside a Slurm host: daemon.sh start|stop|kill|restart NAME.
set -eu
action=$1 name=$2
script=/mnt/world/slurm/daemons/$name
file=/run/world/$name.pid
[ -f "$script" ] || { echo "no daemon is called $name; there are: $(ls /mnt/world/slurm/daemons | tr '\n' ' ')" >&2; exit 2; }
pid=$(cat "$file" 2>/dev/null || true)
running() { [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; }
start() {
    if running; then return; fi
    setsid sh "$script" </dev/null >>"/var/log/world/$name.log" 2>&1 &
    pid=$!
    echo "$pid" > "$file"
}
stop() {
    if ! running; then return; fi
    kill "-$1" "$pid"
    tries=0
    while running; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || { echo "$name does not end" >&2; exit 1; }
        sleep 0.05
    done
}
case $action in
    start) start ;;
    stop) stop TERM ;;
    kill) stop KILL ;;
    restart) stop TERM; start ;;
    *) echo "usage: daemon.sh start|stop|kill|restart NAME" >&2; exit 2 ;;
esac
