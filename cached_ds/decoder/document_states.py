"""Document states: H as the decoder's cross-attentions share it, and the buffer of its gradient.

Problem. If H were an ordinary tensor argument of the decoder layers, autograd would keep one gradient of the size of H
per layer for a while, FSDP2 and ZeRO-3 would hang hooks on it that copy it, and any code might expand it.

So the decoder gets a placeholder: a tensor of the right shape that takes one byte. A cross-attention that is given the
placeholder finds the `DocumentStates` by the address of this byte, which survives checkpointing and the views that
engines make of arguments.

Gradient. Every cross-attention adds its share to the one buffer `gradient`, and tells autograd by a scalar only: the
`anchor`, an output of the node that H enters. When all of them have run, that node hands the buffer on as the gradient
of H. Whatever part of the graph a backward runs, the order is autograd's own.

Memory: H once, its gradient once; both may live in host memory or in a file (offload.py).
Shapes: B documents, L padded source length, T target length, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from cached_ds.decoder.tile_kernels import Kernel, tile_size
from cached_ds.replay.offload import Accumulator, Conveyor, empty_like, zero_gaps_
from cached_ds.replay.sums import will_run
from cached_ds.windows.cut import Document


@dataclass(frozen=True)
class Tile:
    """Some tokens of one document: its row in the batch, and the rows of H [B * L, D] with its states."""

    row: int
    span: slice

    def of(self, tensor: Tensor) -> Tensor:
        """The row [1, ...] of a tensor [B, ...]."""
        return tensor[self.row : self.row + 1]


class DocumentStates:
    """H of one decoder call.

    Attributes:
        states: H [B * L, D], without its graph.
        anchor: scalar on which every cross-attention must depend.
        gradient: the buffer to which each of them adds its share of dJ/dH.
        tile: tokens of a tile; None: by kernel and device.
        keep_projections: whether keys and values are kept for backward, where memory is ample.
        recorded: whether the decoder's call builds a graph.
    """

    def __init__(
        self,
        states: Tensor,
        documents: Sequence[Document],
        *,
        tile: int | None = None,
        keep_projections: bool = False,
        learns: bool = True,
    ) -> None:
        """Detach H [B, L, D]; the anchor connects its graph to the decoder's, unless nothing in the model `learns`."""
        self.tile = tile
        self.keep_projections = keep_projections
        self.shape = states.shape
        self.states = states.detach().flatten(0, 1)
        self._documents = documents
        self.gradient = GradientBuffer()
        self.recorded = torch.is_grad_enabled() and learns
        self.anchor = self._make_anchor(states)
        self._byte = torch.empty(1, dtype=torch.int8, device=states.device)
        _BY_ADDRESS[self._byte.data_ptr()] = self

    def _make_anchor(self, states: Tensor) -> Tensor:
        """The output of the node that H enters; for states without a graph a leaf, since engines' hooks need one."""
        if self.recorded and states.requires_grad:
            return _Anchor.apply(states, self.gradient)
        return torch.zeros((), device=states.device, requires_grad=self.recorded)

    def placeholder(self) -> Tensor:
        """The placeholder [B, L, D], of one byte; it keeps these states alive."""
        tensor = self._byte.expand(self.shape)
        tensor.document_states = self  # type: ignore[attr-defined]
        return tensor

    @staticmethod
    def find(placeholder: Tensor | None) -> DocumentStates | None:
        """The states behind a placeholder; None for any other tensor."""
        is_one = placeholder is not None and placeholder.dtype == torch.int8
        return _BY_ADDRESS.get(placeholder.data_ptr()) if is_one and placeholder is not None else None

    def tiles(self, size: int) -> list[Tile]:
        """All tokens of all documents, in tiles of at most `size`; padding is in none."""
        return [tile for document in self._documents for tile in _tiles(document, size)]

    def tiles_for(self, q: Tensor, kernel: Kernel) -> list[Tile]:
        """The tiles of the size that is set, or that suits the queries [B, H, T, D / H] and their kernel."""
        return self.tiles(self.tile or tile_size(kernel, q))

    def wants_gradient(self) -> bool:
        """Whether the backward under way will ask for the gradient of H."""
        return will_run(self.anchor)

    def add_gradient(self, conveyor: Conveyor, tiles: Sequence[Tile]) -> Accumulator:
        """What adds gradients [S, D] of the tiles, one after the other, to the gradient so far."""
        spans = [tile.span for tile in tiles]
        is_new = self.gradient.buffer is None
        if self.gradient.buffer is None:
            self.gradient.buffer = empty_like(self.states.view(self.shape))
            zero_gaps_(self.gradient.buffer.flatten(0, 1), spans)
        return Accumulator(conveyor, self.gradient.buffer.flatten(0, 1), spans, is_new=is_new)


@dataclass
class GradientBuffer:
    """dJ/dH [B, L, D]. The anchor's node holds this and not the `DocumentStates`, since those hold the anchor."""

    buffer: Tensor | None = None

    def take(self) -> Tensor | None:
        """Return the buffer and forget it: the next backward of a retained graph begins with a new one."""
        buffer, self.buffer = self.buffer, None
        return buffer


_BY_ADDRESS: WeakValueDictionary[int, DocumentStates] = WeakValueDictionary()


def with_rows(tiles: Sequence[Tile], rows: Tensor, device: torch.device) -> Iterator[tuple[Tile, Tensor]]:
    """Each tile with its rows [S, ...] of a buffer [B * L, ...], on the device."""
    return zip(tiles, Conveyor(device).load(rows, [tile.span for tile in tiles]), strict=True)


def _tiles(document: Document, size: int) -> list[Tile]:
    stop = document.start + document.length
    return [Tile(document.row, slice(begin, min(begin + size, stop))) for begin in range(document.start, stop, size)]


class _Anchor(torch.autograd.Function):
    """The node that H enters: a scalar out, and in backward the gradient collected in the buffer."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, gradient: GradientBuffer) -> Tensor:
        ctx.gradient = gradient
        return torch.zeros((), device=states.device)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, None]:
        return ctx.gradient.take(), None
