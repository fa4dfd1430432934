"""Full backpropagation with Hugging Face's gradient checkpointing of every encoder and decoder layer.

`together` windows are folded into the batch of one encoder call: 4 were 2 % faster than 1, but take more memory.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from peers import full


def step(model: Any, batch: dict[str, Tensor], *, window: int, together: int = 1) -> Tensor:
    """Forward and backward of one document."""
    model.activation_checkpointing_enable()  # until transformers 5: gradient_checkpointing_enable
    return full.step(model, batch, window=window, together=together)
