#!/usr/bin/env bash
# DeepSpeed without ssh, called once on every node, for instance by a cluster's own scheduler.
#
#   launch/deepspeed_no_ssh.sh NODES RANKS_PER_NODE NODE_RANK MASTER_ADDR TRAIN_ARGUMENTS...
#   launch/deepspeed_no_ssh.sh 2 8 0 node1 --deepspeed ds_configs/zero2.json --model_name_or_path ...    # on node1
#   launch/deepspeed_no_ssh.sh 2 8 1 node1 --deepspeed ds_configs/zero2.json --model_name_or_path ...    # on node2
#
# MASTER_ADDR is the node with NODE_RANK 0. MASTER_PORT (29500) and the variables of env.sh may be set before.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ $# -ge 5 ] && are_numbers "${@:1:3}" || usage "$0"

hostfile="$(mktemp)"
trap 'rm -f "$hostfile"' EXIT
for ((node = 0; node < $1; node++)); do echo "node$node slots=$2"; done > "$hostfile"
cd "$CACHED_DS_ROOT"
"$CACHED_DS_BIN/deepspeed" --hostfile "$hostfile" --no_ssh --node_rank "$3" --master_addr "$4" --master_port "${MASTER_PORT:-29500}" \
  launch/train.py "${@:5}"
