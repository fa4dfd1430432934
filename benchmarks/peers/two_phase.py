"""Plain two-phase gradient caching, as careful with memory as plain PyTorch allows.

H is filled in place; the decoder's step gives G and the decoder's gradients; H and the decoder's graph are freed; then
each window is encoded again and its rows of G are sent through it. Dropout must be off (no random streams).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peers.windows import Window, cut, decode, encode, encode_without_graph


def step(model: Any, batch: dict[str, Tensor], *, window: int) -> Tensor:
    """Forward and backward of one document."""
    windows = cut(batch["input_ids"], window=window)
    loss, gradient = _decoder_step(model, windows, batch)
    for each in windows:
        torch.autograd.backward(encode(model, each), gradient[:, each.rows])
    return loss


def _decoder_step(model: Any, windows: list[Window], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss and G [B, L, D]; the decoder's gradients are on the model afterwards."""
    states = encode_without_graph(model, windows, batch["input_ids"])
    loss = decode(model, states, batch["labels"])
    loss.backward()
    assert states.grad is not None
    return loss.detach(), states.grad
