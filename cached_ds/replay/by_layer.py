"""Replay by layer: the autograd node of one encoder layer, over the passes of a window batch.

Forward: the layer runs pass by pass without a graph, and only its input [N, w, D] is kept. Backward: it runs pass by
pass again, with a graph; the gradients of its parameters are summed and returned once, as in by_window.py, with those
of its input [N, w, D] and of the position bias that T5's layers share.

Shapes: N windows, w width of the widest, n and w' those of a pass, H heads, D width of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cached_ds.replay.autocast import Autocast
from cached_ds.replay.offload import Conveyor, empty_like
from cached_ds.replay.sums import (
    add_,
    device_output,
    refuse_create_graph,
    refuse_tensor_hooks,
    retains_graph,
    zero_sum,
    zero_sums,
)
from cached_ds.replay.window_batch import WindowBatch

Outputs = tuple[Tensor, Tensor | None]  # states, and the position bias if the layer made one


@dataclass(frozen=True)
class LayerCall:
    """One layer in one forward.

    Attributes:
        batch: all windows.
        run: `run(number, states, bias)` sends a pass's states [n, w', D] through the layer.
        parameters: returns the layer's trainable tensors; called in forward and again in backward.
        rng_states: states of the passes' streams before this layer.
        is_last: whether this is the last layer: its states leave the layers.
    """

    batch: WindowBatch
    run: Callable[[int, Tensor, Tensor | None], Outputs]
    parameters: Callable[[], list[Tensor]]
    rng_states: list[Tensor | None]
    is_last: bool

    def first(self, number: int, states: Tensor, bias: Tensor | None) -> Outputs:
        """Run a pass from the state of its stream, and note the stream's state afterwards."""
        rng, before = self.batch.rng, self.rng_states[number]
        with rng.fork(self.batch.passes[number].index, state=before):
            outputs = self.run(number, *_viewed(states, bias))
            after = rng.state()
        self.batch.rng_states[number] = after if before is None or not torch.equal(after, before) else before
        return outputs

    def again(self, number: int, states: Tensor, bias: Tensor | None) -> Outputs:
        """Run a pass again from the state that its stream had before this layer."""
        with self.batch.rng.fork(self.batch.passes[number].index, state=self.rng_states[number]):
            return self.run(number, *_viewed(states, bias))


def replay_layer(call: LayerCall, states: Tensor, bias: Tensor | None, anchor: Tensor) -> Outputs:
    """States [N, w, D] after the layer, and the position bias if the layer made one.

    Gradients flow to the states, the bias, the layer's parameters and the anchor.

    Args:
        call: the layer and its passes.
        states: its input [N, w, D].
        bias: the position bias [1, H, w, w] that an earlier layer made; None: there is none.
        anchor: scalar that requires grad; it always gets a gradient (docs/design.md).

    Raises:
        RuntimeError: what `by_window.replay` refuses.
    """
    parameters = call.parameters()
    learns = parameters or states.requires_grad or (bias is not None and bias.requires_grad)
    if not torch.is_grad_enabled() or not learns:
        return _run_forward(call, states, bias, num_saved=0)[0]
    refuse_tensor_hooks(parameters)
    result, made, _ = _ReplayLayer.apply(call, *parameters, states, bias, anchor)
    return result, made


@dataclass
class _SavedPass:
    """A pass with its graph."""

    inputs: tuple[Tensor, Tensor | None]
    outputs: Outputs


class _Gradients(NamedTuple):
    """The gradients that one pass yields."""

    of_states: Tensor
    of_bias: Tensor | None
    of_parameters: tuple[Tensor | None, ...]


