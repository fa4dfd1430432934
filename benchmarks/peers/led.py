"""LED on the whole document, its first token global, with gradient checkpointing of every layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def step(model: Any, batch: dict[str, Tensor], *, window: int) -> Tensor:  # noqa: ARG001 (LED's is in its config)
    """Forward and backward of one document; `model` is an LED whose attention window is `window`."""
    model.activation_checkpointing_enable()  # until transformers 5: gradient_checkpointing_enable
    ids = batch["input_ids"]
    is_global = torch.zeros_like(ids)
    is_global[:, 0] = 1
    loss = model(input_ids=ids, global_attention_mask=is_global, labels=batch["labels"]).loss
    loss.backward()
    return loss.detach()
