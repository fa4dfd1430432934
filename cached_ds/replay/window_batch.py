"""The window batch: all windows of a batch as one padded batch, so that an encoder's own forward runs once.

For `schedule="layer"`. The windows, longest first, are the rows of one padded batch [N, w]; a pass is a slice of the
rows, trimmed to its own width. Each encoder layer replays over the passes (by_layer.py); the modules before and after
the layers (embeddings, norms) run over all windows at once.

Random numbers are those of the window schedule: the stream of a pass pauses after each layer and goes on in the next.
Dropout before the first layer (in T5 also after the last) is drawn from the pass's stream as well, and so is LayerDrop:
a pass skips layers by itself, and every rank runs every layer.

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

from cached_ds.replay.by_window import ReplayPlan, spans_of
from cached_ds.replay.offload import Conveyor, zero_gaps_
from cached_ds.replay.rng import ReplayRng
from cached_ds.windows.passes import EncoderPass


@dataclass(frozen=True)
class Draws:
    """Probabilities of what an encoder draws around its layers.

    Attributes:
        dropout: of its embeddings (T5: of its states as well).
        layerdrop: that a pass skips a layer.
    """

    dropout: float = 0.0
    layerdrop: float = 0.0


@dataclass
class WindowBatch:
    """The passes of one forward, as the layers see them.

    Attributes:
        plan: the passes as the window schedule would run them; its buffers hold the states between layers.
        draws: what is drawn around the layers, pass by pass, instead of by the encoder.
        is_offloaded: whether the plan's buffers live elsewhere than the encoder's own tensors.
        rows: the rows of each pass in the window batch.
        rng_states: the state of each pass's stream; None before its first layer.
    """

    plan: ReplayPlan[EncoderPass]
    draws: Draws
    is_offloaded: bool
    rows: list[slice] = field(init=False)
    rng_states: list[Tensor | None] = field(init=False)

    def __post_init__(self) -> None:
        """Lay the passes one below the other; no stream has begun."""
        stops = list(itertools.accumulate(encoder_pass.num_windows for encoder_pass in self.passes))
        self.rows = [slice(begin, stop) for begin, stop in itertools.pairwise([0, *stops])]
        self.rng_states = [None] * len(self.passes)

    @property
    def passes(self) -> Sequence[EncoderPass]:
        """The plan's passes."""
        return self.plan.passes

    @property
    def rng(self) -> ReplayRng:
        """The plan's random streams."""
        return self.plan.rng

    @property
    def buffer(self) -> Callable[..., Tensor]:
        """Makes the buffers between layers: `buffer(shape, dtype=, device=)`."""
        return self.plan.buffer

    @property
    def device(self) -> torch.device:
        """The device that the encoder reads on."""
        return self.passes[0].slots.device

    def inputs(self, name: str, *, fill: int) -> Tensor:
        """One of the encoder's inputs [N, w], padded to the widest pass; ones for a pass that was not given it."""
        width = self.passes[0].width
        given = (each.inputs.get(name, torch.ones_like(each.inputs["input_ids"])) for each in self.passes)
        return torch.cat([F.pad(value, (0, width - value.shape[1]), value=fill) for value in given])

    def drop(self, states: Tensor) -> Tensor:
        """Dropout of states [N, w, D], each pass from its own stream."""
        parts = []
        for encoder_pass, rows, state in zip(self.passes, self.rows, self.rng_states, strict=True):
            with self.rng.fork(encoder_pass.index, state=state):
                part = F.dropout(states[rows, : encoder_pass.width], self.draws.dropout, training=True)
            parts.append(F.pad(part, (0, 0, 0, states.shape[1] - encoder_pass.width)))
        return torch.cat(parts)

    def scatter(self, states: Tensor) -> Tensor:
        """H [*shape, D] from the states [N, w, D] of all windows: every kept state goes to its row."""
        return _Scatter.apply(states, self)


class _Scatter(torch.autograd.Function):
    """Copies kept states to their rows of H, and in backward the gradients of those rows back."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, batch: WindowBatch) -> Tensor:
        ctx.batch, ctx.like = batch, states.new_zeros(()).expand(states.shape)
        shape = (*batch.plan.shape, states.shape[-1])
        result = batch.buffer(shape, dtype=states.dtype, device=states.device)
        zero_gaps_(result.flatten(0, -2), spans_of(batch.plan.passes))
        conveyor = Conveyor(states.device)
        for encoder_pass, rows in zip(batch.passes, batch.rows, strict=True):
            kept = states[rows, : encoder_pass.width].flatten(0, 1).index_select(0, encoder_pass.slots)
            sizes = [span.stop - span.start for span in encoder_pass.spans]
            for span, part in zip(encoder_pass.spans, kept.split(sizes), strict=True):
                conveyor.store(part, result.flatten(0, -2), span)
        conveyor.finish()
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        batch, of_states = ctx.batch, torch.zeros_like(ctx.like, memory_format=torch.contiguous_format)
        parts = Conveyor(of_states.device).load(gradients[0].flatten(0, -2), spans_of(batch.plan.passes))
        for encoder_pass, rows in zip(batch.passes, batch.rows, strict=True):
            size = encoder_pass.num_windows * encoder_pass.width
            of_pass = of_states.new_zeros(size, of_states.shape[-1])
            if encoder_pass.spans:  # the one window of a rank without any keeps nothing
                of_pass.index_copy_(0, encoder_pass.slots, torch.cat([next(parts) for _ in encoder_pass.spans]))
            of_states[rows, : encoder_pass.width] = of_pass.unflatten(0, (-1, encoder_pass.width))
        return of_states, None


@contextmanager
def without_draws(encoder: Any) -> Iterator[Draws]:
    """Switch off what an encoder draws around its layers for the block; yields the probabilities that it had."""
    dropout = (encoder.dropout, "p") if isinstance(encoder.dropout, nn.Dropout) else (encoder, "dropout")
    attributes = [dropout] + ([(encoder, "layerdrop")] if hasattr(encoder, "layerdrop") else [])
    before = [float(getattr(module, name)) for module, name in attributes]
    for module, name in attributes:
        setattr(module, name, 0.0)
    try:
        yield Draws(*before)
    finally:
        for (module, name), value in zip(attributes, before, strict=True):
            setattr(module, name, value)
