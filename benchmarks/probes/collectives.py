"""Collectives: how many, of which kind and of how many bytes, seen where they reach the process group.

A dispatch mode sees every operator of torch, so it counts alike what a C++ reducer (DDP), DeepSpeed and FSDP2 send, and
the functional collectives of DTensor. The bytes of a collective are those of its largest operand: the whole tensor that
is reduced, broadcast, gathered or scattered, on every backend and for any number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NAMESPACES = ("c10d", "_c10d_functional")
KINDS = {
    "allreduce": "all-reduce",
    "allgather": "all-gather",
    "reducescatter": "reduce-scatter",
    "reduce": "reduce",
    "broadcast": "broadcast",
}
SILENT = ("barrier", "wait_tensor", "_wrap_tensor_autograd")  # they carry no data
Found = dict[str, dict[str, int]]


class Collectives(TorchDispatchMode):
    """Counts while it is entered; `found` is kind -> {"count": ..., "bytes": ...}."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        super().__init__()
        self.found: Found = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the operator if it is a collective, and run it."""
        if DTensor in types:
            return NotImplemented  # it comes again as what DTensor makes of it, collectives included
        if func.namespace in NAMESPACES and not func._opname.startswith(SILENT):
            entry = self.found.setdefault(kind(func._opname), {"count": 0, "bytes": 0})
            entry["count"] += 1
            entry["bytes"] += max(map(_bytes, args))
        return func(*args, **(kwargs or {}))


def kind(operator: str) -> str:
    """The usual name of a collective: that of `_allgather_base_` is all-gather.

    Raises:
        LookupError: the operator is not in `KINDS`; add it there.
    """
    plain = operator.replace("_", "")
    for beginning, name in KINDS.items():
        if plain.startswith(beginning):
            return name
    raise LookupError(f"collective {operator!r} is none of {list(KINDS)}")


def count(found: Found) -> int:
    """How many collectives of all kinds were found."""
    return sum(entry["count"] for entry in found.values())


def sent(found: Found, ranks: int) -> float:
    """Bytes that each rank sends if all run as rings, the least that a large tensor needs on any network."""
    share = (ranks - 1) / ranks
    return sum(entry["bytes"] * share * (2 if name == "all-reduce" else 1) for name, entry in found.items())


def _bytes(argument: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(argument) if isinstance(leaf, torch.Tensor))
