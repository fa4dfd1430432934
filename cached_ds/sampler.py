"""Orders documents so that all ranks have about the same number of tokens in every step.

In every step the ranks wait for the one with the most tokens. With random batches of documents whose lengths differ a
hundredfold most of the time is waiting; the share of rank-time lost, with t[s, r] the tokens of rank r in step s, is

    idle share = 1 - sum_s sum_r t[s, r] / (num_ranks * sum_s max_r t[s, r])

Per epoch: shuffle the documents; cut them into pools of some steps each; sort a pool by length and cut it into steps
of num_ranks * batch_size documents of similar length; deal a step's documents to the ranks, longest first, each to the
rank with the fewest tokens; shuffle the steps. Documents left over from whole steps come last.

The order is global: accelerate's `BatchSamplerShard` gives batch number step * num_ranks + r to rank r, and fills the
last step with the epoch's first documents.

Ranks meet in every micro-step under FSDP2 and ZeRO-3, so the balance holds within micro-steps, whatever the
accumulation.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


class LengthBalancedSampler(Sampler[int]):
    """Yields every document's index once per epoch, balanced over ranks; the order depends on (seed, epoch) only."""

    def __init__(
        self, lengths: Sequence[int], *, batch_size: int, num_ranks: int, seed: int = 0, pool_steps: int = 64
    ) -> None:
        """Take the documents' token counts; more steps in a pool give a better balance and a less random order."""
        for name, value in (("batch_size", batch_size), ("num_ranks", num_ranks), ("pool_steps", pool_steps)):
            if value < 1:
                raise ValueError(f"{name}={value} is refused; allowed is an integer >= 1")
        self.lengths = lengths
        self.batch_size = batch_size
        self.num_ranks = num_ranks
        self.seed = seed
        self.pool_steps = pool_steps
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield this epoch's order."""
        rng = random.Random(f"{self.seed},{self.epoch}")
        documents = list(range(len(self.lengths)))
        rng.shuffle(documents)
        per_step = self.batch_size * self.num_ranks
        num_steps = len(documents) // per_step
        steps = [
            self._deal(pool[start : start + per_step], rng=rng)
            for pool in self._pools(documents, num_steps=num_steps)
            for start in range(0, len(pool), per_step)
        ]
        rng.shuffle(steps)
        yield from itertools.chain.from_iterable(steps)
        yield from documents[num_steps * per_step :]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def _pools(self, documents: list[int], *, num_steps: int) -> Iterator[list[int]]:
        """Cut the documents of whole steps into pools of nearly equal size, each sorted by length."""
        num_pools = -(-num_steps // self.pool_steps)
        per_step = self.batch_size * self.num_ranks
        bounds = [number * num_steps // num_pools * per_step for number in range(num_pools + 1)] if num_pools else []
        for start, end in itertools.pairwise(bounds):
            yield sorted(documents[start:end], key=self.lengths.__getitem__)

    def _deal(self, documents: list[int], *, rng: random.Random) -> list[int]:
        """Order one step's documents by rank, `batch_size` to each, with token sums as equal as greed makes them."""
        hands: list[list[int]] = [[] for _ in range(self.num_ranks)]
        tokens = [0] * self.num_ranks
        for document in sorted(documents, key=self.lengths.__getitem__, reverse=True):
            open_ranks = (rank for rank, hand in enumerate(hands) if len(hand) < self.batch_size)
            rank = min(open_ranks, key=tokens.__getitem__)
            hands[rank].append(document)
            tokens[rank] += self.lengths[document]
        rng.shuffle(hands)  # or rank 0 would always hold the longest document
        return list(itertools.chain.from_iterable(hands))


def idle_share(lengths: Sequence[int], order: Sequence[int], *, batch_size: int, num_ranks: int) -> float:
    """Return the share of rank-time spent waiting for the slowest rank of each step, where a token costs one unit."""
    per_step = batch_size * num_ranks
    missing = -len(order) % per_step
    filled = [
        lengths[document] for document in itertools.chain(order, itertools.islice(itertools.cycle(order), missing))
    ]
    tokens = [sum(filled[start : start + batch_size]) for start in range(0, len(filled), batch_size)]
    slowest = sum(max(tokens[start : start + num_ranks]) for start in range(0, len(tokens), num_ranks))
    return 1 - sum(tokens) / (num_ranks * slowest)
