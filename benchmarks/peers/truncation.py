"""Truncation, the floor: the first window only, the rest of the document is never read."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def step(model: Any, batch: dict[str, Tensor], *, window: int) -> Tensor:
    """Forward and backward of a document's first window."""
    loss = model(input_ids=batch["input_ids"][:, :window], labels=batch["labels"]).loss
    loss.backward()
    return loss.detach()
