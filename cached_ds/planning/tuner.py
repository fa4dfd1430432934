"""Tuner: what an encoder decides before it encodes a batch, where its config leaves that to the machine.

How many windows form a pass, how many passes save their graph, whether the layers can be compiled. Each measurement is
made once, in the first forward, with full windows of the batch's own tokens. The generators are put back afterwards, so
results are those of a run without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cached_ds.planning.budget import Budget, graph_bytes
from cached_ds.planning.compiled import try_compile
from cached_ds.replay.autocast import Autocast
from cached_ds.replay.rng import ReplayRng
from cached_ds.replay.sums import add_, zero_sums
from cached_ds.settings import device_sizes
from cached_ds.settings.config import CachedConfig
from cached_ds.windows.passes import Batch, Cutter, EncoderPass


@dataclass(frozen=True)
class Tuner:
    """The decisions for one batch.

    Attributes:
        config: what is left to the machine.
        budget: keeps the decisions that are made once.
        cutter: makes passes to measure with.
        batch: whose tokens these passes hold.
        encode: encodes a pass.
        encoder: the module that does so.
        layers: the encoder's layers, to be compiled.
    """

    config: CachedConfig
    budget: Budget
    cutter: Cutter
    batch: Batch
    encode: Callable[[EncoderPass], Tensor]
    encoder: nn.Module
    layers: Sequence[nn.Module]

    @property
    def device(self) -> torch.device:
        """The device of the encoder's parameters."""
        return next(self.encoder.parameters()).device

    def prepare(self) -> int:
        """Measure, time and compile in the first forward; keep to what was decided in all others.

        Returns the number of windows per pass.
        """
        with ReplayRng(0, self.device).fork(0):
            if "auto" in (self.config.windows_per_pass, self.config.recompute):
                self._measure_window()
            count = self._windows_per_pass()
            if self.config.compile and self.budget.compiled_shape is None:
                self._compile(self._sample(count))
        return count

    def choose_saved(self, passes: Sequence[EncoderPass], parameters: Sequence[Tensor]) -> tuple[int, bool]:
        """How many passes save their graph for backward, and whether cross-attention keeps keys and values."""
        least = self._least_saved(parameters)
        if self.config.recompute != "auto":
            return least if self.config.recompute == "all" else int(self.config.recompute), False
        if not torch.is_grad_enabled() or not parameters:
            return 0, False
        rows = math.ceil(self.batch.input_ids.numel() / self.config.document_parallel)
        of_states = rows * self.cutter.model_config.hidden_size * parameters[0].itemsize
        num_saved, keep_projections = self.budget.choose_saved(
            [encoder_pass.inputs["input_ids"].numel() / self.config.window for encoder_pass in passes],
            reserve=2 * of_states + 4 * sum(parameter.nbytes for parameter in parameters),
            projections=2 * of_states * self.budget.decoder_layers,
            device=self.device,
        )
        return max(least, num_saved), keep_projections

    def _windows_per_pass(self) -> int:
        asked = self.config.windows_per_pass
        if asked == "auto":
            return self.budget.choose_windows(lambda count: self._read(self._sample(count)), device=self.device)
        return self._fitting_windows() if asked is None else int(asked)

    def _fitting_windows(self) -> int:
        """As many windows as a device of this kind is given, if their graph fits; a layer's graph always does."""
        count = device_sizes.windows_per_pass(self.device, self.config.window)
        if count == 1 or self.config.schedule == "layer":
            return count
        self._measure_window()
        return self.budget.fitting_windows(count, device=self.device)

    def _least_saved(self, parameters: Sequence[Tensor]) -> int:
        """How many passes always save their graph: one, as backward begins with it and has room for one graph anyway.

        None where that graph would keep more than itself: under the layer schedule the graphs of the layers that are
        not at work, under ZeRO-3 the gathered weights between forward and backward.
        """
        is_partitioned = any(hasattr(parameter, "ds_id") for parameter in parameters)
        return int(self.config.schedule == "window" and not is_partitioned)

    def _sample(self, count: int) -> EncoderPass:
        return self.cutter.sample_pass(count, self.batch, self.device)

    def _measure_window(self) -> None:
        if self.budget.window_bytes:
            return
        found = self._graph_bytes(1)
        if Autocast.current(self.device).enabled:  # the weights' casts are kept by every graph, but only once
            found = self._graph_bytes(2) - found
        self.budget.window_bytes = max(1, found)  # a frozen encoder's graph keeps nothing

    def _graph_bytes(self, count: int) -> int:
        sample = self._sample(count)
        return graph_bytes(lambda: self.encode(sample), list(self.encoder.parameters()))

    def _read(self, sample: EncoderPass) -> None:
        """Encode a pass; if the encoder learns, run its backward too, whose cost also depends on the size of a pass."""
        states = self.encode(sample)
        if states.requires_grad:
            parameters = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
            found = torch.autograd.grad(states, parameters, torch.ones_like(states), allow_unused=True)
            add_(zero_sums(parameters), found)

    def _compile(self, sample: EncoderPass) -> None:
        # During the attempt, too, the layers run compiled for this shape.
        self.budget.compiled_shape = sample.inputs["input_ids"].shape
        if not try_compile(self.layers, lambda: self.encode(sample)):
            self.budget.compiled_shape = torch.Size()
