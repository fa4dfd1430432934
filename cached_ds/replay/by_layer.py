"""Layer replay: the autograd node of one encoder layer, over the passes of a fold.

Forward: the layer runs pass by pass without a graph, and keeps its input [N, w, D] only. Backward: pass by pass again,
with a graph; the gradients of its parameters are summed and returned once, as in by_window.py, with the gradient of its
input, [N, w, D], and of the position bias that T5's layers share.

Shapes: N windows, w width of the widest, n and w' those of a pass, H heads, D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cached_ds.replay.autocast import Autocast
from cached_ds.replay.offload import Conveyor, zeros_like
from cached_ds.replay.sums import (
    add_,
    refuse_create_graph,
    refuse_tensor_hooks,
    retains_graph,
    zero_sum,
    zero_sums,
)
from cached_ds.replay.window_batch import Fold

Outputs = tuple[Tensor, Tensor | None]  # states, and a position bias that the layer made


@dataclass(frozen=True)
class LayerJob:
    """One layer in one forward: `run(number, states, bias)` sends a pass's states [n, w', D] through it."""

    fold: Fold
    run: Callable[[int, Tensor, Tensor | None], Outputs]
    parameters: Callable[[], list[Tensor]]
    starts: list[Tensor | None]  # where the streams stood before this layer
    is_last: bool

    def again(self, number: int, states: Tensor, bias: Tensor | None) -> Outputs:
        """Run a pass from where its stream stood."""
        with self.fold.streams.stream(self.fold.passes[number].index, self.starts[number]):
            return self.run(number, states, bias)

    def first(self, number: int, states: Tensor, bias: Tensor | None) -> Outputs:
        """The same, and note where its stream stands afterwards."""
        streams = self.fold.streams
        with streams.stream(self.fold.passes[number].index, self.starts[number]):
            outputs = self.run(number, states, bias)
            mark, start = streams.mark(), self.starts[number]
        self.fold.marks[number] = mark if start is None or not torch.equal(mark, start) else start
        return outputs


def through_layer(job: LayerJob, states: Tensor, bias: Tensor | None, anchor: Tensor) -> Outputs:
    """States [N, w, D] after the layer, and the position bias that it made, if it makes one."""
    parameters = job.parameters()
    learns = parameters or states.requires_grad or (bias is not None and bias.requires_grad)
    if not torch.is_grad_enabled() or not learns:
        return _run_forward(job, states, bias, kept=0)[0]
    refuse_tensor_hooks(parameters)
    return _Layer.apply(job, anchor, states, bias, *parameters)


@dataclass
class _Kept:
    """A pass whose graph was kept."""

    inputs: tuple[Tensor, Tensor | None]
    outputs: Outputs


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, job: LayerJob, anchor: Tensor, states: Tensor, bias: Tensor | None, *parameters: Tensor
    ) -> Outputs:
        ctx.job, ctx.autocast = job, Autocast.current(anchor.device)
        ctx.set_materialize_grads(False)
        ctx.device = states.device  # where its gradient has to be, wherever it is kept
        states = _settled(job, states)
        ctx.save_for_backward(anchor, states, bias, *parameters)
        outputs, ctx.graphs = _run_forward(job, states, bias, kept=job.fold.kept)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_create_graph("replay")
        anchor, states, bias, *_ = ctx.saved_tensors
        with ctx.autocast.again():
            of_states = _like(states, ctx.device) if ctx.needs_input_grad[2] else None
            of_bias = zero_sum(bias) if ctx.needs_input_grad[3] else None
            sums = _run_backward(ctx.job, ctx.graphs, (states, bias), gradients, of_states=of_states, of_bias=of_bias)
        if not retains_graph():
            ctx.graphs = []
        return None, torch.zeros_like(anchor), of_states, of_bias, *sums


def _settled(job: LayerJob, states: Tensor) -> Tensor:
    """The layer's input where it is to be kept: the embeddings come from the device, other inputs are there already."""
    if job.starts[0] is not None or not job.fold.is_offloaded:
        return states
    kept = job.fold.buffer(states.shape, dtype=states.dtype, device=states.device)
    conveyor = Conveyor(states.device)
    for rows in job.fold.rows:
        conveyor.store(states[rows], kept, rows)
    conveyor.finish()
    return kept


