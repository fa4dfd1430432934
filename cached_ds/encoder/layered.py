"""Layered: the classes that an encoder and its layers get from `attach` under the layer schedule.

Problem. Under the window schedule the whole encoder is gathered (and its sums of gradients exist) at one time. An
encoder larger than a device needs one layer at a time; but one layer and one window at a time would gather every layer
once per window, and ranks with different numbers of windows would wait for each other for ever.

Flow: `Layered` cuts as `Windowed` does, but then runs the encoder's own forward once, over the batch of all windows
(window_batch.py). Each of its layers, `Replayed`, is an autograd node over the passes (by_layer.py).

Memory: one [N, w, D] per layer, which may live in host memory or in a file (`offload`), the graph of one pass of one
layer, and the parameters of one layer. Time: as the window schedule.

Engines: each layer is a leaf for ZeRO-3 and an FSDP2 unit. The encoder calls each of its modules once per step,
whatever the number of windows, and need not be gathered whole.

T5's first layer also makes the position bias that all layers share: it is a second output of that node and an input of
the others, and its gradient comes back to the first layer's parameters through its widest pass.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

from cached_ds.encoder.guards import check_gathered, refuse_foreign_parameters
from cached_ds.encoder.state import AttachedState
from cached_ds.encoder.windowed import Windowed
from cached_ds.models.class_swap import Swapped, base_of, swapped_class
from cached_ds.replay.by_layer import LayerCall, Outputs, replay_layer
from cached_ds.replay.by_window import ReplayPlan
from cached_ds.replay.window_batch import Draws, WindowBatch, without_draws
from cached_ds.windows.passes import EncoderPass

POSITIONAL = ("attention_mask", "position_bias")  # how T5 and BART pass these to a layer
PLAIN = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}  # whatever the config says


class Layered(Windowed):
    """Mixin over a Hugging Face encoder class, whose own forward runs once, over the window batch."""

    _z3_leaf = False

    def _check_parameters(self) -> None:
        """Refuse foreign parameters only: the layers check that they are whole; other modules are called once."""
        refuse_foreign_parameters(self)

    def _states(self, plan: ReplayPlan[EncoderPass]) -> Tensor:
        """H [B, L, D], from the encoder's own forward over the window batch; the layers have anchors of their own."""
        call, is_offloaded = self._cached_ds.call, self._cached_ds.config.offload != "none"
        try:
            with without_draws(self) as draws:
                batch = WindowBatch(plan, draws if self.training else Draws(), is_offloaded)
                call.window_batch = batch
                states = super(Windowed, self).forward(**self._inputs(batch), **PLAIN).last_hidden_state
        finally:
            call.window_batch = None
        if isinstance(self.dropout, nn.Dropout):  # T5 drops after its last layer too
            states = batch.drop(states)
        plan.rng.settle()
        return batch.scatter(states)

    def _inputs(self, batch: WindowBatch) -> dict[str, Tensor]:
        """The encoder's inputs [N, w]; masks only if it makes its layers' masks itself."""
        inputs = {"input_ids": batch.inputs("input_ids", fill=self.config.pad_token_id)}
        if self._cached_ds.family.encoder_layer.own_mask:
            inputs |= {name: batch.inputs(name, fill=0) for name in ("attention_mask", "global_attention_mask")}
        return inputs


class Replayed(Swapped):
    """Mixin over a Hugging Face encoder layer class, which replays over the passes of the window batch."""

    _z3_leaf = True
    _cached_ds: AttachedState
    encoder_config: PretrainedConfig
    is_last: bool

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Hugging Face's outputs of the layer for all windows, the states [N, w, D] first."""
        given = dict(zip(POSITIONAL, args, strict=False)) | kwargs
        bias = given.pop("position_bias", None)
        learns = torch.is_grad_enabled() and self._cached_ds.call.learns
        anchor = torch.zeros((), device=self._batch().device, requires_grad=learns)
        states, made = super().__call__(hidden_states, anchor, bias, **given)
        results = self._cached_ds.family.encoder_layer.results
        return states if results is None else (states, bias if made is None else made, None)[:results]

    @property
    def gradient_checkpointing(self) -> bool:
        """Always False: transformers would wrap `forward` in checkpointing, which has nothing to save here."""
        return False

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        """Remember the setting for the time after `detach`."""
        vars(self)["gradient_checkpointing"] = value

    def forward(self, hidden_states: Tensor, anchor: Tensor, position_bias: Tensor | None, **given: Any) -> Outputs:
        """States [N, w, D], replayed pass by pass, and the position bias that this layer makes."""
        check_gathered(self)
        batch = self._batch()
        before = list(batch.rng_states)
        run = functools.partial(self._run, batch, given, is_first=before[0] is None, training=self.training)
        call = LayerCall(batch, run, self._trainable, before, self.is_last)
        return replay_layer(call, hidden_states, position_bias, anchor)

    def _batch(self) -> WindowBatch:
        batch = self._cached_ds.call.window_batch
        if batch is None:
            raise RuntimeError(
                f"cached_ds: {type(self).__name__} was called outside its encoder's forward, as activation "
                "checkpointing around an attached layer does in backward; replay recomputes the layer already: leave "
                "it unwrapped"
            )
        return batch

    def _trainable(self) -> list[Tensor]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _run(
        self, batch: WindowBatch, given: dict[str, Any], number: int, states: Tensor, bias: Tensor | None,
        *, is_first: bool, training: bool,
    ) -> Outputs:  # fmt: skip
        """One pass through the layer's own forward."""
        if self.training != training:
            raise RuntimeError("cached_ds: model.train() or model.eval() was called between forward and backward")
        style, draws, encoder_pass = self._cached_ds.family.encoder_layer, batch.draws, batch.passes[number]
        inputs = {name: _part(value, batch.rows[number], states.shape[1]) for name, value in given.items()}
        if is_first:
            self._cached_ds.count_pass(encoder_pass.index + encoder_pass.num_windows)
            states = F.dropout(states, draws.dropout, training=training)
        if draws.layerdrop and torch.rand([]) < draws.layerdrop:
            return states, None
        if not style.own_mask:
            from transformers.masking_utils import create_bidirectional_mask  # before 5.0 `attach` says what is missing

            mask = encoder_pass.inputs.get("attention_mask")
            inputs["attention_mask"] = create_bidirectional_mask(
                config=self.encoder_config, inputs_embeds=states, attention_mask=mask
            )
        if style.position_bias:
            inputs["position_bias"] = bias
        outputs = super().forward(states, **inputs)
        if not style.position_bias:
            return (outputs if style.results is None else outputs[0]), None
        return outputs[0], outputs[1] if bias is None else None


def _part(value: Any, rows: slice, width: int) -> Any:
    """The rows of a mask [N, w] that belong to a pass; other arguments are the same for all passes."""
    return value[rows, :width] if isinstance(value, Tensor) else value


def attach_layers(encoder: Any) -> None:
    """Make the layers of a `Layered` encoder replay, in place."""
    layers = getattr(encoder, encoder._cached_ds.family.layers)
    for layer in layers:
        layer._cached_ds, layer.encoder_config, layer.is_last = encoder._cached_ds, encoder.config, layer is layers[-1]
        layer.__class__ = swapped_class(Replayed, layer.__class__)


def detach_layers(encoder: Any) -> None:
    """Undo `attach_layers`; other encoders stay as they are."""
    for layer in [module for module in encoder.modules() if isinstance(module, Replayed)]:
        layer.__class__ = base_of(layer)
        del layer._cached_ds, layer.encoder_config, layer.is_last
