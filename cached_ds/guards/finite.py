"""Finite: a step whose loss or gradient is not finite changes no parameter, on no rank, and its cause is named.

Problem. The ranks must skip a step together, but under DeepSpeed the update comes inside `accelerator.backward`, where
no one can be asked. A NaN of one rank reaches all others through the reduction of gradients; a loss that is infinite
with finite gradients does not, and the others would learn from a step that this rank calls bad.

Idea. All engines compute one norm of the reduced gradient, the same on all ranks, before they update. `poisoned` makes
the gradient NaN wherever the loss is not finite, so this norm says what any rank knows, and no further collective is
needed before the update:

- one process, DDP, FSDP2: the Trainer hands the norm over; a bad step's gradients are dropped (None), and an optimizer
  leaves parameters without a gradient alone, their moments and weight decay included;
- ZeRO-1, 2, 3: DeepSpeed skips the update by itself where its norm is not finite;
- fp16: the loss scaler skips as it always does, and goes on with a smaller scale. Its overflows are part of its search,
  so only a loss that is not finite makes a step bad.

Which documents and windows it was, the traces say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from cached_ds.guards.traces import Trace

NAMED = 8  # windows in one list


def poisoned(loss: Tensor) -> Tensor:
    """The scalar loss itself (times 1.0, exactly); one that is not finite with a gradient that is NaN."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)


def is_bad(norm: Tensor | float | None) -> Tensor | bool:
    """Whether a gradient's norm is not finite; of a sharded one, whether this rank's share is not. None: unknown."""
    if isinstance(norm, DTensor):
        norm = norm.to_local()
    if isinstance(norm, Tensor):
        return ~norm.isfinite().all()
    return norm is not None and not math.isfinite(norm)


def causes(traces: Sequence[Trace], names: Sequence[Sequence[str]]) -> list[str]:
    """What was not finite in a step of this rank, a phrase for each document; none: it came from another rank.

    Args:
        traces: of the step's micro-batches.
        names: of their documents.
    """
    return [
        f"{name}: {cause}"
        for trace, documents in zip(traces, names, strict=True)
        for row, name in enumerate(documents)
        if (cause := cause_in(trace, row)) is not None
    ]


def cause_in(trace: Trace, row: int) -> str | None:
    """What of one document was not finite; None: nothing that a trace knows."""
    bad = trace.loss is not None and not trace.loss.item()
    if (windows := bad_windows(trace, row, trace.states)) is not None:
        return f"the encoder states of {windows} are not finite"
    if bad:
        is_alone = len(trace.tokens) == 1
        others = trace.states is not None and not trace.states.all().item()  # another document explains the loss
        return None if others else f"its states are finite, but the loss of {'it' if is_alone else 'its batch'} is not"
    if (windows := bad_windows(trace, row, trace.gradient)) is not None:
        return f"the loss is finite, but the gradient of the encoder states of {windows} is not"
    return None


def bad_windows(trace: Trace, row: int, finite: Tensor | None) -> str | None:
    """The windows of a document with a token that is not `finite` [B, L], such as `window 2 of 7`; None: none."""
    if finite is None or bool((flat := finite.cpu().flatten()).all()):
        return None
    windows = trace.windows_of(row)
    bad = [
        str(number)
        for number, window in enumerate(windows, start=1)
        if not flat[window.start : window.start + window.last - window.first].all()
    ]
    if not bad:
        return None
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return f"window{'s' if len(bad) > 1 else ''} {', '.join(bad[:NAMED])}{more} of {len(windows)}"
