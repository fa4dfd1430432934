"""Replay by window: run a function over many passes in the memory of one, and return exact gradients once.

Problem. The hidden states H of a long document come from many passes of the same encoder. Keeping every pass's graph
needs memory for the whole document. Calling backward on one pass after another makes every engine reduce gradients once
per pass, hangs ranks with different numbers of passes, and breaks loss scaling, accumulation and tied weights.

Flow (CachED, arXiv 2501.01805 section 3, inside one autograd node):
  1. forward: each pass runs under no_grad with its own random stream; its states go into their rows of H. H (and later
     its gradient) may live in host memory or in a file (offload.py).
  2. the decoder computes the loss from H; autograd brings the complete G = dJ/dH to this node.
  3. backward: each pass runs again with its stream and with a graph; `torch.autograd.grad(h, parameters, G_pass)` is
     added to sums (float32 where parameters are narrower).
  4. the sums are *returned* as the gradients of the node's inputs, the parameters.

Memory: H, G, one copy of the encoder's gradients, the graph of one pass. Time: one more forward of each pass whose
graph was not saved.

Engines: this node keeps their contract (docs/design.md, "The engines' contract"). That is why the parameters are inputs
of the node, and why `parameters` is a function.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from cached_ds.replay.autocast import Autocast
from cached_ds.replay.offload import Conveyor, empty, zero_gaps_
from cached_ds.replay.rng import ReplayRng
from cached_ds.replay.sums import (
    add_,
    device_output,
    refuse_create_graph,
    refuse_tensor_hooks,
    retains_graph,
    zero_sums,
)


class Replayable(Protocol):
    """What replay has to know of a pass."""

    @property
    def index(self) -> int:
        """Number of its random stream."""

    @property
    def spans(self) -> Sequence[slice]:
        """Rows of H that its states [K, D] fill, in order."""


P = TypeVar("P", bound=Replayable)


@dataclass(frozen=True)
class ReplayPlan(Generic[P]):
    """The passes of one forward and how they are replayed, under either schedule.

    Attributes:
        passes: in the order in which they run.
        rng: their random streams.
        shape: of H [*shape, D], flattened to the rows that the passes fill.
        anchor: scalar that requires grad; it always gets a gradient (docs/design.md).
        num_saved: number of passes, from the first on, whose graph is saved.
        num_learning: number of passes, from the first on, that backward runs through; None: all.
        weight: of their gradients (windows/sample.py).
        buffer: makes the memory of H: `buffer(shape, dtype=, device=)`.
    """

    passes: Sequence[P]
    rng: ReplayRng
    shape: tuple[int, ...]
    anchor: Tensor
    num_saved: int = 0
    num_learning: int | None = None
    weight: float = 1.0
    buffer: Callable[..., Tensor] = empty

    @property
    def learning(self) -> Sequence[P]:
        """The passes that backward runs through."""
        return self.passes[: self.num_learning]


@dataclass(frozen=True)
class _Replayed(Generic[P]):
    """A plan with the function to replay and its parameters."""

    plan: ReplayPlan[P]
    encode: Callable[[P], Tensor]
    parameters: Callable[[], list[Tensor]]

    def run(self, encoder_pass: P) -> Tensor:
        """The states [K, D] of one pass, run with its own random stream."""
        with self.plan.rng.fork(encoder_pass.index):
            return self.encode(encoder_pass)


def replay(encode: Callable[[P], Tensor], plan: ReplayPlan[P], *, parameters: Callable[[], list[Tensor]]) -> Tensor:
    """Hidden states H [*shape, D] of all passes; rows that no pass fills are zero.

    Gradients flow to the tensors that `parameters()` returns and to the plan's anchor.

    Args:
        encode: computes the states [K, D] of one pass, which fill its `spans` of H.
        plan: the passes, and how they run.
        parameters: returns the trainable tensors that `encode` uses; called in forward and again in backward.

    Raises:
        RuntimeError: a parameter has tensor hooks, which would run once per pass; or, in backward, `create_graph=True`,
            a graph already freed, or parameters changed since the forward.
    """
    replayed, tensors = _Replayed(plan, encode, parameters), parameters()
    if torch.is_grad_enabled() and tensors:
        refuse_tensor_hooks(tensors)
        states, _ = _Replay.apply(replayed, *tensors, plan.anchor)
    else:
        with torch.no_grad():
            states = _run_forward(replayed, num_saved=0)[0]
    plan.rng.settle()
    return states


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, replayed: _Replayed[Any], *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """`inputs` are the parameters and, last, the anchor (see `device_output`)."""
        anchor = inputs[-1]
        ctx.replayed, ctx.autocast = replayed, Autocast.current(anchor.device)
        ctx.save_for_backward(*inputs)
        states, ctx.graphs = _run_forward(replayed, num_saved=replayed.plan.num_saved)
        return states, device_output(anchor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        refuse_create_graph("replay")
        anchor = ctx.saved_tensors[-1]  # torch's own errors: graph already freed, parameters changed in place
        with ctx.autocast.again():
            sums = _run_backward(ctx.replayed, ctx.graphs, gradients[0], anchor.device)
        if not retains_graph():
            ctx.graphs = []
        return None, *sums, torch.zeros_like(anchor)


def _run_forward(replayed: _Replayed[Any], *, num_saved: int) -> tuple[Tensor, list[Tensor]]:
    """Fill H; also return the states of the first `num_saved` passes with their graphs."""
    plan, graphs = replayed.plan, list[Tensor]()
    result: Tensor | None = None
    for number, encoder_pass in enumerate(plan.passes):
        with torch.set_grad_enabled(number < num_saved):
            states = replayed.run(encoder_pass)
        if number < num_saved:
            graphs.append(states)
        if result is None:
            conveyor = Conveyor(states.device)
            result = plan.buffer((*plan.shape, states.shape[-1]), dtype=states.dtype, device=states.device)
            zero_gaps_(result.flatten(0, -2), spans_of(plan.passes))
        for span, part in zip(encoder_pass.spans, states.detach().split(_sizes(encoder_pass)), strict=True):
            conveyor.store(part, result.flatten(0, -2), span)
    assert result is not None, "a batch has at least one pass"
    conveyor.finish()
    return result, graphs


def _run_backward(
    replayed: _Replayed[Any], graphs: list[Tensor], gradient: Tensor, device: torch.device
) -> list[Tensor]:
    """Sum the parameters' gradients over all passes; `retain_graph` matters for saved graphs only."""
    passes, parameters, gradient = replayed.plan.learning, replayed.parameters(), gradient.flatten(0, -2)
    sums, retain = zero_sums(parameters), retains_graph()
    parts = Conveyor(device).load(gradient, spans_of(passes))
    for number, encoder_pass in enumerate(passes):
        is_saved = number < len(graphs)
        with torch.enable_grad():
            states = graphs[number] if is_saved else replayed.run(encoder_pass)
        wanted = _concatenate(list(itertools.islice(parts, len(encoder_pass.spans))))
        found = torch.autograd.grad(states, parameters, wanted, retain_graph=retain and is_saved, allow_unused=True)
        add_(sums, found)
    return sums if replayed.plan.weight == 1 else [total.mul_(replayed.plan.weight) for total in sums]


def spans_of(passes: Sequence[Replayable]) -> list[slice]:
    """Rows of H that the passes fill, in the order in which they do."""
    return [span for each in passes for span in each.spans]


def _sizes(encoder_pass: Replayable) -> list[int]:
    return [span.stop - span.start for span in encoder_pass.spans]


def _concatenate(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
