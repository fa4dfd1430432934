"""Streamed cross-attention: the decoder attends to a whole document in memory that does not grow with its layers.

Problem. Plain cross-attention keeps keys and values of the document for every decoder layer (for BART-large in bf16 24
times the size of H), and Hugging Face turns a padded mask into one of T x L.

Flow, in one autograd node per decoder layer (design 4; Milakov and Gimelshein 2018, Dao et al. 2022):
  1. forward: tile by tile of H, project keys and values, attend, merge by log-sum-exp; keep q, the output and the
     log-sum-exp, all of the target's size.
  2. backward: tile by tile, project again, now with a graph; the tile's gradients of q, keys and values follow from the
     kept log-sum-exp; on through the projections by autograd, whatever they are (Linear, LoRA). Gradients of the
     parameters are summed and returned once, as in by_window.py; those of H go to the source (document_states.py).

Random numbers: the weights of tile number i of a call are dropped with the generators seeded with S + i, its keys and
values (LoRA drops) with S + number of tiles + i, S being one draw of torch's CPU generator, taken back where nothing is
random (rng.py). So dropout is the same in backward.

Engines: `attach` swaps the class of each cross-attention instance, as windowed.py does with the encoder; tensors go in,
one tensor comes out, the module is a leaf for ZeRO-3 and part of its layer's unit for FSDP2.

Calls that fill or use a cache of keys and values (`generate`), or that ask for attention weights, are left to Hugging
Face as they are. Reentrant checkpointing would cut the graph of H off and is refused.

Shapes: B documents, L padded source length, T target length, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cached_ds.decoder.document_states import Source, Tile
from cached_ds.decoder.tile_kernels import Kernel, kernel_for, merge_
from cached_ds.models.class_swap import Swapped
from cached_ds.models.families import CrossAttention
from cached_ds.replay.autocast import Autocast
from cached_ds.replay.offload import Conveyor
from cached_ds.replay.rng import RandomStreams
from cached_ds.replay.sums import (
    add_,
    refuse_create_graph,
    refuse_tensor_hooks,
    retains_graph,
    sum_dtype,
    zero_sum,
    zero_sums,
)


@dataclass
class Visit:
    """What one tile leaves for backward: the kernel's dropout state and, if they are kept, states, keys and values."""

    state: Any
    kept: tuple[Tensor, Tensor, Tensor] | None


@dataclass(frozen=True)
class Call:
    """One call of one layer: `project` turns states [S, D] into keys and values [1, H, S, D / H]."""

    source: Source
    project: Callable[[Tensor], tuple[Tensor, Tensor]]
    parameters: Callable[[], list[Tensor]]
    streams: RandomStreams
    kernel: Kernel
    visits: list[Visit] = field(default_factory=list)


def attend(call: Call, q: Tensor) -> Tensor:
    """Attention of queries [B, H, T, D / H] to the documents of the source; the same shape."""
    parameters = call.parameters()
    if torch.is_grad_enabled():
        refuse_tensor_hooks(parameters)
        output = _Attend.apply(call, q, call.source.anchor, *parameters)
    else:
        output, _ = _run_forward(call, q)
    call.streams.settle()
    return output


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, q: Tensor, anchor: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call, ctx.autocast = call, Autocast.current(q.device)
        output, lse = _run_forward(call, q)
        ctx.save_for_backward(q, output, lse, anchor, *parameters)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_create_graph("attention")
        q, output, lse, anchor, *_ = ctx.saved_tensors
        call = ctx.call
        if not retains_graph():
            ctx.call = None  # H is not to live as long as the loss does
        with ctx.autocast.again():
            of_q, sums = _run_backward(call, gradients[0], q, output, lse)
        return None, of_q, torch.zeros_like(anchor), *sums


def _run_forward(call: Call, q: Tensor) -> tuple[Tensor, Tensor]:
    """Output [B, H, T, D / H] and log-sum-exp [B, H, T]."""
    output = torch.zeros_like(q, dtype=sum_dtype(q), memory_format=torch.contiguous_format)
    lse = torch.full_like(output[..., 0], -torch.inf)
    call.visits.clear()
    keep = call.source.keep and call.source.recorded
    for number, (tile, states) in enumerate(_load(call, q.device)):
        with torch.set_grad_enabled(keep):
            states, k, v = _project(call, number, states, wants_states=keep and call.source.anchor.grad_fn is not None)
        with torch.no_grad(), call.streams.stream(number):
            *found, state = call.kernel.forward(_row(q, tile), k.detach(), v.detach())
        call.visits.append(Visit(state, (states, k, v) if keep else None))
        merge_(_row(output, tile), _row(lse, tile), *found)
    return output.to(q.dtype), lse


