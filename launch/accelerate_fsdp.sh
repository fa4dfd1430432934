#!/usr/bin/env bash
# accelerate with FSDP2, called once on every node.
#
#   launch/accelerate_fsdp.sh NODES RANKS_PER_NODE NODE_RANK MASTER_ADDR TRAIN_ARGUMENTS...
#   launch/accelerate_fsdp.sh 2 8 0 node1 --model_name_or_path ...    # on node1
#   launch/accelerate_fsdp.sh 2 8 1 node1 --model_name_or_path ...    # on node2
#
# MASTER_ADDR is the node with NODE_RANK 0. MASTER_PORT (29500), FSDP_CONFIG (ds_configs/fsdp.yaml) and the variables of
# env.sh may be set before.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ $# -ge 5 ] && are_numbers "${@:1:3}" || usage "$0"

need_port "$4" "${MASTER_PORT:-29500}"
cd "$CACHED_DS_ROOT"
"$CACHED_DS_BIN/accelerate" launch --config_file "${FSDP_CONFIG:-ds_configs/fsdp.yaml}" --num_machines "$1" --num_processes $(($1 * $2)) \
  --machine_rank "$3" --main_process_ip "$4" --main_process_port "${MASTER_PORT:-29500}" \
  --rdzv_conf "timeout=$CACHED_DS_JOIN_TIMEOUT" launch/train.py "${@:5}" || ended $? accelerate "$1" "$4" DistStoreError
