"""Rounds: the one small all-reduce of a step, by which all ranks know what any of them has noticed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Round:
    """What is so on any rank.

    Attributes:
        loss: a loss of this step is not finite.
        norm: the gradient's norm is not finite.
        signal: the largest number of a signal that has come; 0: none.
        save: somebody wants a checkpoint.
    """

    loss: bool
    norm: bool
    signal: int
    save: bool


def share(*, loss: Tensor | bool, norm: Tensor | bool, signal: int, save: bool, device: torch.device) -> Round:
    """The maximum over all ranks of what each of them says; the step's one wait for the device.

    Args:
        loss: scalar: whether a loss is not finite.
        norm: scalar: whether the norm is not finite.
        signal: number of the signal that this rank got.
        save: whether this rank was asked to save.
        device: where the ranks' backend reduces.
    """
    said = torch.stack([torch.as_tensor(each, device=device, dtype=torch.int32) for each in (loss, norm, signal, save)])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
    loss_bad, norm_bad, number, saves = said.tolist()
    return Round(bool(loss_bad), bool(norm_bad), number, bool(saves))
