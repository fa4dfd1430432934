"""Full backpropagation: the graphs of all windows at once, the decoder attends to all of them.

Windows one after another: folding them into the batch computes the same and was slower (see `folded` in the tests).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from peers.windows import cut, decode, encode


def step(model: Any, batch: dict[str, Tensor], *, window: int) -> Tensor:
    """Forward and backward of one document."""
    states = torch.cat([encode(model, piece) for piece in cut(batch["input_ids"], window=window)])[None]
    loss = decode(model, states, batch["labels"])
    loss.backward()
    return loss.detach()
