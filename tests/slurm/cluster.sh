#!/usr/bin/env bash
# Starts and stops a SLURM cluster of one node, this machine, for the tests.
#
#   tests/slurm/cluster.sh install         installs missing Debian packages (as root)
#   tests/slurm/cluster.sh start FOLDER    starts the cluster with its files in FOLDER; prints the environment variables to set
#   tests/slurm/cluster.sh stop FOLDER     stops the cluster and its jobs
#
# Exit code 3: this machine cannot run one; the last line of stderr has the reason.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin
programs=(munged mungekey slurmctld slurmd srun sbatch squeue scontrol)

cannot() { echo "no SLURM cluster for the tests: $*" >&2; exit 3; }

missing() {
  local program
  for program in "${programs[@]}"; do
    command -v "$program" >/dev/null || echo "$program"
  done
}

install() {
  [ -z "$(missing)" ] && return
  [ "$(id -u)" = 0 ] || cannot "$(missing | xargs) not installed; as root: apt-get install slurm-wlm munge"
  command -v apt-get >/dev/null || cannot "$(missing | xargs) not installed, and neither is apt-get"
  export DEBIAN_FRONTEND=noninteractive
  local log
  log=$(mktemp)
  { apt-get update && apt-get install -y --no-install-recommends slurm-wlm slurm-client munge; } >"$log" 2>&1 ||
    { cat "$log" >&2; cannot "apt-get install slurm-wlm munge failed"; }
  rm -f "$log"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start() {
  local home cpus memory
  [ -z "$(missing)" ] || cannot "$(missing | xargs) not installed; tests/slurm/cluster.sh install (as root)"
  mkdir -p "$1"
  home=$(cd "$1" && pwd)
  chmod 755 "$home" # munged rejects a folder that others may write
  mkdir -p "$home/state" "$home/spool" "$home/bin"
  cpus=$(nproc)
  [ "$cpus" -ge 2 ] || cpus=2
  memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  sed -e "s|@HOME@|$home|g" -e "s|@HOST@|$(hostname -s)|g" -e "s|@USER@|$(id -un)|g" \
    -e "s|@CPUS@|$cpus|g" -e "s|@MEMORY@|$memory|g" \
    -e "s|@CONTROLLER_PORT@|$(free_port)|g" -e "s|@NODE_PORT@|$(free_port)|g" "$here/slurm.conf" >"$home/slurm.conf"
  ln -sf "$here/sacct" "$home/bin/sacct"
  export SLURM_CONF=$home/slurm.conf

  [ -f "$home/munge.key" ] || mungekey --create --keyfile "$home/munge.key" >&2
  munged --force --key-file "$home/munge.key" --socket "$home/munge.socket" --pid-file "$home/munged.pid" \
    --log-file "$home/munged.log" --seed-file "$home/munged.seed" >&2 || cannot "munged does not start"
  slurmctld >&2 || { stop "$home"; cannot "slurmctld does not start: $(tail -1 "$home/slurmctld.log")"; }
  # -N: the name in slurm.conf, which may differ from the name of the machine
  slurmd -N "$(hostname -s)" >&2 || { stop "$home"; cannot "slurmd does not start: $(tail -1 "$home/slurmd.log")"; }
  local tries
  for tries in $(seq 150); do
    [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && break
    sleep 0.2
  done
  [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] || { stop "$home"; cannot "its node does not become idle; $home has its logs"; }
  echo "SLURM_CONF=$home/slurm.conf"
  echo "PATH=$home/bin:$PATH"
}

# Ends the process whose id is in a file, and waits until it has ended.
end() {
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null || true
  local tries
  for tries in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  rm -f "$1"
}

stop() {
  local home
  home=$(cd "$1" && pwd)
  export SLURM_CONF=$home/slurm.conf
  if sinfo -h >/dev/null 2>&1; then
    scancel --user="$(id -un)" || true
    scancel --user="$(id -un)" --signal=KILL || true
  fi
  end "$home/slurmd.pid"
  end "$home/slurmctld.pid"
  end "$home/munged.pid"
}

case "${1:-} ${2:+folder}" in
  "install ") install ;;
  "start folder") start "$2" ;;
  "stop folder") stop "$2" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
