"""State: what `attach` leaves on a model's encoder and decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cached_ds.models.families import Family
from cached_ds.planning.budget import Budget
from cached_ds.replay.window_batch import Fold
from cached_ds.settings.config import CachedConfig


@dataclass
class WindowState:
    """One object for encoder and decoder. The counters serve progress bars, tests and benchmarks.

    Attributes:
        config: how to cut and replay.
        family: what there is to know of the architecture.
        decoder_layers: how many there are.
        budget: what was measured and decided about memory.
        prefix_lengths: of the model call under way, see attachment.py.
        compiled_shape: [N, w] of the passes that run compiled; None: not tried yet; empty: it cannot be done.
        keep_projections: whether cross-attention is to keep keys and values in the call under way.
        fold: of the forward under way, under the layer schedule.
    """

    config: CachedConfig
    family: Family
    decoder_layers: int
    budget: Budget
    prefix_lengths: Tensor | None = None
    compiled_shape: torch.Size | None = None
    keep_projections: bool = False
    fold: Fold | None = None
    tokens_read: int = 0
    windows_read: int = 0
    encoder_forwards: int = 0
