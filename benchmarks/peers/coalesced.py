"""Plain two-phase gradient caching on a DeepSpeed engine, its gradients reduced once by DeepSpeed's own means.

Inside `coalesce_grad_reduction` every backward adds to this rank's own gradients, and its end reduces them: ranks may
have different numbers of windows under ZeRO-1 and 2. ZeRO-3 gathers parameters for every window, so there they hang.
Without it ZeRO-2 reduces after every window: the gradients are wrong, and the collectives of ranks with different
numbers of windows do not match. Dropout must be off (no random streams).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from peers.windows import Window, cut, decode, encode, encode_without_graph


def step(engine: Any, batch: dict[str, Tensor], *, window: int) -> Tensor:
    """Forward and backward of this rank's documents, all of one length; `engine.step()` may follow."""
    windows = cut(batch["input_ids"], window=window)
    with engine.coalesce_grad_reduction():
        loss, gradient = _decoder_step(engine, windows, batch)
        for each in windows:
            product = encode(engine.module, each) * gradient[:, each.rows]
            engine.backward(product.sum(), scale_wrt_gas=False)  # G is divided by the steps of accumulation already
    return loss


def _decoder_step(engine: Any, windows: list[Window], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss and G [B, L, D]; the decoder's gradients are on this rank's parameters afterwards."""
    states = encode_without_graph(engine.module, windows, batch["input_ids"])
    loss = decode(engine, states, batch["labels"])
    engine.backward(loss)
    assert states.grad is not None
    return loss.detach(), states.grad
