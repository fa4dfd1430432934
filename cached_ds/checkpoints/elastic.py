"""Elastic: a run goes on from a checkpoint that another engine, or another number of ranks, has written.

Engines keep weights and moments in forms of their own. Here they come out of any form by the names of parameters
(state.py), and each rank puts what is its own into the engine that there is. The documents come in the order in which
the run has begun: it depends on how many documents its first ranks took at a time, which the manifest knows.

What cannot be the same are random streams: ranks that were not there before have none. So with dropout the numbers
differ a little, as with another seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.trainer import SCHEDULER_NAME
from transformers.utils import ADAPTER_CONFIG_NAME

from cached_ds.checkpoints.manifest import MANIFEST
from cached_ds.checkpoints.staging import STAGING, sharers_of
from cached_ds.checkpoints.state import STEP, WEIGHT, PlainState, SavedState, ShardedState

PLAIN = {"single", "ddp"}


def is_native(saved: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether the engine itself reads what was saved: its own, under ZeRO by as many ranks.

    Args:
        saved: entries of the manifest.
        here: facts of this run.
    """
    if {saved["engine"], here["engine"]} <= PLAIN or saved["engine"] == here["engine"] == "fsdp2":
        return True
    return saved["engine"] == here["engine"] and saved["world_size"] == here["world_size"]


def check(folder: str, saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse what cannot go on with the same numbers.

    Args:
        folder: of the checkpoint.
        saved: entries of its manifest.
        here: facts of this run.

    Raises:
        ValueError: another number of documents per step; another engine, and an adapter, a schedule that only DeepSpeed
            can read, or an optimizer that is not torch's.
    """
    name = "documents_per_step"
    if saved[name] != here[name]:
        raise ValueError(
            f"--resume_from_checkpoint {folder}: it was written with {saved[name]} documents per step, and this run "
            f"takes {here[name]}; ranks / --document_parallel x --per_device_train_batch_size x "
            f"--gradient_accumulation_steps has to be {saved[name]}"
        )
    if not is_native(saved, here) and (bound := _bound(saved)):
        raise ValueError(
            f"--resume_from_checkpoint {folder}: {bound}, so it can be resumed under {saved['engine']} on "
            f"{saved['world_size']} ranks only"
        )


def _bound(saved: Mapping[str, Any]) -> str | None:
    """What binds a checkpoint to its engine; None: nothing does."""
    if SCHEDULER_NAME not in saved["files"]:
        return "its schedule is DeepSpeed's own (a --deepspeed file without a scheduler leaves it to the flags)"
    if ADAPTER_CONFIG_NAME in saved["files"]:
        return "it is of an adapter"
    if not saved["optimizer"].startswith("torch."):
        return f"its optimizer is {saved['optimizer']} and not torch's"
    return None


@contextmanager
def saved_state(folder: Path, saved: Mapping[str, Any], model: nn.Module, order: Sequence[str]) -> Iterator[SavedState]:
    """A checkpoint's state, by names; a collective.

    Args:
        folder: of the checkpoint.
        saved: entries of its manifest.
        model: that will get the state; its names and shapes count.
        order: the names of the parameters as an optimizer of one process has them.

    Raises:
        ValueError: a checkpoint of ZeRO on disks that the ranks do not share; other parameters than here.
    """
    if saved["engine"] in PLAIN:
        yield PlainState(folder, order=order)
    elif saved["engine"] == "fsdp2":
        yield ShardedState(folder)
    else:
        from cached_ds.checkpoints import zero_state  # DeepSpeed is an extra

        shapes = {name: getattr(p, "ds_shape", p.shape) for name, p in model.named_parameters()}
        with _converted(folder, zero_state.convert) as target:
            yield zero_state.converted(target, shapes=shapes)


def fill(model: nn.Module, optimizer: torch.optim.Optimizer, state: SavedState) -> None:
    """Put weights and moments into a model and an optimizer of one process, of DDP, or of FSDP2; no communication."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            entries = state.read(name)
            with torch.no_grad():
                parameter.copy_(_placed(entries.pop(WEIGHT), parameter))
            if entries:
                optimizer.state[parameter] = {
                    entry: value.clone() if entry == STEP else _placed(value, parameter)
                    for entry, value in entries.items()
                }


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy of a whole tensor, where its parameter lies; of a sharded one, this rank's shard."""
    value = value.to(parameter.device, copy=True)
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


@contextmanager
def _converted(folder: Path, convert: Any) -> Iterator[Path]:
    """A folder beside the checkpoint into which the first rank has converted it; removed at the end."""
    state, target = PartialState(), folder.parent / STAGING / f"converted-{folder.name}"
    if len(sharers_of(folder / MANIFEST)) < state.num_processes:
        raise ValueError(f"{folder}: a checkpoint of ZeRO on several disks can be read by as many ranks of ZeRO only")
    if state.is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        convert(folder, target)
    state.wait_for_everyone()
    yield target
    state.wait_for_everyone()
    if state.is_main_process:
        shutil.rmtree(target.parent)
