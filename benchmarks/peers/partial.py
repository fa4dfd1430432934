"""Learning from a part of a document: what is done where exact gradients of the whole do not fit into memory.

    frozen_windows   the decoder reads all windows, but none of them has a graph
    random_window    one window, drawn anew at every step, is all that is read
    prefix           the first quarter of the document, by full backpropagation (SLED trains on 16K tokens, and reads
                     more when it writes; Ivgi et al. 2023)

`truncation.step` is the shortest prefix; with full length when writing it is what Unlimiformer calls low-cost training
(Bertsch et al. 2023).
"""

from __future__ import annotations

import random
from typing import Any

from torch import Tensor

from peers import full
from peers.windows import cut, decode, encode, encode_without_graph


def frozen_windows(model: Any, batch: dict[str, Tensor], *, window: int) -> Tensor:
    """Forward of a whole document, backward of the decoder."""
    states = encode_without_graph(model, cut(batch["input_ids"], window=window), batch["input_ids"])
    loss = decode(model, states, batch["labels"])
    loss.backward()
    return loss.detach()


def random_window(model: Any, batch: dict[str, Tensor], *, window: int) -> Tensor:
    """Forward and backward of one window, drawn by Python's generator."""
    loss = decode(model, encode(model, random.choice(cut(batch["input_ids"], window=window))), batch["labels"])
    loss.backward()
    return loss.detach()


def prefix(model: Any, batch: dict[str, Tensor], *, window: int) -> Tensor:
    """Forward and backward of a document's first quarter, and of one window at least."""
    length = max(window, batch["input_ids"].shape[1] // 4)
    return full.step(model, batch | {"input_ids": batch["input_ids"][:, :length]}, window=window)
