#!/usr/bin/env bash
# DeepSpeed over ssh, called once, on any node: every host of HOSTFILE runs as many ranks as it has slots.
#
#   launch/deepspeed_hostfile.sh HOSTFILE TRAIN_ARGUMENTS...
#   launch/deepspeed_hostfile.sh launch/hostfile --deepspeed ds_configs/zero2.json --model_name_or_path ...
#
# Needs pdsh, ssh without a password to every host, and this folder with its .venv at the same path on all of them.
# MASTER_PORT (29500) and the variables of env.sh may be set before.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ $# -ge 2 ] || usage "$0"
need_hostfile "$1"

# DeepSpeed passes on only some variables; its environment file adds those of env.sh.
DS_ENV_FILE="$(mktemp)"
trap 'rm -f "$DS_ENV_FILE"' EXIT
export DS_ENV_FILE
env | grep -E '^(CACHED_DS_|GLOO_|NCCL_|OMP_NUM_THREADS|TORCH_|PATH=)' > "$DS_ENV_FILE"
cd "$CACHED_DS_ROOT"
"$CACHED_DS_BIN/deepspeed" --hostfile "$(realpath "$1")" --force_multi --master_port "${MASTER_PORT:-29500}" launch/train.py "${@:2}"
