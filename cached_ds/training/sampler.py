"""Sampler: documents in an order in which all ranks have about the same number of tokens in every step.

In every step the ranks wait for the one with the most tokens. With random batches of documents whose lengths differ a
hundredfold, most of the time is spent waiting; `make balance` simulates how much, and how much is left in this order.

Per epoch:

1. Sort the documents by length. Each length is jittered a little first, so that a document does not meet the same
   others in every epoch.
2. Take the documents that do not fill a whole step out of the sorted list, at a random place: they are the last step.
   accelerate fills it up with the epoch's first documents, so the epoch begins with the step next to that place,
   shortest documents first.
3. Cut the others into steps of num_ranks * batch_size and shuffle the steps, except that the one with the longest
   document comes next: if memory does not suffice, the run fails early.
4. Deal a step's documents to the ranks, longest first, each to the rank with the fewest tokens.

The order is global: accelerate's `BatchSamplerShard` gives batch number step * num_ranks + r to rank r. Ranks meet in
every micro-step under FSDP2 and ZeRO-3, so the balance holds within micro-steps, whatever the accumulation.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerState


class LengthBalancedSampler(Sampler[int]):
    """Yields every document's index once per epoch, balanced over ranks; the order depends on (seed, epoch) only."""

    def __init__(
        self, lengths: Sequence[int], *, batch_size: int, num_ranks: int, seed: int = 0, jitter: float = 0.04
    ) -> None:
        """Take the documents' token counts.

        Args:
            lengths: tokens of every document.
            batch_size: documents per rank and step.
            num_ranks: ranks that meet in every step.
            seed: of all random choices.
            jitter: by how much (standard deviation of the logarithm) lengths are changed before documents are sorted;
                more gives a more random order and more waiting.

        Raises:
            ValueError: a number out of range.
        """
        for name, value in (("batch_size", batch_size), ("num_ranks", num_ranks)):
            if value < 1:
                raise ValueError(f"{name}={value} is refused; allowed is an integer >= 1")
        if not 0 <= jitter < math.inf:
            raise ValueError(f"jitter={jitter} is refused; allowed is a number >= 0")
        self.lengths = lengths
        self.batch_size = batch_size
        self.num_ranks = num_ranks
        self.seed = seed
        self.jitter = jitter
        self.epoch = 0

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield this epoch's order."""
        rng = random.Random(f"{self.seed},{self.epoch}")
        steps, last = self._cut(self._by_length(rng), rng=rng)
        for number, step in enumerate(steps):
            hands = self._deal(step)
            if number > 0:
                rng.shuffle(hands)  # or rank 0 would always hold the shortest document
            yield from itertools.chain.from_iterable(hands)
        yield from last

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def _by_length(self, rng: random.Random) -> list[int]:
        """Sort the documents by jittered length; equal ones come in random order."""
        documents = list(range(len(self.lengths)))
        rng.shuffle(documents)
        jittered = [math.log(max(1, length)) + rng.gauss(0, self.jitter) for length in self.lengths]
        return sorted(documents, key=jittered.__getitem__)

    def _cut(self, documents: list[int], *, rng: random.Random) -> tuple[list[list[int]], list[int]]:
        """Cut sorted documents into whole steps, in the order of the epoch, and the incomplete last one."""
        per_step = self.batch_size * self.num_ranks
        num_steps, leftover = divmod(len(documents), per_step)
        place = rng.randrange(max(1, num_steps))
        start, end = place * per_step, place * per_step + leftover
        last, others = documents[start:end], documents[:start] + documents[end:]
        rng.shuffle(last)
        steps = [others[i : i + per_step] for i in range(0, len(others), per_step)]
        first = steps[place : place + 1]
        del steps[place : place + 1]
        rng.shuffle(steps)
        longest = max(others, key=self.lengths.__getitem__, default=None)
        steps.sort(key=lambda step: longest not in step)
        return first + steps, last

    def _deal(self, documents: list[int]) -> list[list[int]]:
        """Deal `batch_size` documents to each rank, with sums of tokens as equal as a greedy deal makes them.

        The smallest sum comes first.
        """
        hands: list[list[int]] = [[] for _ in range(self.num_ranks)]
        open_hands = [(0, rank) for rank in range(self.num_ranks)]
        for document in sorted(documents, key=self.lengths.__getitem__, reverse=True):
            tokens, rank = heapq.heappop(open_hands)
            hands[rank].append(document)
            if len(hands[rank]) < self.batch_size:
                heapq.heappush(open_hands, (tokens + self.lengths[document], rank))
        return sorted(hands, key=lambda hand: sum(self.lengths[document] for document in hand))


class EpochCallback(TrainerCallback):
    """Tells the sampler which epoch begins, also where a run goes on in the midst of one.

    There accelerate wraps the batch sampler once more, to skip what has been read, and its `set_epoch` no longer reaches
    the sampler: on several ranks the rest of the epoch would come in the order of the first.
    """

    def on_epoch_begin(self, _: Any, state: TrainerState, *__: Any, train_dataloader: Any, **___: Any) -> None:
        """Look for the sampler at the bottom of the data loader."""
        level = train_dataloader
        while (below := getattr(level, "batch_sampler", None)) is not None:
            level = below
        sampler: Any = getattr(level, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(int(state.epoch or 0))
