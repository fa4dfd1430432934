"""Plain two-phase gradient caching, as careful with memory as plain PyTorch allows.

H is filled in place; the decoder's step gives G and the decoder's gradients; H and the decoder's graph are freed; then
each window is encoded again and its rows of G are sent through it. Dropout must be off (no random streams).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peers.windows import Piece, cut, decode, encode


def step(model: Any, batch: dict[str, Tensor], *, window: int) -> Tensor:
    """Forward and backward of one document."""
    pieces = cut(batch["input_ids"], window=window)
    loss, gradient = _decoder_step(model, pieces, batch)
    for piece in pieces:
        torch.autograd.backward(encode(model, piece), gradient[piece.rows])
    return loss


def _decoder_step(model: Any, pieces: list[Piece], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss and G [L, D]; the decoder's gradients are on the model afterwards."""
    states = torch.empty(1, batch["input_ids"].shape[1], model.config.d_model, dtype=model.dtype)
    with torch.no_grad():
        for piece in pieces:
            states[0, piece.rows] = encode(model, piece)
    states.requires_grad_()
    loss = decode(model, states, batch["labels"])
    loss.backward()
    assert states.grad is not None
    return loss.detach(), states.grad[0]
