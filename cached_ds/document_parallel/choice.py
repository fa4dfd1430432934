"""Choice: how many ranks are to share a document, P, so that an epoch takes the least time.

All N ranks wait for the slowest of each step. Documents of about one length in a step (training/sampler.py) are no help
where a step holds a large part of all documents: then their lengths must differ. If P ranks share a document, a step
holds N / P documents, which differ less, and none takes longer than 1 / P of its tokens. But there are P times as many
steps, and each costs what does not depend on the document: the decoder, the engine, and what the group sends.

Model. A step of a document of t tokens takes a group of P ranks

    fixed + per_token * (tokens of the largest share) + bytes sent / bandwidth + collectives * latency    seconds

where shares are whole windows, and an epoch takes the documents by length, N / P in a step, each step as long as its
longest. No other order of one document per group and step takes less; the sampler's takes some per cent more
(`make balance`, which shows what P gains).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cached_ds.document_parallel.traffic import Traffic


@dataclass(frozen=True, kw_only=True)
class StepModel:
    """How long a step takes, forward and backward of one document.

    Attributes:
        fixed: seconds that it takes whatever the document's length.
        per_token: seconds of a token of the document, on one rank.
        window: tokens of a window.
        traffic: what the ranks of a group send each other; None: nothing that takes time.
        bandwidth: bytes per second that a rank sends.
        latency: seconds of a collective without data.
    """

    fixed: float
    per_token: float
    window: int = 1024
    traffic: Traffic | None = None
    bandwidth: float = math.inf
    latency: float = 0.0

    def seconds(self, length: int, *, ranks: int) -> float:
        """Of the slowest of the ranks that share a document of so many tokens."""
        most = self.window * math.ceil(math.ceil(length / self.window) / ranks)
        return self.fixed + self.per_token * min(length, most) + self.sending(ranks)

    def sending(self, ranks: int) -> float:
        """Seconds that the collectives of a group of so many ranks take; 0 for one rank."""
        if self.traffic is None or ranks == 1:
            return 0.0
        return self.traffic.sent(ranks) / self.bandwidth + self.traffic.collectives * self.latency


def epoch_seconds(lengths: Sequence[int], *, num_ranks: int, ranks_per_document: int, step: StepModel) -> float:
    """The least time of an epoch in which every group has one document in every step.

    Args:
        lengths: tokens of every document.
        num_ranks: all ranks, N.
        ranks_per_document: P, a divisor of N.
        step: how long a step takes.
    """
    longest_of_steps = sorted(lengths, reverse=True)[:: num_ranks // ranks_per_document]
    return sum(step.seconds(length, ranks=ranks_per_document) for length in longest_of_steps)


def choose_document_parallel(lengths: Sequence[int], *, num_ranks: int, step: StepModel) -> int:
    """The value of `CachedConfig.document_parallel` with which an epoch takes the least time; the least of several.

    A step then holds N / P documents: for the same batch, raise the accumulation as P is raised.

    Args:
        lengths: tokens of every document, or of a sample of as many documents as an epoch has.
        num_ranks: all ranks, N.
        step: how long a step takes.

    Raises:
        ValueError: there is no document or no rank.
    """
    if not lengths or num_ranks < 1:
        raise ValueError(f"{len(lengths)} documents on {num_ranks} ranks are refused; allowed is 1 or more of each")
    divisors = [size for size in range(1, num_ranks + 1) if num_ranks % size == 0]
    times = {size: epoch_seconds(lengths, num_ranks=num_ranks, ranks_per_document=size, step=step) for size in divisors}
    return min(divisors, key=times.__getitem__)
