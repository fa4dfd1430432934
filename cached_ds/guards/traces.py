"""Traces: what the micro-batches of a step gave: which losses, encoder states and gradients of states were finite.

Problem. When a gradient is not finite, its cause is gone: the states were made window by window and are freed. Running
the step again would draw other dropout, and would have to meet the other ranks once more.

So each micro-batch leaves a trace: one bit per source token for its states H [B, L, D] and one for their gradient G,
taken when autograd hands them on (replay gives H whole and gets G whole). That reads each of them once, where every
decoder layer reads H several times; nothing waits for the device, and nothing is looked at unless a step is bad.

Shapes: B documents, L padded source length, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cached_ds.attachment import windowed_encoder
from cached_ds.document_parallel.shares import Share
from cached_ds.windows.cut import Window, runs_of


@dataclass
class Trace:
    """One micro-batch.

    Attributes:
        inputs: what the model was given.
        windows: that its documents were cut into, in order.
        states: [B, L], whether H is finite; None: the encoder has not run.
        gradient: [B, L], whether G is finite; None: it did not come.
        loss: scalar, whether the loss is finite; None: it was not reached.
    """

    inputs: dict[str, Any]
    windows: Sequence[Window] = ()
    states: Tensor | None = None
    gradient: Tensor | None = None
    loss: Tensor | None = None

    @property
    def tokens(self) -> list[int]:
        """Source tokens of each document."""
        ids, mask = self.inputs["input_ids"], self.inputs.get("attention_mask")
        if mask is None:
            return [ids.shape[1]] * len(ids)
        counts = [0] * len(ids)
        for run in runs_of(mask):
            counts[run.row] += run.length
        return counts

    def windows_of(self, row: int) -> list[Window]:
        """The windows of one document, in order."""
        length = self.inputs["input_ids"].shape[1]
        return [window for window in self.windows if window.start // length == row]


@dataclass
class Traces:
    """The micro-batches of the step under way, as one encoder hook sees them."""

    found: list[Trace] = field(default_factory=list)
    _hook: Any = None

    def watch(self, model: nn.Module) -> None:
        """Look at the states of every training forward from now on."""
        self._hook = windowed_encoder(model).register_forward_hook(self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def begin(self, inputs: dict[str, Any]) -> None:
        """A micro-batch begins."""
        self.found.append(Trace(inputs))

    def any_loss(self) -> Tensor | bool:
        """Scalar: whether a loss of this step is not finite."""
        losses = [trace.loss for trace in self.found if trace.loss is not None]
        return ~torch.stack(losses).all() if losses else False

    def _look(self, encoder: Any, _: Any, states: Tensor) -> None:
        if not (self.found and encoder.training and states.requires_grad):
            return
        trace = self.found[-1]
        call = encoder._cached_ds.call
        trace.windows, trace.states = call.windows, _spread(finite_rows(states), call.share)
        states.register_hook(functools.partial(_look_back, trace, call.share))


def _look_back(trace: Trace, share: Share | None, gradient: Tensor) -> None:
    trace.gradient = _spread(finite_rows(gradient), share)


def _spread(rows: Tensor, share: Share | None) -> Tensor:
    """[B, L] of a batch, from the rows [1, R] of this rank's share; what others have read is theirs to tell."""
    if share is None:
        return rows
    spread = torch.ones(share.shape, dtype=torch.bool, device=rows.device)
    for span in share.spans:
        spread.flatten()[span] = rows[0, share.rows(span)]
    return spread


def finite_rows(states: Tensor) -> Tensor:
    """[B, L] of states [B, L, D]: whether all numbers of a token are finite, as their sum is.

    In float32 or wider, where a sum of finite numbers of a model stays finite; it makes no second tensor of their size.
    """
    return states.detach().sum(-1, dtype=torch.promote_types(states.dtype, torch.float32)).isfinite()
