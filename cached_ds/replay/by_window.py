"""Replay: run a function over many passes in the memory of one, with exact gradients returned once.

Problem. The hidden states H of a long document come from many passes of the same encoder. Keeping every pass's graph
needs memory for the whole document; calling backward on one pass after another makes every engine reduce gradients once
per pass, hangs ranks with different numbers of passes, and fights loss scaling, accumulation and tied weights.

Flow (CachED, arXiv 2501.01805 section 3, inside one autograd node):
  1. forward: each pass runs under no_grad with its own random stream; its states go into their rows of H.
     H (and later its gradient) may live in host memory or in a file (offload.py).
  2. the decoder computes the loss from H; autograd brings G = dJ/dH, all of it, to this node.
  3. backward: each pass runs again with its stream and with a graph; `torch.autograd.grad(h, parameters, G_pass)` is
     added to sums (float32 where parameters are narrower).
  4. the sums are *returned* as the gradients of the node's inputs, the parameters.

Memory: H, G, one copy of the encoder's gradients, the graph of one pass. Time: one more forward of the passes; passes
whose graph is kept (`kept`) are not run again.

Engines. The node has the parameters as inputs, so each AccumulateGrad hook fires exactly once per backward:
  plain: sums land in `.grad`, tied weights add up with their other uses.
  DDP: one bucketed reduction per step, whatever the number of passes; no `no_sync` is needed.
  FSDP2, ZeRO-3: parameters are gathered before the node's forward and before its backward, once each. The tensors may
  be swapped in between, which is why `parameters` is a function that is called in both places.
  ZeRO-1, 2: the reduction hooks fire once per parameter ("gradient computed twice" cannot happen).
A parameter that no pass used gets zeros, not None: which parameters take part must not depend on a rank's documents.
The scalar `anchor` always gets a gradient: backward hooks on the module (ZeRO-3's, FSDP2's) need an input that has one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from cached_ds.replay.autocast import Autocast
from cached_ds.replay.offload import Conveyor, zeros
from cached_ds.replay.rng import RandomStreams
from cached_ds.replay.sums import add_, refuse_create_graph, refuse_tensor_hooks, retains_graph, zero_sums


class Piece(Protocol):
    """What replay needs to know of a pass."""

    @property
    def index(self) -> int:
        """Number of its random stream."""

    @property
    def spans(self) -> Sequence[slice]:
        """Rows of H that its states [K, D] fill, in their order."""


P = TypeVar("P", bound=Piece)


@dataclass(frozen=True)
class Job(Generic[P]):
    """One replayed forward: `encode(piece)` gives states [K, D], which fill `piece.spans` of H [*shape, D].

    `buffer(shape, dtype=, device=)` makes H, zeros; the graphs of the first `kept` passes are kept.
    """

    encode: Callable[[P], Tensor]
    passes: Sequence[P]
    parameters: Callable[[], list[Tensor]]
    streams: RandomStreams
    shape: tuple[int, ...]
    kept: int = 0
    buffer: Callable[..., Tensor] = zeros

    def run(self, piece: P) -> Tensor:
        """The states [K, D] of one pass, drawn from its own random stream."""
        with self.streams.stream(piece.index):
            return self.encode(piece)


def replay(job: Job[Any], anchor: Tensor) -> Tensor:
    """Hidden states H [*shape, D] of all passes; rows that no pass fills are zero.

    Gradients flow to the tensors that `job.parameters()` returns (those that require one) and to `anchor`.

    Raises:
        RuntimeError: a parameter has tensor hooks, which would run once per pass; or, in backward, `create_graph=True`,
            a graph already freed, or parameters changed since the forward.
    """
    parameters = job.parameters()
    if torch.is_grad_enabled() and parameters:
        refuse_tensor_hooks(parameters)
        states = _Replay.apply(job, anchor, *parameters)
    else:
        with torch.no_grad():
            states = _run_forward(job, kept=0)[0]
    job.streams.settle()
    return states


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, job: Job[Any], anchor: Tensor, *parameters: Tensor) -> Tensor:
        ctx.job, ctx.autocast = job, Autocast.current(anchor.device)
        ctx.save_for_backward(anchor, *parameters)
        states, ctx.graphs = _run_forward(job, kept=job.kept)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_create_graph("replay")
        anchor = ctx.saved_tensors[0]  # raises torch's own errors: graph already freed, parameters changed in place
        with ctx.autocast.again():
            sums = _run_backward(ctx.job, ctx.graphs, gradients[0], anchor.device)
        if not retains_graph():
            ctx.graphs = []
        return None, torch.zeros_like(anchor), *sums


def _run_forward(job: Job[Any], *, kept: int) -> tuple[Tensor, list[Tensor]]:
    """Fill H; also return the states of the first `kept` passes with their graphs."""
    graphs: list[Tensor] = []
    result: Tensor | None = None
    for number, piece in enumerate(job.passes):
        with torch.set_grad_enabled(number < kept):
            states = job.run(piece)
        if number < kept:
            graphs.append(states)
        if result is None:
            conveyor = Conveyor(states.device)
            result = job.buffer((*job.shape, states.shape[-1]), dtype=states.dtype, device=states.device)
        for span, part in zip(piece.spans, states.detach().split(_sizes(piece)), strict=True):
            conveyor.store(part, result.flatten(0, -2), span)
    assert result is not None, "a batch has at least one pass"
    conveyor.finish()
    return result, graphs


def _run_backward(job: Job[Any], graphs: list[Tensor], gradient: Tensor, device: torch.device) -> list[Tensor]:
    """Sum the parameters' gradients over all passes; only kept graphs can be asked for again (retain_graph)."""
    parameters, gradient = job.parameters(), gradient.flatten(0, -2)
    sums, retain = zero_sums(parameters), retains_graph()
    parts = Conveyor(device).load(gradient, [span for piece in job.passes for span in piece.spans])
    for number, piece in enumerate(job.passes):
        is_kept = number < len(graphs)
        with torch.enable_grad():
            states = graphs[number] if is_kept else job.run(piece)
        wanted = _join(list(itertools.islice(parts, len(piece.spans))))
        found = torch.autograd.grad(states, parameters, wanted, retain_graph=retain and is_kept, allow_unused=True)
        add_(sums, found)
    return sums


def _sizes(piece: Piece) -> list[int]:
    return [span.stop - span.start for span in piece.spans]


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
