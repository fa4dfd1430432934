"""ZeRO's state: taken out of its checkpoints, and put into its engines, parameter by parameter.

ZeRO's optimizer knows flat partitions, not parameters. DeepSpeed takes its checkpoints apart itself (its universal
format). Into an engine, each rank copies what is its own of a whole tensor: under ZeRO-1 and ZeRO-2 fragments of
parameters lie one after another in the rank's flat partition; under ZeRO-3 every rank has a part of every parameter.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cached_ds.checkpoints.state import STEP, WEIGHT, SavedState, UniversalState
from cached_ds.settings.extras import needed_by

with needed_by(__name__):
    from deepspeed.checkpoint import ds_to_universal
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state


def convert(checkpoint: Path, target: Path) -> None:
    """Write a checkpoint of ZeRO in DeepSpeed's universal format to `target`; for one rank."""
    tag = (checkpoint / "latest").read_text(encoding="utf-8").strip()
    arguments = argparse.Namespace(
        input_folder=str(checkpoint / tag),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        ds_to_universal.main(arguments)


def converted(target: Path, *, shapes: Mapping[str, torch.Size]) -> UniversalState:
    """Read what `convert` has written, of parameters of these shapes. ZeRO-3 keeps the step once, beside them."""
    saved: dict[str, Any] = torch.load(target / "zero" / "optimizer_state.pt", mmap=True, weights_only=False)
    entries = saved.get("optimizer_state_dict", {}).get("state", {}).values()
    step = next((entry[STEP] for entry in entries if STEP in entry), None)
    return UniversalState(target, step=step, shapes=shapes)


def fill(engine: Any, state: SavedState) -> None:
    """Put weights and moments into a DeepSpeed engine; no communication."""
    parameters = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    if engine.zero_optimization_stage() < 3:
        _fill_partitions(engine.optimizer, parameters, state)
    else:
        _fill_parts(engine.optimizer, parameters, state)


def _fill_partitions(optimizer: Any, parameters: dict[str, Any], state: SavedState) -> None:
    names = {parameter: name for name, parameter in parameters.items()}
    for group, partition in zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True):
        flat: dict[str, Tensor] = {WEIGHT: partition}
        for parameter in group:
            entries = state.read(names[parameter])
            parameter.data.copy_(entries[WEIGHT].view_as(parameter))
            _add_missing(flat, entries, like=partition)
            if (mapping := parameter._hp_mapping) is None:
                continue  # no fragment of it is this rank's
            to, of = mapping.get_hp_fragment_address(), mapping.lp_fragment_address
            for entry in flat.keys() - {STEP}:
                fragment = entries[entry].flatten().narrow(0, of.start, of.numel)
                flat[entry].data.narrow(0, to.start, to.numel).copy_(fragment)
        optimizer.optimizer.state[partition] = {entry: value for entry, value in flat.items() if entry != WEIGHT}


def _fill_parts(optimizer: Any, parameters: dict[str, Any], state: SavedState) -> None:
    step = None
    for name, parameter in parameters.items():
        entries = state.read(name)
        step = entries.pop(STEP, step)
        _make_moments(optimizer, entries.keys() - {WEIGHT})
        if parameter.numel() == parameter.ds_numel:  # small ones stay whole
            parameter.data.copy_(entries[WEIGHT].view_as(parameter))
        for entry, value in entries.items():
            part = _part(value, size=parameter.ds_tensor.numel())
            if entry == WEIGHT:
                parameter.ds_tensor.data.copy_(part)
                safe_set_local_fp32_param(parameter, part)
            else:
                safe_set_local_optimizer_state(parameter, part, entry)
    for partition in optimizer.fp32_partitioned_groups_flat:
        if step is not None:
            optimizer.optimizer.state[partition][STEP] = step.clone()


def _make_moments(optimizer: Any, names: Set[str]) -> None:
    """Make what torch's optimizers make in their first step."""
    for partition in optimizer.fp32_partitioned_groups_flat:
        for name in names - optimizer.optimizer.state[partition].keys():
            optimizer.optimizer.state[partition][name] = torch.zeros_like(partition)


def _part(value: Tensor, *, size: int) -> Tensor:
    """This rank's part of a tensor of which every rank has so many elements; what lies beyond its end is zero."""
    rank = torch.distributed.get_rank()
    part = value.new_zeros(size)
    mine = value.flatten()[rank * size : (rank + 1) * size]
    part[: mine.numel()] = mine
    return part


def _add_missing(flat: dict[str, Tensor], entries: dict[str, Tensor], *, like: Tensor) -> None:
    for entry in entries.keys() - flat.keys():
        flat[entry] = entries[STEP].clone() if entry == STEP else torch.zeros_like(like)
