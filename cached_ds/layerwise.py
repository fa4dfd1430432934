"""Layerwise: an encoder layer that replays over the passes of a fold, for encoders too large to gather whole.

Problem. Under the window schedule the whole encoder is gathered (and its sums of gradients exist) at one time. An
encoder larger than a device needs a layer at a time; but a layer at a time and a window at a time would gather every
layer once per window, and ranks with different numbers of windows would wait for each other for ever.

Flow (design 3): the encoder's own forward runs once, over all windows (folding.py); each of its layers is a node that
  1. forward: runs pass by pass without a graph, and keeps its input [N, w, D] only;
  2. backward: pass by pass again, with a graph; the gradients of its parameters are summed and returned once, with the
     gradient of its input, [N, w, D].
Memory: one [N, w, D] per layer, which may live in host memory or in a file (`offload`), the graph of one pass of one
layer, and the parameters of one layer. Time: as the window schedule.

Engines: each layer is a leaf for ZeRO-3 and an FSDP2 unit; it is gathered once in forward and once in backward.

T5's first layer also makes the position bias that all layers share: it is a second output of that node and an input of
the others, and its gradient comes back to the first layer's parameters through its widest pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.masking_utils import create_bidirectional_mask

from cached_ds.autocast import Autocast
from cached_ds.folding import Fold
from cached_ds.guards import check_gathered
from cached_ds.offload import Conveyor, zeros_like
from cached_ds.replay import add_, refuse_tensor_hooks, sum_dtype
from cached_ds.state import WindowState

POSITIONAL = ("attention_mask", "position_bias")  # how T5 and BART hand them to a layer
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
        if torch.is_grad_enabled():
            raise RuntimeError("cached_ds: create_graph=True (a second derivative) is not possible through replay")
        anchor, states, bias, *_ = ctx.saved_tensors
        with ctx.autocast.again():
            of_states = _like(states, ctx.device) if ctx.needs_input_grad[2] else None
            of_bias = torch.zeros_like(bias, dtype=sum_dtype(bias)) if ctx.needs_input_grad[3] else None
            sums = _run_backward(ctx.job, ctx.graphs, (states, bias), gradients, of_states=of_states, of_bias=of_bias)
        if not torch._C._autograd._get_current_graph_task_keep_graph():
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
    sums = [torch.zeros_like(parameter, dtype=sum_dtype(parameter)) for parameter in parameters]
    retain = torch._C._autograd._get_current_graph_task_keep_graph()
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


class Layerwise(nn.Module):
    """Mixin over a Hugging Face encoder layer class; see the module's docstring."""

    _z3_leaf = True
    cached: WindowState
    encoder_config: PretrainedConfig
    is_last: bool

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's outputs for all windows, states [N, w, D] first."""
        fold = self.cached.fold
        assert fold is not None, "set by the encoder"
        given = dict(zip(POSITIONAL, args, strict=False)) | kwargs
        bias = given.pop("position_bias", None)
        anchor = torch.zeros((), device=fold.device, requires_grad=torch.is_grad_enabled())
        states, made = super().__call__(hidden_states, anchor, bias, **given)
        results = self.cached.family.encoder_layer.results
        return states if results is None else (states, bias if made is None else made, None)[:results]

    @property
    def gradient_checkpointing(self) -> bool:
        """Never, whatever the model is told: transformers would wrap `forward`, which keeps nothing to be saved."""
        return False

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        """Remember what the model was told, for the time after `detach`."""
        vars(self)["gradient_checkpointing"] = value

    def forward(self, hidden_states: Tensor, anchor: Tensor, position_bias: Tensor | None, **given: Any) -> Outputs:
        """States [N, w, D], replayed pass by pass, and the position bias that this layer makes."""
        check_gathered(self)
        fold = self.cached.fold
        assert fold is not None, "set by the encoder"
        starts = list(fold.marks)
        run = functools.partial(self._run, fold, given, is_first=starts[0] is None, training=self.training)
        job = LayerJob(fold, run, self._trainable, starts, self.is_last)
        return through_layer(job, hidden_states, position_bias, anchor)

    def _trainable(self) -> list[Tensor]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _run(
        self, fold: Fold, given: dict[str, Any], number: int, states: Tensor, bias: Tensor | None,
        *, is_first: bool, training: bool,
    ) -> Outputs:  # fmt: skip
        """One pass through the layer's own forward."""
        if self.training != training:
            raise RuntimeError("cached_ds: model.train() or model.eval() was called between forward and backward")
        style, piece = self.cached.family.encoder_layer, fold.passes[number]
        inputs = {name: _part(value, fold.rows[number], states.shape[1]) for name, value in given.items()}
        if is_first:
            self.cached.encoder_forwards += 1
            states = F.dropout(states, fold.dropout, training=training)
        if fold.layerdrop and torch.rand([]) < fold.layerdrop:
            return states, None
        if not style.own_mask:
            inputs["attention_mask"] = create_bidirectional_mask(
                config=self.encoder_config, inputs_embeds=states, attention_mask=piece.inputs.get("attention_mask")
            )
        if style.position_bias:
            inputs["position_bias"] = bias
        outputs = super().forward(states, **inputs)
        if not style.position_bias:
            return (outputs if style.results is None else outputs[0]), None
        return outputs[0], outputs[1] if bias is None else None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle and deepcopy by the base class: the swapped class is made anew where it is loaded."""
        return _blank, (base_of(self),), self.__getstate__()


@functools.cache
def layerwise_class(base: Any) -> type[Layerwise]:
    """The layerwise subclass of an encoder layer class; one per class, since engines compare classes."""
    return type(f"Layerwise{base.__name__}", (Layerwise, base), {"__doc__": f"{base.__name__}, pass by pass."})


def base_of(layer: nn.Module) -> Any:
    """The class that `layerwise_class` was given."""
    order = type(layer).__mro__
    return order[order.index(Layerwise) + 1]


def _blank(base: Any) -> Layerwise:
    cls = layerwise_class(base)
    return cls.__new__(cls)


def _part(value: Any, rows: slice, width: int) -> Any:
    """A mask [N, w] of a pass; other arguments go to every pass."""
    return value[rows, :width] if isinstance(value, Tensor) else value
