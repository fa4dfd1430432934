"""Weights: the tensors of a checkpoint, whole, from what each engine leaves.

    model.safetensors      one process, DDP, ZeRO-1 and 2, ZeRO-3 that gathers for saving, the folder of a run
    latest, global_stepN/  ZeRO-3 that does not gather: shards of the float32 weights and of the optimizer
    pytorch_model_fsdp_0/  FSDP2: shards in the format of torch.distributed.checkpoint

Files are mapped into memory and read tensor by tensor, so that one copy of the weights is made, or none. The last two
kinds contain pickles, which run what they are told to: they are opened only in a checkpoint whose digests hold.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from cached_ds.checkpoints.state import MODEL, SHARDED_MODEL, ShardedTensors
from cached_ds.settings.extras import needed_by

ZERO_TAG = "latest"
Tensors = dict[str, torch.Tensor]


def read_weights(folder: Path, model: PreTrainedModel, *, may_unpickle: bool) -> Tensors:
    """The tensors that `save_pretrained` writes of a model, from a checkpoint; of tied weights, one.

    Args:
        folder: of the checkpoint.
        model: on the meta device; its names, shapes and types are those wanted.
        may_unpickle: whether the files are known to be those that the run wrote.

    Returns:
        tensors by name, in the type in which they are stored; ZeRO's float32 shards in that of the model.

    Raises:
        ValueError: no weights, weights that must not be unpickled, names or shapes that are not those of the model.
        MissingExtra: ZeRO's shards, and DeepSpeed is not installed.
    """
    wanted = {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}
    tensors = _reader(folder, may_unpickle=may_unpickle)(folder, wanted)
    for name, tensor in wanted.items():
        if name not in tensors:
            raise ValueError(f"{folder}: its weights lack {name}, which its config.json asks for")
        if tensors[name].shape != tensor.shape:
            found, expected = tuple(tensors[name].shape), tuple(tensor.shape)
            raise ValueError(f"{folder}: {name} has the shape {found}; its config.json asks for {expected}")
    return tensors


def _reader(folder: Path, *, may_unpickle: bool) -> Callable[[Path, Mapping[str, torch.Tensor]], Tensors]:
    if (folder / SAFE_WEIGHTS_NAME).is_file() or (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        return _from_safetensors
    readers = {ZERO_TAG: _from_zero, SHARDED_MODEL: _from_fsdp}
    found = [reader for name, reader in readers.items() if (folder / name).exists()]
    if not found:
        raise ValueError(
            f"{folder}: no weights here; allowed is a checkpoint-N of a run, or the folder of a run that ended"
        )
    if not may_unpickle:
        raise ValueError(
            f"{folder}: its weights are in shards that contain pickles, and no manifest vouches for them; export a "
            "checkpoint-N of the run"
        )
    return found[0]


def _from_safetensors(folder: Path, wanted: Mapping[str, torch.Tensor]) -> Tensors:
    index, files = folder / SAFE_WEIGHTS_INDEX_NAME, {SAFE_WEIGHTS_NAME}
    if index.is_file():
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    tensors: Tensors = {}
    for file in sorted(files):
        with safe_open(folder / file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys() if name in wanted}  # noqa: SIM118
    return tensors


def _from_zero(folder: Path, wanted: Mapping[str, torch.Tensor]) -> Tensors:
    with needed_by("the export of ZeRO's shards"):
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    with redirect_stdout(sys.stderr):
        shards = get_fp32_state_dict_from_zero_checkpoint(str(folder), lazy_mode=True)
    return {name: shards[name].contiguous().to(like.dtype) for name, like in wanted.items() if name in shards}


def _from_fsdp(folder: Path, wanted: Mapping[str, torch.Tensor]) -> Tensors:
    stored = ShardedTensors(folder / SHARDED_MODEL)
    names = {key.removeprefix(MODEL): key for key in stored.keys}  # noqa: SIM118 - a list, and no mapping
    return stored.read({name: key for name, key in names.items() if name in wanted})
