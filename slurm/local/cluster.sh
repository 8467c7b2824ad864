#!/usr/bin/env bash
# A real SLURM cluster on one machine, for tests and development: root on Debian or Ubuntu, no systemd, no cgroups.
#   cluster.sh up       install what is missing, configure, start, wait until every node is idle. Safe to repeat.
#   cluster.sh down     stop the daemons; jobs and accounting stay on disk
#   cluster.sh reset    down, forget all jobs and accounting, up
#   cluster.sh status
# Nodes c1, c2: partition `cpu`, the default; node g1: `gpu`, with two fake GPUs. Jobs of `short`, on all three, preempt
# those of both by requeueing. SLURM_ACCOUNTING=0 leaves slurmdbd and its database out, as some clusters do; it may be
# changed by `up`.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
D=${SIA_ENGINES:-${TMPDIR:-/tmp}/sia-engines}/slurm
CONF=/etc/slurm
ACCOUNTING=${SLURM_ACCOUNTING:-1}
NODES="c1 c2 g1"
HOST=$(hostname -s)

alive() { local pid; pid=$(cat "$1" 2>/dev/null) && kill -0 "$pid" 2>/dev/null; }

stop() { # a daemon by its pid file
  alive "$1" || return 0
  local pid; pid=$(cat "$1")
  kill "$pid"
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep .1; done
  kill -9 "$pid"
}

wait_for() { # seconds, then a command
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "did not happen in time: $*; see $D/log" >&2; return 1; }
    sleep .1
  done
}

install_missing() {
  local package missing=() wanted=(slurmctld slurmd slurm-client munge)
  [ "$ACCOUNTING" = 0 ] || wanted+=(slurmdbd mariadb-server-core mariadb-client-core)
  for package in "${wanted[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  echo "installing ${missing[*]}" >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$D/log/apt.log" 2>&1 ||
    { tail -5 "$D/log/apt.log" >&2; return 1; }
}

configure() { # says in $CHANGED whether daemons that run have to read it again
  local name storage=accounting_storage/none tres=
  mkdir -p "$CONF" "$D"/{run,state,spool,dev,db}
  [ "$ACCOUNTING" = 0 ] || { storage=accounting_storage/slurmdbd; tres='AccountingStorageTRES=gres/gpu\nAccountingStorageEnforce=limits,qos'; }
  # ids never repeat, also after a reset: what is keyed by a job id on disk must not meet another job of that id
  [ -s "$D/first_id" ] || echo $(($(date +%s) / 60 % 60000 * 1000 + 1)) >"$D/first_id"
  for name in 0 1; do [ -c "$D/dev/gpu$name" ] || mknod -m 666 "$D/dev/gpu$name" c 1 3; done
  CHANGED=0
  for name in slurm.conf gres.conf slurmdbd.conf; do
    sed -e "s|@D@|$D|g; s|@HOST@|$HOST|g; s|@FIRST_ID@|$(cat "$D/first_id")|; s|@STORAGE@|$storage|; s|@TRES@|$tres|" \
      "$HERE/$name" >"$CONF/$name.new"
    cmp -s "$CONF/$name.new" "$CONF/$name" || CHANGED=1
    mv "$CONF/$name.new" "$CONF/$name"
  done
  chmod 600 "$CONF/slurmdbd.conf" # slurmdbd insists
}

start_munge() {
  munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return
  [ -s /etc/munge/munge.key ] || (umask 077; head -c 1024 /dev/urandom >/etc/munge/munge.key)
  install -d -o munge -g munge -m 755 /run/munge
  chown munge: /etc/munge/munge.key
  runuser -u munge -- /usr/sbin/munged
  wait_for 10 bash -c 'munge -n | unmunge'
}

start_accounting() {
  local socket=$D/run/mysql.sock
  if ! alive "$D/run/mysql.pid"; then
    [ -d "$D/db/mysql" ] ||
      mariadb-install-db --no-defaults --user=root --datadir="$D/db" --skip-test-db >"$D/log/mariadb-install.log" 2>&1
    # a Unix socket only, and root by its user id: no password, no port
    setsid mariadbd --no-defaults --user=root --datadir="$D/db" --socket="$socket" --pid-file="$D/run/mysql.pid" \
      --skip-networking --performance-schema=0 --innodb-buffer-pool-size=64M --innodb-log-file-size=16M \
      --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 </dev/null >"$D/log/mariadbd.log" 2>&1 &
    wait_for 30 test -S "$socket"
  fi
  alive "$D/run/slurmdbd.pid" || MYSQL_UNIX_PORT=$socket slurmdbd
  wait_for 30 sacctmgr -nP show cluster
  sacctmgr -nP show cluster | grep -q '^local|' || sacctmgr -i add cluster local >/dev/null
  sacctmgr -nP show account | grep -q '^tests|' || sacctmgr -i add account tests Cluster=local >/dev/null
  sacctmgr -nP show user root | grep -q '^root|' || sacctmgr -i add user root Account=tests >/dev/null
}

start_nodes() {
  local node
  alive "$D/run/slurmctld.pid" || slurmctld
  for node in $NODES; do alive "$D/run/slurmd.$node.pid" || slurmd -N "$node"; done
  wait_for 30 sinfo
  for node in $(sinfo -hN -o '%N %t' | awk '$2 ~ /^(down|drain|drng|inval)/ {print $1}' | sort -u); do
    scontrol update nodename="$node" state=resume || true # what a test or a crash set down
  done
  wait_for 30 nodes_ready
}

nodes_ready() { [ "$(sinfo -hN -o '%N %t' | sort -u | grep -cE ' (idle|mix|alloc|comp)$')" = 3 ]; }

stop_slurm() { # all at once: each takes seconds
  local name stopping=()
  for name in $(printf 'slurmd.%s ' $NODES) slurmctld; do
    stop "$D/run/$name.pid" & stopping+=($!)
  done
  wait "${stopping[@]}" # and not for mariadbd, which is a child of this shell too
}

up() {
  mkdir -p "$D"/log
  install_missing
  configure
  start_munge
  [ "$ACCOUNTING" = 0 ] || start_accounting
  [ "$CHANGED" = 0 ] || stop_slurm
  start_nodes
  sinfo -o '%P %D %t %c cpus %m MiB %G'
}

down() {
  stop_slurm
  stop "$D/run/slurmdbd.pid"
  stop "$D/run/mysql.pid" # after those who write to it
  stop /run/munge/munged.pid
}

case "${1:-up}" in
  up) up ;;
  down) down ;;
  reset) down; rm -rf "$D"/{first_id,state,spool,db}; up ;;
  status) sinfo -N -l; squeue ;;
  *) echo "usage: $0 up|down|reset|status" >&2; exit 2 ;;
esac
