"""Folding: all windows of a batch as one, so that an encoder's own forward runs once, whatever their number.

For `schedule="layer"`. The windows, longest first, are the rows of one padded batch [N, w]; a pass is a slice of the
rows, trimmed to its own width. Each encoder layer replays over the passes (layerwise.py); what stands before and after
the layers (embeddings, norms) runs over the whole fold.

Random numbers are those of the window schedule: the stream of a pass is paused after each layer and continued in the
next. What the encoder drops before its first layer (and T5 after its last) is drawn from the pass's stream as well; so
is which layers a pass skips (LayerDrop), so that every rank runs every layer.

Shapes: N windows, w width of the widest, B documents, L padded source length, D width of the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cached_ds.replay.offload import Conveyor
from cached_ds.replay.rng import RandomStreams
from cached_ds.windows.passes import EncoderPass


@dataclass
class Fold:
    """The passes of one forward, as the layers see them.

    Attributes:
        passes: as the window schedule would run them.
        streams: the random streams of this forward.
        buffer: makes the buffers between layers: `buffer(shape, dtype=, device=)`.
        kept: passes that keep their graph in every layer.
        is_offloaded: whether these buffers are somewhere else than the encoder's own tensors.
        dropout: what the encoder drops of its embeddings (T5 of its states as well); the fold does it, pass by pass.
        layerdrop: how often a pass skips a layer.
        rows: the rows of the fold that each pass is.
        marks: where each pass's stream stands; None before its first layer.
    """

    passes: Sequence[EncoderPass]
    streams: RandomStreams
    buffer: Callable[..., Tensor]
    kept: int
    is_offloaded: bool
    dropout: float = 0.0
    layerdrop: float = 0.0
    rows: list[slice] = field(init=False)
    marks: list[Tensor | None] = field(init=False)

    def __post_init__(self) -> None:
        """One pass below the other; no stream has begun."""
        stops = list(itertools.accumulate(len(piece.inputs["input_ids"]) for piece in self.passes))
        self.rows = [slice(begin, stop) for begin, stop in itertools.pairwise([0, *stops])]
        self.marks = [None] * len(self.passes)

    @property
    def device(self) -> torch.device:
        """Where the encoder reads."""
        return self.passes[0].slots.device

    def inputs(self, name: str, *, fill: int) -> Tensor:
        """One of the encoder's inputs [N, w], all passes padded to the widest."""
        width = self.passes[0].inputs["input_ids"].shape[1]
        ones = (piece.inputs.get(name, torch.ones_like(piece.inputs["input_ids"])) for piece in self.passes)
        return torch.cat([F.pad(value, (0, width - value.shape[1]), value=fill) for value in ones])

    def drop(self, states: Tensor) -> Tensor:
        """Dropout of states [N, w, D], each pass from its own stream."""
        parts = []
        for number, (piece, rows) in enumerate(zip(self.passes, self.rows, strict=True)):
            width = piece.inputs["input_ids"].shape[1]
            with self.streams.stream(piece.index, self.marks[number]):
                part = F.dropout(states[rows, :width], self.dropout, training=True)
            parts.append(F.pad(part, (0, 0, 0, states.shape[1] - width)))
        return torch.cat(parts)


class Unfold(torch.autograd.Function):
    """H [B, L, D] of folded states [N, w, D]: every kept state to its row; and the way back."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, fold: Fold, shape: tuple[int, ...]) -> Tensor:
        """Store the kept states of each pass."""
        ctx.fold, ctx.like = fold, states.new_zeros(()).expand(states.shape)
        result = fold.buffer((*shape, states.shape[-1]), dtype=states.dtype, device=states.device)
        conveyor = Conveyor(states.device)
        for piece, rows in zip(fold.passes, fold.rows, strict=True):
            kept = states[rows, : piece.inputs["input_ids"].shape[1]].flatten(0, 1)[piece.slots]
            for span, part in zip(piece.spans, kept.split([s.stop - s.start for s in piece.spans]), strict=True):
                conveyor.store(part, result.flatten(0, -2), span)
        conveyor.finish()
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Load the gradients of the kept states; the others have none."""
        fold, of_states = ctx.fold, torch.zeros_like(ctx.like, memory_format=torch.contiguous_format)
        spans = [span for piece in fold.passes for span in piece.spans]
        parts = Conveyor(of_states.device).load(gradients[0].flatten(0, -2), spans)
        for piece, rows in zip(fold.passes, fold.rows, strict=True):
            width = piece.inputs["input_ids"].shape[1]
            of_pass = of_states.new_zeros(len(piece.inputs["input_ids"]) * width, of_states.shape[-1])
            of_pass[piece.slots] = torch.cat([next(parts) for _ in piece.spans])
            of_states[rows, :width] = of_pass.unflatten(0, (-1, width))
        return of_states, None, None


@contextmanager
def without_draws(encoder: Any) -> Iterator[tuple[float, float]]:
    """Run an encoder's forward without what it draws around its layers; yields how much: dropout, LayerDrop."""
    places = [(encoder.dropout, "p") if isinstance(encoder.dropout, nn.Dropout) else (encoder, "dropout")]
    places += [(encoder, "layerdrop")] if hasattr(encoder, "layerdrop") else []
    before = [float(getattr(holder, name)) for holder, name in places]
    for holder, name in places:
        setattr(holder, name, 0.0)
    try:
        yield before[0], sum(before[1:])
    finally:
        for (holder, name), value in zip(places, before, strict=True):
            setattr(holder, name, value)
