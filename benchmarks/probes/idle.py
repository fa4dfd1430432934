"""Idle share: how long the ranks wait for the slowest of each step under an order of documents.

With t[s, r] the time of rank r in step s,

    idle share = 1 - sum_s sum_r t[s, r] / (num_ranks * sum_s max_r t[s, r])
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def idle_share(
    lengths: Sequence[float], order: Sequence[int], *, batch_size: int, num_ranks: int, fixed_tokens: float = 0
) -> float:
    """The share of rank-time spent waiting for the slowest rank of each step; arguments as `rank_times`."""
    steps = rank_times(lengths, order, batch_size=batch_size, num_ranks=num_ranks, fixed_tokens=fixed_tokens)
    return 1 - sum(map(sum, steps)) / (num_ranks * sum(map(max, steps)))


def rank_times(
    lengths: Sequence[float], order: Sequence[int], *, batch_size: int, num_ranks: int, fixed_tokens: float = 0
) -> list[list[float]]:
    """Every rank's time in each step, in the unit of `lengths`; accelerate fills the last one with the first documents.

    Args:
        lengths: tokens of every document, or its time in another unit.
        order: the documents in the order of the epoch.
        batch_size: documents per rank and step.
        num_ranks: ranks that meet in every step.
        fixed_tokens: the cost of a step beside its tokens, in the time of as many tokens.
    """
    missing = -len(order) % (batch_size * num_ranks)
    filled = [
        lengths[document] for document in itertools.chain(order, itertools.islice(itertools.cycle(order), missing))
    ]
    work = [fixed_tokens + sum(filled[start : start + batch_size]) for start in range(0, len(filled), batch_size)]
    return [work[start : start + num_ranks] for start in range(0, len(work), num_ranks)]
