"""The ways to learn from long documents that quality.py compares; all write from whole documents but one.

`step` leaves the gradients of a batch of documents of one length on the model; None: the model is attached, with
`fields`, and its own loss is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from peers import partial as parts
from peers import published, truncation

SAMPLED = 8  # windows of a batch


@dataclass(frozen=True)
class Learner:
    """One way to learn.

    Attributes:
        title: in tables.
        step: forward and backward of a batch.
        fields: of CachedConfig, where `step` is None.
        reads_all: whether it writes from whole documents, otherwise from their first window.
    """

    title: str
    step: Callable[..., Tensor] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    reads_all: bool = True


EXACT, TRUNCATED, PUBLISHED, PREFIX = "exact", "truncation", "published", "prefix"
LEARNERS = {
    EXACT: Learner("**cached_ds**, whole documents"),
    "sampled": Learner(f"cached_ds, `sampled_windows={SAMPLED}`", fields={"sampled_windows": SAMPLED}),
    PUBLISHED: Learner("the published step, as published", partial(published.step, defects=True)),
    "frozen": Learner("windows without gradient", parts.frozen_windows),
    "random_window": Learner("a random window per step", parts.random_window),
    PREFIX: Learner("the first quarter (SLED-like)", parts.prefix),
    "first_window": Learner("the first window (Unlimiformer-like)", truncation.step),
    TRUNCATED: Learner("truncation, in training and writing", truncation.step, reads_all=False),
}
