"""Folded: the class an encoder gets by `attach` under the layer schedule.

It cuts as `Windowed` does, but then runs the encoder's own forward once, over the fold of all windows, and its layers
(layerwise.py) do the replaying. So each of its modules is called once per step, whatever the number of windows: the
encoder need not be a leaf for ZeRO-3, nor gathered whole.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cached_ds.encoder.guards import check_own
from cached_ds.encoder.layerwise import Layerwise
from cached_ds.encoder.windowed import Windowed
from cached_ds.models.class_swap import base_of, swapped_class
from cached_ds.replay.by_window import Job
from cached_ds.replay.window_batch import Fold, Unfold, without_draws

PLAIN = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}  # whatever the config says


class Folded(Windowed):
    """Mixin over a Hugging Face encoder class; see the module's docstring."""

    _z3_leaf = False

    def _check(self) -> None:
        """Its layers check that they are whole; its other modules are called once, whatever an engine does to them."""
        check_own(self)

    def _read(self, job: Job[Any], anchor: Tensor) -> Tensor:  # noqa: ARG002
        """States [B, L, D]; the layers have anchors of their own."""
        fold = Fold(job.passes, job.streams, job.buffer, job.kept, self.cached.config.offload != "none")
        self.cached.fold = fold
        try:
            with without_draws(self) as probabilities:
                fold.dropout, fold.layerdrop = probabilities if self.training else (0.0, 0.0)
                states = super(Windowed, self).forward(**self._inputs(fold), **PLAIN).last_hidden_state
        finally:
            self.cached.fold = None
        if isinstance(self.dropout, nn.Dropout):  # T5 drops after its last layer too
            states = fold.drop(states)
        job.streams.settle()
        return Unfold.apply(states, fold, job.shape)

    def _inputs(self, fold: Fold) -> dict[str, Tensor]:
        """The encoder's inputs [N, w]; masks only where the encoder makes more of them than its layers can."""
        inputs = {"input_ids": fold.inputs("input_ids", fill=self.config.pad_token_id)}
        if self.cached.family.encoder_layer.own_mask:
            inputs |= {name: fold.inputs(name, fill=0) for name in ("attention_mask", "global_attention_mask")}
        return inputs


def attach_layers(encoder: Any) -> None:
    """Let the layers of a folded encoder replay, in place."""
    layers = getattr(encoder, encoder.cached.family.layers)
    for layer in layers:
        layer.cached, layer.encoder_config, layer.is_last = encoder.cached, encoder.config, layer is layers[-1]
        layer.__class__ = swapped_class(Layerwise, layer.__class__)


def detach_layers(encoder: Any) -> None:
    """Undo `attach_layers`; nothing happens where it was not done."""
    for layer in [module for module in encoder.modules() if isinstance(module, Layerwise)]:
        layer.__class__ = base_of(layer)
        del layer.cached, layer.encoder_config, layer.is_last
