"""State: the weights and moments in a checkpoint by the names of parameters, whichever engine wrote it.

Only one parameter is in memory at a time. The files' digests have been checked before (choice.py): DeepSpeed's and
torch's own formats hold pickles.
"""

from __future__ import annotations

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
OPTIMIZER = "optimizer.state."


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


class ShardedState:
    """Of FSDP2: torch.distributed.checkpoint's folders."""

    def __init__(self, folder: Path) -> None:
        """Read which tensors there are."""
        self.model, self.optimizer = folder / "pytorch_model_fsdp_0", folder / "optimizer_0"
        self.keys: dict[str, dict[str, str]] = {}
        entries: Mapping[str, Any] = dcp.FileSystemReader(self.optimizer).read_metadata().state_dict_metadata
        for key in entries:
            if key.startswith(OPTIMIZER):
                name, entry = key.removeprefix(OPTIMIZER).rsplit(".", 1)
                self.keys.setdefault(name, {})[entry] = key

    def read(self, name: str) -> dict[str, Tensor]:
        """See SavedState."""
        weight = _read(self.model, {WEIGHT: f"model.{name}"})
        return weight | _read(self.optimizer, self.keys.get(name, {}))


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


def _read(folder: Path, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of a folder of torch.distributed.checkpoint, by our names for its keys."""
    entries = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {}
    for key in keys.values():
        entry = entries[key]
        assert isinstance(entry, TensorStorageMetadata)
        tensors[key] = torch.empty(entry.size, dtype=entry.properties.dtype)
    dcp.load(tensors, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    return {name: tensors[key] for name, key in keys.items()}
