"""Kernels: how many a step would launch on a GPU, and how often its host would wait for it, counted on a CPU.

A mode sees every operator. One is one kernel, with these exceptions: views and unwritten memory are none, and an
operator over a list of tensors is one if all have one dtype, else one for each. What waits is an operator that reads a
value, or makes a tensor whose shape depends on values, of a tensor that would be on the device. Those are what a step
is given (`to_device`), what Python code makes with an explicit `device`, and all that is computed from them; the
others, such as random seeds and where windows lie, are the host's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cached_ds.settings import device_sizes

FREE = ("empty", "new_empty", "_unsafe_view", "lift_fresh", "detach", "is_set_to")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_consecutive")
MARK = "_would_be_on_device"


def to_device(tensors: Iterable[Tensor]) -> None:
    """Mark tensors as the device's."""
    for tensor in tensors:
        setattr(tensor, MARK, True)


class Kernels(TorchDispatchMode):
    """Counts while it is entered.

    Attributes:
        found: operator -> number of kernels.
        waits: operator -> how often the host would wait.
    """

    def __init__(self) -> None:
        """Begin with nothing counted."""
        super().__init__()
        self.found: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        """Count the operator and run it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(hasattr(tensor, MARK) for tensor in tensors):
            self.found[func._opname] += _kernels(func, args)
            if _waits(func._opname, args):
                self.waits[func._opname] += 1
            to_device(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


class _Explicit(TorchFunctionMode):
    """What is made with an explicit `device` is on the device, and costs a kernel unless it is left empty."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        result = func(*args, **(kwargs or {}))
        if (kwargs or {}).get("device") is not None and isinstance(result, Tensor) and not hasattr(result, MARK):
            to_device([result])
            self.kernels.found[func.__name__] += not func.__name__.startswith(FREE)
        return result


def _kernels(func: Any, args: Any) -> int:
    if func.is_view or func._opname.startswith(FREE):
        return 0
    if func._opname.startswith("_foreach"):
        dtypes = {each.dtype for each in tree_leaves(args) if isinstance(each, Tensor)}
        return 1 if len(dtypes) == 1 else len(args[0])
    return 1


def _waits(name: str, args: Any) -> bool:
    if name in INDEXING:
        return any(isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1])
    return name in WAITING


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """What depends on the kind of device is as on a GPU: sizes, and norms in float32 under autocast."""
    layer_norm = F.layer_norm

    def wide(states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return layer_norm(states.float() if torch.is_autocast_enabled("cpu") else states, *args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(device_sizes, "is_cpu", lambda _: False))
        stack.enter_context(mock.patch.object(F, "layer_norm", wide))
        yield


@contextmanager
def counted() -> Iterator[Kernels]:
    """Count what runs in the block."""
    kernels = Kernels()
    with _Explicit(kernels), kernels:
        yield kernels
