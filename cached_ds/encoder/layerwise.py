"""Layerwise: an encoder layer that replays over the passes of a fold, for encoders too large to gather whole.

Problem. Under the window schedule the whole encoder is gathered (and its sums of gradients exist) at one time. An
encoder larger than a device needs a layer at a time; but a layer at a time and a window at a time would gather every
layer once per window, and ranks with different numbers of windows would wait for each other for ever.

Flow (design 3): the encoder's own forward runs once, over all windows (window_batch.py); each of its layers
is a node that
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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig
from transformers.masking_utils import create_bidirectional_mask

from cached_ds.encoder.guards import check_gathered
from cached_ds.encoder.state import WindowState
from cached_ds.models.class_swap import Swapped
from cached_ds.replay.by_layer import LayerJob, Outputs, through_layer
from cached_ds.replay.window_batch import Fold

POSITIONAL = ("attention_mask", "position_bias")  # how T5 and BART hand them to a layer


class Layerwise(Swapped):
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


def _part(value: Any, rows: slice, width: int) -> Any:
    """A mask [N, w] of a pass; other arguments go to every pass."""
    return value[rows, :width] if isinstance(value, Tensor) else value
