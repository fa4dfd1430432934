"""Plain two-phase gradient caching, as careful with memory as plain PyTorch allows.

H is filled in place; the decoder's step gives G and the decoder's gradients; H and the decoder's graph are freed; then
each window is encoded again and its rows of G are sent through it. Dropout must be off (no random streams).
`together` windows are folded into the batch of one encoder call: on a GPU one window alone leaves most of it idle.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peers.windows import cut, decode, encode_group, encode_without_graph, groups


def step(model: Any, batch: dict[str, Tensor], *, window: int, together: int = 1) -> Tensor:
    """Forward and backward of one document."""
    windows = cut(batch["input_ids"], window=window)
    states = encode_without_graph(model, windows, batch["input_ids"], together=together)
    loss, gradient = _decoder_step(model, states, batch["labels"])
    del states  # G is all that is left of the decoder's step
    for some in groups(windows, together=together):
        torch.autograd.backward(encode_group(model, some), [gradient[:, each.rows] for each in some])
    return loss


def _decoder_step(model: Any, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and G [B, L, D]; the decoder's gradients are on the model afterwards."""
    loss = decode(model, states, labels)
    loss.backward()
    assert states.grad is not None
    return loss.detach(), states.grad
