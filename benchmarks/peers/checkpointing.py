"""Full backpropagation with Hugging Face's gradient checkpointing of every encoder and decoder layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from peers import full


def step(model: Any, batch: dict[str, Tensor], *, window: int) -> Tensor:
    """Forward and backward of one document."""
    model.activation_checkpointing_enable()  # until transformers 5: gradient_checkpointing_enable
    return full.step(model, batch, window=window)
