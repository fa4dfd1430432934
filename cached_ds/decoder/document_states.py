"""Source: the states H of the documents, as the decoder's cross-attention reads them, and the place of their gradient.

Problem. H as an ordinary tensor argument of the decoder layers makes autograd keep one gradient of the size of H per
layer for a while, makes FSDP2 and ZeRO-3 hang hooks on it that copy it, and invites anyone to expand it.

So the decoder gets a stand-in: a tensor of the right shape that has no memory. Whoever is handed the stand-in finds the
`Source`, by the address of its one byte: that survives checkpointing, and the views that engines make of arguments.

Gradient. Every cross-attention adds its share to the one buffer `gradient`, and tells autograd by a scalar only: the
`anchor`, an output of the node that H enters. When all of them have run, that node hands the buffer on as the gradient
of H. Whatever part of the graph a backward runs, the order is autograd's own.

Memory: H once, its gradient once; both may live in host memory or in a file (offload.py).
Shapes: B documents, L padded source length, T target length, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from cached_ds.replay.offload import zeros_like
from cached_ds.replay.sums import will_run
from cached_ds.windows.cut import Document

TILE = 1024  # source tokens whose keys and values exist at one time; on a CPU larger ones are not faster


@dataclass(frozen=True)
class Tile:
    """Some tokens of one document: its row in the batch, and where its states lie in H [B * L, D]."""

    row: int
    span: slice


class Source:
    """H of one decoder call; see the module's docstring.

    Attributes:
        states: H [B * L, D], without its graph.
        tiles: all tokens of all documents; padding is in none.
        anchor: scalar on which every cross-attention must depend.
        gradient: where the shares of dJ/dH come together.
        keep: whether keys and values are kept for backward, where memory is ample.
    """

    def __init__(self, states: Tensor, documents: Sequence[Document], *, keep: bool = False) -> None:
        """Take H [B, L, D] out of autograd's hands."""
        self.keep = keep
        self.shape = states.shape
        self.states = states.detach().flatten(0, 1)
        self.tiles = [tile for document in documents for tile in _tiles(document)]
        self.gradient = Gradient()
        self.recorded = torch.is_grad_enabled()
        self.anchor = _Anchor.apply(states, self.gradient) if self.recorded and states.requires_grad else _leaf(states)
        self._byte = torch.empty(1, dtype=torch.int8, device=states.device)
        _SOURCES[self._byte.data_ptr()] = self

    def stand_in(self) -> Tensor:
        """[B, L, D] of no memory; it keeps the source alive."""
        tensor = self._byte.expand(self.shape)
        tensor.source = self  # type: ignore[attr-defined]
        return tensor

    @staticmethod
    def find(stand_in: Tensor | None) -> Source | None:
        """The source that a tensor stands for; None for any other tensor."""
        is_one = stand_in is not None and stand_in.dtype == torch.int8
        return _SOURCES.get(stand_in.data_ptr()) if is_one and stand_in is not None else None

    def wants_gradient(self) -> bool:
        """Whether the backward under way will ask for the gradient of H."""
        return will_run(self.anchor)

    def gradient_rows(self) -> Tensor:
        """The gradient so far, [B * L, D], to add to."""
        if self.gradient.buffer is None:
            self.gradient.buffer = zeros_like(self.states.view(self.shape))
        return self.gradient.buffer.flatten(0, 1)


@dataclass
class Gradient:
    """The buffer of dJ/dH [B, L, D]; the node of the anchor holds this, and not the source, which holds the anchor."""

    buffer: Tensor | None = None

    def take(self) -> Tensor | None:
        """The buffer, and forget it: a graph that is kept starts anew."""
        buffer, self.buffer = self.buffer, None
        return buffer


_SOURCES: WeakValueDictionary[int, Source] = WeakValueDictionary()


def _tiles(document: Document) -> list[Tile]:
    stop = document.start + document.length
    begins = range(document.start, stop, TILE)
    return [Tile(document.row, slice(begin, min(begin + TILE, stop))) for begin in begins]


def _leaf(states: Tensor) -> Tensor:
    """An anchor of nothing: engines' hooks need an input that has a gradient."""
    return torch.zeros((), device=states.device, requires_grad=torch.is_grad_enabled())


class _Anchor(torch.autograd.Function):
    """The node that H enters: a scalar out, and in backward the gradient that has come together in the source."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, gradient: Gradient) -> Tensor:
        ctx.gradient = gradient
        return torch.zeros((), device=states.device)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, None]:
        return ctx.gradient.take(), None