def _run_backward(call: Call, gradient: Tensor, q: Tensor, output: Tensor, lse: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Gradients of q and of the parameters; that of H goes to the source."""
    parameters, conveyor, wants_states = call.parameters(), Conveyor(q.device), call.source.wants_gradient()
    of_q, sums, retain = zero_sum(q), zero_sums(parameters), retains_graph()
    for number, (tile, loaded) in enumerate(_load(call, q.device)):
        visit = call.visits[number]
        with torch.enable_grad():
            states, k, v = visit.kept or _project(call, number, loaded, wants_states=wants_states)
        of_output, queries, out, total = (_row(tensor, tile) for tensor in (gradient, q, output, lse))
        with call.streams.stream(number):
            found = call.kernel.backward(of_output, queries, k.detach(), v.detach(), out, total, visit.state)
        _row(of_q, tile).add_(found[0])
        wanted = [*parameters, *([states] if wants_states else [])]
        if wanted:
            again = retain and visit.kept is not None
            shares = torch.autograd.grad((k, v), wanted, found[1:], retain_graph=again, allow_unused=True)
            add_(sums, shares[: len(parameters)])
        if wants_states:
            conveyor.add(shares[-1], call.source.gradient_rows(), tile.span)
    conveyor.finish()
    return of_q.to(q.dtype), sums


def _project(call: Call, number: int, states: Tensor, *, wants_states: bool) -> tuple[Tensor, Tensor, Tensor]:
    """A tile's states as a leaf, and its keys and values; adapters drop from a stream of their own."""
    states = states.detach().requires_grad_(wants_states)
    with call.streams.stream(len(call.source.tiles) + number):
        return states, *call.project(states)


def _load(call: Call, device: torch.device) -> Any:
    tiles = call.source.tiles
    return zip(tiles, Conveyor(device).load(call.source.states, [tile.span for tile in tiles]), strict=True)


def _row(tensor: Tensor, tile: Tile) -> Tensor:
    return tensor[tile.row : tile.row + 1]


class Streamed(Swapped):
    """Mixin over a Hugging Face cross-attention class; see the module's docstring."""

    _z3_leaf = True
    names: CrossAttention
    source: Source | None = None  # of the call under way

    def __call__(self, hidden_states: Tensor, *, key_value_states: Tensor | None = None, **kwargs: Any) -> Any:
        """Hugging Face's tuple, with the output [B, T, D] first; weights and position biases are None."""
        source = Source.find(key_value_states)
        if source is None:
            return super().__call__(hidden_states, key_value_states=key_value_states, **kwargs)
        if source.recorded and not torch.is_grad_enabled():
            raise RuntimeError(
                "cached_ds: the decoder runs without a graph inside a forward with one: reentrant checkpointing would "
                'lose the gradient of the document; use gradient_checkpointing_kwargs={"use_reentrant": False}'
            )
        self.source = source
        output = super().__call__(hidden_states, source.anchor)
        return output, *[None] * (self.names.results - 1)

    def forward(self, hidden_states: Tensor, anchor: Tensor | None = None, **kwargs: Any) -> Any:
        """Streamed when an anchor is given: [B, T, D] in and out; else Hugging Face's own."""
        if anchor is None:
            return super().forward(hidden_states, **kwargs)
        source, self.source = self.source, None
        assert source is not None, "set by __call__"
        q = self._heads(getattr(self, self.names.query)(hidden_states))
        output = attend(self._call(source, q), q)
        return getattr(self, self.names.output)(output.transpose(1, 2).flatten(2))

    def _call(self, source: Source, q: Tensor) -> Call:
        dropout = float(self.dropout) if self.training else 0.0  # type: ignore[arg-type]
        return Call(
            source=source,
            project=self._project,
            parameters=self._trainable,
            streams=RandomStreams(None, q.device),
            kernel=kernel_for(q, scale=float(self.scaling), dropout=dropout),  # type: ignore[arg-type]
        )

    def _project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        key, value = getattr(self, self.names.key), getattr(self, self.names.value)
        return self._heads(key(states).unsqueeze(0)), self._heads(value(states).unsqueeze(0))

    def _heads(self, tensor: Tensor) -> Tensor:
        """[B, S, D] to [B, H, S, D / H]."""
        return tensor.unflatten(-1, (-1, getattr(self, self.names.head_width))).transpose(1, 2)

    def _trainable(self) -> list[Tensor]:
        modules = [getattr(self, self.names.key), getattr(self, self.names.value)]
        return [p for module in modules for p in module.parameters() if p.requires_grad]
