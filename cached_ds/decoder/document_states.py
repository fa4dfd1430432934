"""Document states: H as the decoder's cross-attentions share it, and the buffer of its gradient.

Problem. If H were an ordinary tensor argument of the decoder layers, autograd would keep one gradient of the size of H
per layer for a while, FSDP2 and ZeRO-3 would hang hooks on it that copy it, and any code might expand it.

So the decoder gets a placeholder: a tensor of the right shape that takes one byte. A cross-attention that is given the
placeholder finds the `DocumentStates` by the address of this byte, which survives checkpointing and the views that
engines make of arguments.

Gradient. Every cross-attention adds its share to the one buffer `gradient`, and tells autograd by a scalar only: the
`anchor`, an output of the node that H enters. When all of them have run, that node hands the buffer on as the gradient
of H. Whatever part of the graph a backward runs, the order is autograd's own.

Where ranks share a document (document_parallel/), H is this rank's share, and tiles are its parts of the batch's tiles.

Memory: H once, its gradient once; both may live in host memory or in a file (offload.py).
Shapes: B documents, L padded source length, T target length, D width, R = B * L rows of H, or those of a share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from cached_ds.decoder.cut_tiles import Part
from cached_ds.decoder.tile_kernels import Kernel, tile_size
from cached_ds.document_parallel.merging import merged
from cached_ds.document_parallel.shares import Share
from cached_ds.replay.offload import Accumulator, Conveyor, empty_like, zero_gaps_
from cached_ds.replay.sums import will_run
from cached_ds.windows.cut import Document


@dataclass(frozen=True)
class Tile:
    """Some tokens of one document.

    Attributes:
        row: of the document in the batch.
        span: the rows of H with their states.
        number: of the tile among all of the batch; it selects the random stream.
        part: which of the tile's tokens these are, where this rank has not all of them.
    """

    row: int
    span: slice
    number: int
    part: Part | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """The row [1, ...] of a tensor [B, ...]."""
        return tensor[self.row : self.row + 1]


class DocumentStates:
    """H of one decoder call.

    Attributes:
        states: H [R, D], without its graph.
        shape: (B, L, D).
        share: of the documents that H is; None: all.
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
        share: Share | None = None,
    ) -> None:
        """Detach H; the anchor connects its graph to the decoder's, unless nothing in the model `learns`.

        Args:
            states: H [B, L, D], or [1, R, D] of a share.
            documents: where the documents are in the flattened batch [B * L].
            tile: see `DocumentStates`.
            keep_projections: see `DocumentStates`.
            learns: whether anything in the model does.
            share: see `DocumentStates`.
        """
        self.tile = tile
        self.keep_projections = keep_projections
        self.share = share
        self.shape = states.shape if share is None else torch.Size((*share.shape, states.shape[-1]))
        self._own_shape = states.shape
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
        """All tokens of all documents that H holds, in tiles of at most `size`; padding is in none."""
        return [tile for number, (row, span) in enumerate(self._cut(size)) for tile in self._own(row, span, number)]

    def tiles_for(self, q: Tensor, kernel: Kernel) -> list[Tile]:
        """The tiles of the size that is set, or that suits the queries [B, H, T, D / H] and their kernel."""
        return self.tiles(self._size_for(q, kernel))

    def num_tiles_for(self, q: Tensor, kernel: Kernel) -> int:
        """The number of tiles of all documents, whoever holds them."""
        return len(self._cut(self._size_for(q, kernel)))

    def _size_for(self, q: Tensor, kernel: Kernel) -> int:
        return self.tile or tile_size(kernel, q)

    def _cut(self, size: int) -> list[tuple[int, slice]]:
        """Row, and positions in the flattened batch, of every tile."""
        return [(document.row, span) for document in self._documents for span in _tile_spans(document, size)]

    def _own(self, row: int, span: slice, number: int) -> list[Tile]:
        """A tile as it is, or this rank's part of it."""
        if self.share is None:
            return [Tile(row, span, number)]
        share, parts = self.share, self.share.parts(span)
        cuts = [None if part == span else Part(part.start - span.start, span.stop - part.stop) for part in parts]
        return [Tile(row, share.rows(part), number, cut) for part, cut in zip(parts, cuts, strict=True)]

    def merged(self, output: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Output [B, H, T, D / H] and log-sum-exp [B, H, T] over all documents, from those over the states here."""
        return (output, lse) if self.share is None else merged(self.share.group, output, lse)

    def wants_gradient(self) -> bool:
        """Whether the backward under way will ask for the gradient of H."""
        return will_run(self.anchor)

    def add_gradient(self, conveyor: Conveyor, tiles: Sequence[Tile]) -> Accumulator:
        """What adds gradients [S, D] of the tiles, one after the other, to the gradient so far."""
        spans = [tile.span for tile in tiles]
        is_new = self.gradient.buffer is None
        if self.gradient.buffer is None:
            self.gradient.buffer = empty_like(self.states.view(self._own_shape))
            zero_gaps_(self.gradient.buffer.flatten(0, 1), spans)
        return Accumulator(conveyor, self.gradient.buffer.flatten(0, 1), spans, is_new=is_new)


@dataclass
class GradientBuffer:
    """dJ/dH, of H's shape. The anchor's node holds this and not the `DocumentStates`, since those hold the anchor."""

    buffer: Tensor | None = None

    def take(self) -> Tensor | None:
        """Return the buffer and forget it: the next backward of a retained graph begins with a new one."""
        buffer, self.buffer = self.buffer, None
        return buffer


_BY_ADDRESS: WeakValueDictionary[int, DocumentStates] = WeakValueDictionary()


def with_rows(tiles: Sequence[Tile], rows: Tensor, device: torch.device) -> Iterator[tuple[Tile, Tensor]]:
    """Each tile with its rows [S, ...] of a buffer [R, ...], on the device."""
    return zip(tiles, Conveyor(device).load(rows, [tile.span for tile in tiles]), strict=True)


def _tile_spans(document: Document, size: int) -> list[slice]:
    stop = document.start + document.length
    return [slice(begin, min(begin + size, stop)) for begin in range(document.start, stop, size)]


class _Anchor(torch.autograd.Function):
    """The node that H enters: a scalar out, and in backward the gradient collected in the buffer."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, gradient: GradientBuffer) -> Tensor:
        ctx.gradient = gradient
        return torch.zeros((), device=states.device)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, None]:
        return ctx.gradient.take(), None
