"""The bytes of parameters, gradients and optimizer states that one rank really holds, by looking at its tensors.

Every storage counts once, whole, wherever views of it are found. Under DeepSpeed the gradients are what its optimizer
holds besides parameters, states and buckets. `formula` is what ZeRO's paper expects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

PARTS = ("parameters", "gradients", "optimizer")
SHARDED = {"zero1": ("optimizer",), "zero2": ("optimizer", "gradients"), "zero3": PARTS, "fsdp2": PARTS}


def state_bytes(model: nn.Module, optimizer: Any) -> dict[str, int]:
    """Bytes by part, between backward and the optimizer's step.

    Besides the parts of the formula: "master", weights that the optimizer updates instead of the model's own, and
    "buckets", where gradients wait for a collective.
    """
    parameters = list(model.parameters())
    inner = getattr(optimizer, "optimizer", optimizer)  # DeepSpeed's is around torch's
    updated = list(inner.state)
    sources = {
        "parameters": [*parameters, *(p.ds_tensor for p in parameters if hasattr(p, "ds_tensor"))],
        "optimizer": list(_tensors(inner.state)),
        "master": updated,
        "buckets": [tensor for bucket in _ipg_buckets(optimizer) for tensor in _tensors(vars(bucket))],
        "gradients": [p.grad for p in [*parameters, *updated] if p.grad is not None],
    }
    if optimizer is not inner:
        sources["gradients"] += _tensors(vars(optimizer))
    seen: set[int] = set()
    found = {part: _bytes(tensors, seen) for part, tensors in sources.items()}
    if isinstance(model, nn.parallel.DistributedDataParallel):  # its buckets live in C++, which says how large they are
        sizes = model._get_ddp_logging_data()["rebuilt_bucket_sizes"]
        found["buckets"] += sum(int(size) for size in sizes.split(","))
    return found


def _ipg_buckets(optimizer: Any) -> list[Any]:
    """DeepSpeed's buckets, where gradients wait to be reduced; none under other engines."""
    return list(getattr(optimizer, "ipg_buckets", {}).values())


def formula(whole: dict[str, int], *, variant: str, ranks: int) -> dict[str, float]:
    """Bytes that ZeRO's formula expects on one rank, from the bytes of all parameters and of all optimizer states."""
    sharded, sizes = SHARDED.get(variant, ()), whole | {"gradients": whole["parameters"]}
    return {part: sizes[part] / ranks if part in sharded else sizes[part] for part in PARTS}


def _bytes(tensors: Iterable[Tensor], seen: set[int]) -> int:
    """Bytes of the storages that are not in `seen` yet, where they are then noted."""
    total = 0
    for tensor in tensors:
        storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def _tensors(found: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts, lists, tuples and sets."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict | list | tuple | set):
        for value in found.values() if isinstance(found, dict) else found:
            yield from _tensors(value)
