# The environment of every rank, in one place: each script of this folder reads this file. Set a variable before you call
# a script, or edit it here, in the same way on all nodes.
#   CACHED_DS_INTERFACE=eth0       the network interface between the nodes (`ip -br address` lists them)
#   CACHED_DS_JOIN_TIMEOUT=300     seconds until ranks that do not arrive are named
#   CACHED_DS_BIN=.venv/bin        the folder of python, deepspeed, torchrun and accelerate
#   OMP_NUM_THREADS=1              threads of each rank outside the device

CACHED_DS_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export CACHED_DS_BIN="${CACHED_DS_BIN:-$CACHED_DS_ROOT/.venv/bin}"
export PATH="$PATH:$CACHED_DS_BIN" # last: a cluster's own mpirun comes before one from pip
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export CACHED_DS_JOIN_TIMEOUT="${CACHED_DS_JOIN_TIMEOUT:-300}"
if [ -n "${CACHED_DS_INTERFACE:-}" ]; then
  export CACHED_DS_INTERFACE
  export NCCL_SOCKET_IFNAME="$CACHED_DS_INTERFACE" GLOO_SOCKET_IFNAME="$CACHED_DS_INTERFACE"
fi
if [ ! -x "$CACHED_DS_BIN/python" ]; then
  echo "$0: no python in $CACHED_DS_BIN; run \`make install\`, or set CACHED_DS_BIN" >&2
  exit 2
fi

# Functions that the scripts share.

# usage SCRIPT: print the comment at the head of a script, and end with exit code 2.
usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1" >&2
  exit 2
}

are_numbers() {
  local word
  for word; do [[ "$word" =~ ^[0-9]+$ ]] || return 1; done
}

# need_hostfile FILE: refuse a file that does not exist, since DeepSpeed would then run on this host alone.
need_hostfile() {
  [ -f "$1" ] && [ -n "$(first_host "$1")" ] && return
  echo "$0: hostfile $1: no such file, or no line such as 'node1 slots=8' in it" >&2
  exit 2
}

first_host() {
  awk '!/^[[:space:]]*(#|$)/ {print $1; exit}' "$1"
}

# need_port ADDRESS PORT: refuse a port that another program uses, since torch would wait for its answer for ever.
need_port() {
  timeout 10 bash -c "true > /dev/tcp/$1/$2" 2> /dev/null || return 0 # nobody is there yet
  timeout "$CACHED_DS_JOIN_TIMEOUT" "$CACHED_DS_BIN/python" -c "from torch.distributed import TCPStore
TCPStore('$1', $2, wait_for_workers=False)" > /dev/null 2>&1 && return
  echo "$0: port $2 of $1 is in use by another program; choose another MASTER_PORT" >&2
  exit 2
}

# Print Open MPI's flags for the variables that it should pass on to other hosts.
mpi_exports() {
  compgen -e | grep -E '^(CACHED_DS_|GLOO_|NCCL_|OMP_NUM_THREADS|MASTER_|TORCH_|PATH$)' | sed 's/^/-x /' | tr '\n' ' '
}

interface_address() {
  ip -4 -oneline address show dev "$CACHED_DS_INTERFACE" | awk '{sub("/.*", "", $4); print $4; exit}'
}

# ended CODE LAUNCHER NODES MASTER_ADDR ERROR: explain the launcher's own traceback, if it ends in ERROR, and exit.
ended() {
  echo "$0: $2 on $(hostname) ended with exit code $1. If its error is $5: fewer than $3 nodes arrived at port" \
    "${MASTER_PORT:-29500} of $4 within $CACHED_DS_JOIN_TIMEOUT s" >&2
  exit "$1"
}
