#!/usr/bin/env bash
# torchrun with restarts, called once on every node. When a rank dies, all ranks start again, from the last complete
# checkpoint (`--save_strategy steps`), up to MAX_RESTARTS times.
#
#   launch/torchrun.sh NODES RANKS_PER_NODE MASTER_ADDR TRAIN_ARGUMENTS...
#   launch/torchrun.sh 2 8 node1 --save_strategy steps --save_steps 100 --model_name_or_path ...         # on both nodes
#
# MASTER_ADDR is any of the nodes. MASTER_PORT (29500), MAX_RESTARTS (3) and the variables of env.sh may be set
# before.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ $# -ge 4 ] && are_numbers "${@:1:2}" || usage "$0"

# A store of its own for each start: in a shared one, ranks would read the entries that the last start left.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
need_port "$3" "${MASTER_PORT:-29500}"
[ "$4" != doctor ] || MAX_RESTARTS=0
cd "$CACHED_DS_ROOT"
"$CACHED_DS_BIN/torchrun" --nnodes "$1" --nproc-per-node "$2" --max-restarts "${MAX_RESTARTS:-3}" \
  --rdzv-backend c10d --rdzv-id cached_ds --rdzv-endpoint "$3:${MASTER_PORT:-29500}" \
  ${CACHED_DS_INTERFACE:+--local-addr "$(interface_address)"} \
  --rdzv-conf "join_timeout=$CACHED_DS_JOIN_TIMEOUT" launch/train.py "${@:4}" || ended $? torchrun "$1" "$3" RendezvousTimeoutError
