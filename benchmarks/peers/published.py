"""The published order of CachED (arXiv 2501.01805), mended where its gradients were wrong, or with these defects.

All chunks without a graph; the decoder forward and backward, which leaves G = dJ/dH; then chunk by chunk, forward with
a graph and backward of (h * G).sum(). Right slices, nothing zeroed in between; dropout must be off (no random streams).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peers.windows import cut, decode, encode


def step(model: Any, batch: dict[str, Tensor], *, window: int, defects: bool = False) -> Tensor:
    """Forward and backward of one document.

    With `defects` as its code does it: the encoder's gradients, tied embeddings among them, are zeroed after the
    decoder's backward, and a chunk's last state gets no gradient. With dropout, chunks differ between their two passes.
    """
    windows = cut(batch["input_ids"], window=window)
    with torch.no_grad():
        chunks = [encode(model, each) for each in windows]
    states = torch.cat(chunks, dim=1).requires_grad_()
    loss = decode(model, states, batch["labels"])
    loss.backward()
    assert states.grad is not None
    if defects:
        model.get_encoder().zero_grad()
    for each in windows:
        hidden = encode(model, each)
        wanted = states.grad[:, each.rows]
        if defects:
            wanted[:, -1] = 0
        (hidden * wanted).sum().backward()
    return loss.detach()
