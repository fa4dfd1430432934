"""Plain two-phase gradient caching, as careful with memory as plain PyTorch allows.

H is filled in place; the decoder's step gives G and the decoder's gradients; H and the decoder's graph are freed; then
each window is encoded again and its rows of G are sent through it. Dropout must be off (no random streams).
`together` windows are folded into the batch of one encoder call: on a GPU one window alone leaves most of it idle.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peers.windows import Window, cut, decode, encode_group, groups


def step(model: Any, batch: dict[str, Tensor], *, window: int, together: int = 1) -> Tensor:
    """Forward and backward of one document."""
    folded = groups(cut(batch["input_ids"], window=window), together=together)
    loss, gradient = _decoder_step(model, folded, batch)
    for some in folded:
        torch.autograd.backward(encode_group(model, some), [gradient[each.rows] for each in some])
    return loss


def _decoder_step(model: Any, folded: list[list[Window]], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss and G [L, D]; the decoder's gradients are on the model afterwards."""
    shape = (1, batch["input_ids"].shape[1], model.config.d_model)
    states = torch.empty(shape, dtype=model.dtype, device=model.device)
    with torch.no_grad():
        for some in folded:
            for each, kept in zip(some, encode_group(model, some), strict=True):
                states[0, each.rows] = kept
    states.requires_grad_()
    loss = decode(model, states, batch["labels"])
    loss.backward()
    assert states.grad is not None
    return loss.detach(), states.grad[0]