class _ReplayLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: LayerCall, *inputs: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        """`inputs` are the parameters, then states, bias and anchor (see `device_output`)."""
        *parameters, states, bias, anchor = inputs
        ctx.call, ctx.autocast = call, Autocast.current(anchor.device)
        ctx.set_materialize_grads(False)
        ctx.device = states.device  # where its gradient must be, wherever the states are stored
        states = _stored(call, states)
        ctx.save_for_backward(*parameters, states, bias, anchor)
        outputs, ctx.graphs = _run_forward(call, states, bias, num_saved=call.batch.plan.num_saved)
        return *outputs, device_output(anchor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_create_graph("replay")
        *_, states, bias, anchor = ctx.saved_tensors
        with ctx.autocast.again():
            of_states = _empty_like(states, ctx.device) if ctx.needs_input_grad[-3] else None
            of_bias = zero_sum(bias) if ctx.needs_input_grad[-2] else None
            sums = _run_backward(
                ctx.call, ctx.graphs, (states, bias), gradients[:2], of_states=of_states, of_bias=of_bias
            )
        if not retains_graph():
            ctx.graphs = []
        return None, *sums, of_states, of_bias, torch.zeros_like(anchor)


def _stored(call: LayerCall, states: Tensor) -> Tensor:
    """The layer's input in its buffer: embeddings are copied there from the device, other inputs are there already."""
    if call.rng_states[0] is not None or not call.batch.is_offloaded:
        return states
    stored = call.batch.buffer(states.shape, dtype=states.dtype, device=states.device)
    conveyor = Conveyor(states.device)
    for rows in call.batch.rows:
        conveyor.store(states[rows], stored, rows)
    conveyor.finish()
    return stored


def _run_forward(
    call: LayerCall, states: Tensor, bias: Tensor | None, *, num_saved: int
) -> tuple[Outputs, list[_SavedPass]]:
    """Run all passes; also return the graphs of the first `num_saved`."""
    graphs: list[_SavedPass] = []
    made: Tensor | None = None
    result: Tensor | None = None
    conveyor = Conveyor(call.batch.device)
    for number, loaded in enumerate(conveyor.load(states, call.batch.rows)):
        with torch.set_grad_enabled(number < num_saved):
            inputs = _inputs(call, number, loaded, bias)
            outputs = call.first(number, *inputs)
        if number < num_saved:
            graphs.append(_SavedPass(inputs, outputs))
        if result is None:
            made = None if outputs[1] is None else outputs[1].detach()
            make = torch.empty if call.is_last else call.batch.buffer
            result = make(states.shape, dtype=outputs[0].dtype, device=conveyor.device)
        conveyor.store(_widened(outputs[0].detach(), result), result, call.batch.rows[number])
    assert result is not None, "a batch has at least one pass"
    conveyor.finish()
    return (result, made), graphs


def _run_backward(
    call: LayerCall, graphs: list[_SavedPass], inputs: Outputs, gradients: Any,
    *, of_states: Tensor | None, of_bias: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """Fill the gradients of states and bias where they are wanted; return those of the parameters."""
    parameters, conveyor, rows = call.parameters(), Conveyor(call.batch.device), call.batch.rows
    states, bias = inputs
    of_result, of_made = gradients
    sums, retain = zero_sums(parameters), retains_graph()
    loaded = zip(conveyor.load(states, rows), conveyor.load(of_result, rows), strict=True)
    for number, (pass_states, of_pass) in enumerate(loaded):
        is_saved = number < len(graphs)
        run = graphs[number] if is_saved else _run_again(call, number, pass_states, bias)
        # The first pass, the widest, made the bias; the others read a part of it.
        found = _gradients(run, of_pass, of_made if number == 0 else None, parameters, retain=retain and is_saved)
        if of_states is not None:
            conveyor.store(_widened(found.of_states, of_states), of_states, rows[number])
        if of_bias is not None and found.of_bias is not None:
            of_bias[..., : found.of_bias.shape[-2], : found.of_bias.shape[-1]] += found.of_bias
        add_(sums, found.of_parameters)
    conveyor.finish()
    return sums


def _run_again(call: LayerCall, number: int, states: Tensor, bias: Tensor | None) -> _SavedPass:
    """Run a pass again, with its graph."""
    with torch.enable_grad():
        inputs = _inputs(call, number, states, bias)
        return _SavedPass(inputs, call.again(number, *inputs))


def _empty_like(states: Tensor, device: torch.device) -> Tensor:
    """A buffer where the states are stored, or on `device`, if their gradient must be there."""
    return empty_like(states) if states.device == device else torch.empty_like(states, device=device)


def _gradients(
    run: _SavedPass, of_result: Tensor, of_made: Tensor | None, parameters: list[Tensor], *, retain: bool
) -> _Gradients:
    """Gradients of one pass's states and bias and of the parameters, from the gradients of its outputs."""
    result, made = run.outputs
    roots, given = [result], [of_result[:, : result.shape[1]]]
    if made is not None and made.requires_grad and of_made is not None:
        roots, given = [result, made], [*given, of_made]
    states, bias = run.inputs
    leaves = [states] if bias is None else [states, bias]
    found = torch.autograd.grad(roots, [*leaves, *parameters], given, retain_graph=retain, allow_unused=True)
    return _Gradients(found[0], None if bias is None else found[1], found[len(leaves) :])


def _inputs(call: LayerCall, number: int, states: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A pass's states [n, w', D] and its part of the bias [1, H, w', w'], as leaves if a graph is wanted."""
    width, needs_graph = call.batch.passes[number].width, torch.is_grad_enabled()
    trimmed = states[:, :width].detach().requires_grad_(needs_graph)
    return trimmed, None if bias is None else bias[..., :width, :width].detach().requires_grad_(needs_graph)


def _viewed(states: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Views of a pass's leaves: autocast would take a leaf for a weight, and remember its cast."""
    return states.view_as(states), None if bias is None else bias.view_as(bias)


def _widened(states: Tensor, like: Tensor) -> Tensor:
    """States [n, w', D], padded to the width of the window batch."""
    return F.pad(states, (0, 0, 0, like.shape[1] - states.shape[1]))
