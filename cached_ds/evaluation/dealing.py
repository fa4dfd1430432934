"""Dealing: work on documents that all ranks have, dealt to the ranks, and what comes of it gathered on every rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

T = TypeVar("T")


def by_all_ranks(work: Callable[[range], list[T]], count: int) -> list[T]:
    """What `work` makes of `count` documents, in their order, on every rank; all ranks must call it.

    Args:
        work: makes one result for each of the documents with these numbers.
        count: of the documents; a rank takes every so manieth.
    """
    ranks = PartialState()
    own = work(range(ranks.process_index, count, ranks.num_processes))
    if ranks.num_processes == 1:
        return own
    shares = [iter(share) for share in gather_object([own])]
    return [next(shares[number % len(shares)]) for number in range(count)]
