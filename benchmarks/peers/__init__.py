"""Peers: what a user would do without cached_ds, each a file with one function.

    step(model, batch, *, window) -> loss      forward and backward of one document; gradients land in `.grad`

Nothing of cached_ds is imported here. `windows` cuts documents as cached_ds does, so all but `led` and `truncation`
compute the same gradients. `full`, `checkpointing` and `two_phase` can fold windows into the batch (`together`). No
peer is given the attention mask of a document without padding, which spares it the time and the memory of building one.
`coalesced` takes a DeepSpeed engine and is a peer of scaling.py.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from peers import checkpointing, full, led, published, truncation, two_phase

STEPS: dict[str, Callable[..., Tensor]] = {
    "truncation": truncation.step,
    "full": full.step,
    "checkpointing": checkpointing.step,
    "published": published.step,
    "two_phase": two_phase.step,
    "led": led.step,
}
EXACT = ("full", "checkpointing", "published", "two_phase")  # the gradients of the whole document
