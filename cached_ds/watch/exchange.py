"""Exchange: cards and the verdict go through the store where the ranks met, on a connection of their own.

A rank writes its card and reads that of rank 0; rank 0, which judges, reads all. The first verdict holds. A store whose
process is stopped answers nothing, for ever; so the exchange has a thread of its own, and its owner looks at when the
last answer came.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from cached_ds.watch.card import Card

BEAT = 1.0  # seconds between two cards


class Exchange:
    """The cards of this rank and of others.

    Attributes:
        cards: by rank, the last that came: of all ranks on rank 0, elsewhere of rank 0.
        verdict: who is at fault, by whoever found it first; empty as long as nobody is.
        answered: when the store answered last, as `time.monotonic` has it.
        broken: whether the store is gone; `answered` then is when it went.
    """

    def __init__(self, *, rank: int, size: int, name: str) -> None:
        """Connect; `name` keeps several watches of one process apart."""
        self.rank, self.read = rank, [f"cards/{number}" for number in (range(size) if rank == 0 else (0,))]
        met: Any = distributed_c10d._get_default_store()  # torch's stubs do not know that it can be cloned
        self.store = dist.PrefixStore(name, met.clone())
        self.cards: dict[int, Card] = {}
        self.verdict, self.answered, self.broken = "", time.monotonic(), False
        self._came: dict[int, float] = {}
        self._stopped = threading.Event()

    def start(self, card: Callable[[], Card]) -> None:
        """Write the first card, so that this rank is known, and exchange cards from now on, in a thread."""
        self.store.set(f"cards/{self.rank}", card().line())
        self._thread = threading.Thread(target=self._run, args=(card,), name="cached_ds exchange", daemon=True)
        self._thread.start()

    def stop(self, card: Card) -> None:
        """Write a last card, and no more; a store that does not answer is not waited for."""
        self._stopped.set()
        self._thread.join(BEAT)
        if not self._thread.is_alive() and not self.broken:
            self.store.set(f"cards/{self.rank}", card.line())

    def silence(self) -> dict[int, float]:
        """Seconds since the last card of each rank came, up to the store's last answer."""
        return {rank: self.answered - came for rank, came in self._came.items()}

    def accuse(self, sentence: str) -> str:
        """Give a verdict, unless there is one; returns the one that holds, or `sentence` without a store."""
        if self.broken:
            return sentence
        try:
            return self.store.compare_set("verdict", "", sentence).decode()
        except dist.DistError:
            return sentence

    def _run(self, card: Callable[[], Card]) -> None:
        while not self._stopped.wait(BEAT):
            try:
                self._swap(card())
            except dist.DistError:
                self.broken = True
                return

    def _swap(self, own: Card) -> None:
        self.store.set(f"cards/{self.rank}", own.line())
        self.verdict = self.store.compare_set("verdict", "", "").decode()
        texts = self.store.multi_get(self.read) if self.store.check(self.read) else []
        self.answered = time.monotonic()
        for card in (Card.of(text.decode()) for text in texts):
            before = self.cards.get(card.rank)
            if before is None or before.beat != card.beat:
                self._came[card.rank] = self.answered
            self.cards[card.rank] = card