def _run_forward(job: LayerJob, states: Tensor, bias: Tensor | None, *, kept: int) -> tuple[Outputs, list[_Kept]]:
    """All passes; also the graphs of the first `kept` ones."""
    graphs: list[_Kept] = []
    made: Tensor | None = None
    result: Tensor | None = None
    conveyor = Conveyor(job.fold.device)
    for number, loaded in enumerate(conveyor.load(states, job.fold.rows)):
        with torch.set_grad_enabled(number < kept):
            inputs = _inputs(job, number, loaded, bias)
            outputs = job.first(number, *inputs)
        if number < kept:
            graphs.append(_Kept(inputs, outputs))
        if result is None:
            made = None if outputs[1] is None else outputs[1].detach()
            make = torch.zeros if job.is_last else job.fold.buffer
            result = make(states.shape, dtype=outputs[0].dtype, device=conveyor.device)
        conveyor.store(_widened(outputs[0].detach(), result), result, job.fold.rows[number])
    assert result is not None, "a batch has at least one pass"
    conveyor.finish()
    return (result, made), graphs


def _run_backward(
    job: LayerJob, graphs: list[_Kept], inputs: Outputs, gradients: Any,
    *, of_states: Tensor | None, of_bias: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """Fill the gradients of states and bias where they are wanted; returns those of the parameters."""
    parameters, conveyor = job.parameters(), Conveyor(job.fold.device)
    states, bias = inputs
    sums, retain = zero_sums(parameters), retains_graph()
    arriving = conveyor.load(gradients[0], job.fold.rows)
    for number, (loaded, of_result) in enumerate(zip(conveyor.load(states, job.fold.rows), arriving, strict=True)):
        kept = graphs[number] if number < len(graphs) else None
        with torch.enable_grad():
            leaves = _inputs(job, number, loaded, bias) if kept is None else kept.inputs
            outputs = job.again(number, *leaves) if kept is None else kept.outputs
        wanted = [tensor for tensor in leaves if tensor is not None] + parameters
        of_made = gradients[1] if number == 0 else None
        found = _gradients(outputs, of_result, of_made, wanted=wanted, retain=retain and kept is not None)
        if of_states is not None:
            conveyor.store(_widened(found[0], of_states), of_states, job.fold.rows[number])
        if of_bias is not None:
            of_bias[..., : found[1].shape[-2], : found[1].shape[-1]] += found[1]
        add_(sums, found[len(found) - len(parameters) :])
    conveyor.finish()
    return sums


def _like(states: Tensor, device: torch.device) -> Tensor:
    """Zeros where the states are kept, or on the device that their gradient must be on."""
    return zeros_like(states) if states.device == device else torch.zeros_like(states, device=device)


def _gradients(
    outputs: Outputs, of_result: Tensor, of_made: Tensor | None, *, wanted: list[Tensor], retain: bool
) -> tuple[Tensor, ...]:
    """Gradients of one pass's inputs and of the parameters, through what it put out."""
    result, made = outputs
    roots, given = [result], [of_result[:, : result.shape[1]]]
    if made is not None and made.requires_grad and of_made is not None:
        roots, given = [result, made], [*given, of_made]
    return torch.autograd.grad(roots, wanted, given, retain_graph=retain, allow_unused=True)


def _inputs(job: LayerJob, number: int, states: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A pass's states [n, w', D] and its part of the bias [1, H, w', w'], as leaves where a graph is wanted."""
    width = job.fold.passes[number].inputs["input_ids"].shape[1]
    is_graph = torch.is_grad_enabled()
    trimmed = states[:, :width].detach().requires_grad_(is_graph)
    return trimmed, None if bias is None else bias[..., :width, :width].detach().requires_grad_(is_graph)


def _widened(states: Tensor, like: Tensor) -> Tensor:
    """States [n, w', D], padded to the fold's width."""
    return F.pad(states, (0, 0, 0, like.shape[1] - states.shape[1]))
