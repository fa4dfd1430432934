"""Tuning: what an encoder decides before it reads a batch, where its config leaves that to the machine.

How many windows go through together, how many passes keep their graph, whether the layers can be compiled. What needs
a measurement takes it once, in the first forward, with full windows of the batch's own tokens and a random stream that
is put back: results are those of a run without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cached_ds.encoder.state import WindowState
from cached_ds.planning.budget import graph_bytes
from cached_ds.planning.compiled import try_compile
from cached_ds.replay.rng import RandomStreams
from cached_ds.replay.sums import add_, zero_sums
from cached_ds.windows.passes import Batch, Cutter, EncoderPass


@dataclass(frozen=True)
class Tuner:
    """The decisions for one batch; `encode` is the encoder, `encoder` its module."""

    state: WindowState
    cutter: Cutter
    batch: Batch
    encode: Callable[[EncoderPass], Tensor]
    encoder: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the encoder reads."""
        return next(self.encoder.parameters()).device

    def windows_per_pass(self) -> int:
        """As configured, or the fastest; then the layers are compiled for it, if that is asked for."""
        config = self.state.config
        with RandomStreams(0, self.device).stream(0):
            if "auto" in (config.windows_per_pass, config.recompute):
                self._measure_window()
            count = self._fastest() if config.windows_per_pass == "auto" else int(config.windows_per_pass)
            if config.compile and self.state.compiled_shape is None:
                self._compile(self._trial(count))
        return count

    def kept(self, passes: Sequence[EncoderPass], parameters: Sequence[Tensor]) -> int:
        """How many passes keep their graph; notes as well whether keys and values are kept."""
        config, least = self.state.config, self._least_kept(parameters)
        self.state.keep_projections = False
        if config.recompute != "auto":
            return least if config.recompute == "all" else int(config.recompute)
        if not torch.is_grad_enabled() or not parameters:
            return 0
        of_states = self.batch.input_ids.numel() * self.cutter.model_config.hidden_size * parameters[0].itemsize
        kept, self.state.keep_projections = self.state.budget.choose_kept(
            [piece.inputs["input_ids"].numel() / config.window for piece in passes],
            reserve=2 * of_states + 4 * sum(parameter.nbytes for parameter in parameters),
            projections=2 * of_states * self.state.decoder_layers,
            device=self.device,
        )
        return max(least, kept)

    def _least_kept(self, parameters: Sequence[Tensor]) -> int:
        """One pass, since backward begins with it and has room for one graph anyway.

        None where that graph would hold more than itself: under the layer schedule the layers that are not at work,
        under ZeRO-3 the gathered weights between forward and backward.
        """
        is_partitioned = any(hasattr(parameter, "ds_id") for parameter in parameters)
        return int(self.state.config.schedule == "window" and not is_partitioned)

    def _trial(self, count: int) -> EncoderPass:
        return self.cutter.trial(count, self.batch, self.device)

    def _measure_window(self) -> None:
        budget, trial = self.state.budget, self._trial(1)
        if not budget.window_bytes:
            budget.window_bytes = graph_bytes(lambda: self.encode(trial), list(self.encoder.parameters()))

    def _fastest(self) -> int:
        return self.state.budget.choose_windows(lambda count: self._read(self._trial(count)), device=self.device)

    def _read(self, trial: EncoderPass) -> None:
        """Read a pass; where the encoder learns, go back through it too, which costs something for every pass."""
        states = self.encode(trial)
        if states.requires_grad:
            parameters = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
            add_(
                zero_sums(parameters),
                torch.autograd.grad(states, parameters, torch.ones_like(states), allow_unused=True),
            )

    def _compile(self, trial: EncoderPass) -> None:
        self.state.compiled_shape = trial.inputs["input_ids"].shape
        layers = list(getattr(self.encoder, self.state.family.layers))
        if not try_compile(layers, lambda: self.encode(trial)):
            self.state.compiled_shape = torch.Size()
