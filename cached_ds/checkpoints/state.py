"""State: the weights and moments in a checkpoint by the names of parameters, whichever engine wrote it.

Only one parameter is in memory at a time. The files' digests have been checked before (choice.py): DeepSpeed's and
torch's own formats hold pickles.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

WEIGHT = "fp32"  # DeepSpeed's word for the weight that the optimizer knows
STEP = "step"
SHARDED_MODEL = "pytorch_model_fsdp_0"  # the folder of accelerate
MODEL, OPTIMIZER = "model.", "optimizer.state."  # before the names of parameters there


class SavedState(Protocol):
    """What all of them give."""

    def read(self, name: str) -> dict[str, Tensor]:
        """The weight (`fp32`) of a parameter and the optimizer's entries for it (`exp_avg`, `step`, ...), whole."""


class PlainState:
    """Of one process, or of DDP: `model.safetensors` and `optimizer.pt`, whose parameters are numbered."""

    def __init__(self, folder: Path, *, order: Sequence[str]) -> None:
        """Take the parameters' names in the order in which the optimizer has them."""
        self.weights = safe_open(folder / "model.safetensors", framework="pt")
        saved = torch.load(folder / "optimizer.pt", map_location="cpu", mmap=True, weights_only=True)
        numbers = [number for group in saved["param_groups"] for number in group["params"]]
        if len(numbers) != len(order):
            raise ValueError(f"{folder}: {len(numbers)} parameters were trained there, and {len(order)} are here")
        self.entries = {name: saved["state"].get(number, {}) for name, number in zip(order, numbers, strict=True)}

    def read(self, name: str) -> dict[str, Tensor]:
        """See SavedState."""
        return {WEIGHT: self.weights.get_tensor(name), **self.entries.get(name, {})}


class ShardedTensors:
    """The tensors in one folder of torch.distributed.checkpoint, read by one process alone.

    Attributes:
        keys: of all of them.
    """

    def __init__(self, folder: Path) -> None:
        """Read which tensors there are."""
        self.folder = folder
        entries: Mapping[str, Any] = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        self.entries = {key: entry for key, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
        self.keys = list(self.entries)

    def read(self, keys: Mapping[str, str]) -> dict[str, Tensor]:
        """Whole tensors, by our names for their keys."""
        stored = {key: self.entries[key] for key in keys.values()}
        tensors = {key: torch.empty(entry.size, dtype=entry.properties.dtype) for key, entry in stored.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # it is: one process reads all
            dcp.load(tensors, storage_reader=dcp.FileSystemReader(self.folder), no_dist=True)
        return {name: tensors[key] for name, key in keys.items()}


class ShardedState:
    """Of FSDP2: torch.distributed.checkpoint's folders."""

    def __init__(self, folder: Path) -> None:
        """Read which tensors there are."""
        self.model, self.optimizer = ShardedTensors(folder / SHARDED_MODEL), ShardedTensors(folder / "optimizer_0")
        self.keys: dict[str, dict[str, str]] = {}
        for key in self.optimizer.keys:
            if key.startswith(OPTIMIZER):
                name, entry = key.removeprefix(OPTIMIZER).rsplit(".", 1)
                self.keys.setdefault(name, {})[entry] = key

    def read(self, name: str) -> dict[str, Tensor]:
        """See SavedState."""
        weight = self.model.read({WEIGHT: MODEL + name})
        return weight | self.optimizer.read(self.keys.get(name, {}))


class UniversalState:
    """Of ZeRO: DeepSpeed's universal format (zero_state.py), a folder for every parameter."""

    def __init__(self, folder: Path, *, step: Tensor | None, shapes: Mapping[str, torch.Size]) -> None:
        """Take the converted folder, the optimizer's step, and shapes: tensors may be there flat and padded."""
        self.folder, self.step, self.shapes = folder / "zero", step, shapes

    def read(self, name: str) -> dict[str, Tensor]:
        """See SavedState."""
        shape, entries = self.shapes[name], {} if self.step is None else {STEP: self.step}
        for path in (self.folder / name).glob("*.pt"):
            value = torch.load(path, mmap=True, weights_only=True)
            value = value["param"] if isinstance(value, dict) else value
            entries[path.stem] = value if path.stem == STEP else value.flatten()[: shape.numel()].view(shape)
        return entries
