"""Rows: which rows of the training data a rank reads in a step, found again from the order of the sampler.

Batches do not say where they come from. But the order of an epoch follows from the sampler, so that the rows need not
be carried along: they are asked for when something has gone wrong.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from torch.utils.data import SequentialSampler

from cached_ds.training.sampler import LengthBalancedSampler


def rows_of_step(loader: Any, *, step: int, accumulation: int) -> list[list[int]]:
    """Numbers of the rows in each micro-batch of this rank's step.

    Args:
        loader: the training data loader, as accelerate has prepared it; its sampler is in the epoch of the step.
        step: optimizer steps before this one, since the beginning of training.
        accumulation: micro-batches of a step.

    Returns:
        A list for each micro-batch; none where the order cannot be found again.
    """
    batches: Any = getattr(loader, "batch_sampler", None)
    inner = getattr(batches, "batch_sampler", batches)  # accelerate's share of a rank is around that of all
    if not isinstance(getattr(inner, "sampler", None), LengthBalancedSampler | SequentialSampler):
        return []
    begin = step % math.ceil(len(batches) / accumulation) * accumulation
    return [list(rows) for rows in itertools.islice(batches, begin, begin + accumulation)]
