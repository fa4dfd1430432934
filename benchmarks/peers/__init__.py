"""The peers: what a user would do without cached_ds, each a file with one function.

    step(model, batch, *, window) -> loss      forward and backward of one document; gradients land in `.grad`

`full` and `checkpointing` can also fold windows into the batch (`together`).

Nothing of cached_ds is imported here. Documents are cut as cached_ds cuts them (windows.py), so all but `led` and
`truncation` compute the same gradients. No peer is given the attention mask of a document without padding, which spares
it the time and the memory of building one.
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
