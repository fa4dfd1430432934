"""Watchdog: a thread that ends this rank when the run stands still, another rank has failed, or the launcher is gone.

Once a second it notes whether anything has moved, and looks at

  1. the launcher: a rank without one ends;
  2. the verdict: the sentence of a rank that has failed, or that found out who is at fault; a rank that hears one ends;
  3. the store: if it is gone or silent, its process is: rank 0, or torchrun's;
  4. the cards (culprit.py), of all ranks on rank 0, of rank 0 elsewhere: whoever finds a culprit gives the verdict.

It reads numbers of the host only, and never waits for the device. All stacks go to the rank's log first. The process
then ends at once: its main thread may hold any lock, so no exit handler runs.

A rank whose interpreter does not run, as in DeepSpeed's shared-memory operators, which wait for each other with the GIL
held, has no thread that could look. `faulthandler` ends it: a timer in C that the watchdog winds up again every second.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, TextIO

import psutil
from torch.distributed import distributed_c10d

from cached_ds.leaving import drop
from cached_ds.watch.card import Card, Place
from cached_ds.watch.culprit import STOPPED, Verdict, silent, stuck
from cached_ds.watch.exchange import BEAT, Exchange
from cached_ds.watch.launcher import Launcher

ENDED = 3 * BEAT  # seconds of silence after which a rank that another has lost, or the store, is gone
HEARD = 2 * BEAT  # seconds in which all others have read a verdict
LAST_WORDS = 10  # seconds for what is done before the end
logger = logging.getLogger(__name__)
_started: list[Watchdog] = []  # by this process, one after another; the last one watches


class Watchdog:
    """Watches one run on this rank.

    Args:
        rank: of this process.
        size: number of ranks; a process that is alone has no others to hear of.
        limit: seconds without any movement after which a run that trains is ended; 0: it never is.
        launcher: what has started this process; None: its end is no reason to end.
    """

    def __init__(self, *, rank: int, size: int, limit: float, launcher: Launcher | None) -> None:
        """Note who this process is."""
        self.rank, self.size, self.limit, self.launcher = rank, size, limit or float("inf"), launcher
        born = psutil.Process().create_time()
        self.card = Card(rank=rank, host=socket.gethostname(), pid=os.getpid(), born=born)
        self.exchange = Exchange(rank=rank, size=size, name=f"watch_{len(_started)}") if size > 1 else None
        self._place: Callable[[], Place] | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Watch from now on, until `stop`."""
        _started.append(self)
        self._thread = threading.Thread(target=self._watch, name="cached_ds watchdog", daemon=True)
        self._thread.start()
        if self.exchange is not None:
            self.exchange.start(lambda: self.card)

    def __enter__(self) -> Self:
        """Watch to the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Watch no longer, unless an error ends this rank, whose watchdog has to tell the others."""
        if kind is None or self.exchange is None:
            self.stop()

    def stop(self) -> None:
        """Watch no longer: the work is done."""
        self._quiet()
        if self.exchange is not None:
            self.exchange.stop(dataclasses.replace(self.card, over=True))

    def where(self) -> str:
        """` (step 7, window 12 of 40)`, or nothing while this rank does not train."""
        return "" if self._place is None else f" ({self._place()})"

    def follow(self, place: Callable[[], Place] | None) -> None:
        """Training begins, and `place` says where it is; None: training is over."""
        self._place = place

    def failed(self, sentence: str) -> None:
        """Tell the other ranks why this one ends, and give them the time to hear it."""
        self._quiet()
        if self.exchange is not None:
            self.exchange.accuse(sentence)
            time.sleep(HEARD if self.rank == 0 else 0)  # the store may end with this process

    def bereft(self) -> None:
        """Wait for the verdict about a rank that this one has lost; returns only if none comes in time."""
        self.card = dataclasses.replace(self.card, bereft=True)
        time.sleep(3 * ENDED)

    def _quiet(self) -> None:
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(BEAT)
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._stopped.wait(BEAT):
            if self.exchange is not None and self.limit < float("inf"):
                faulthandler.dump_traceback_later(self.limit + LAST_WORDS, exit=True, file=log_file())
            self._look()
            if (found := self._found()) is not None and not self._stopped.is_set():
                self._end(found)

    def _look(self) -> None:
        """Note on the card where this rank is. A process that is stopped does not age: its beats are counted."""
        before, place = self.card, None if self._place is None else self._place()
        moved = (place, collectives := _collectives()) != (before.place, before.collectives)
        self.card = dataclasses.replace(
            before,
            beat=before.beat + 1,
            place=place,
            collectives=collectives,
            still=0 if moved else before.still + BEAT,
        )

    def _found(self) -> Verdict | None:
        """Why this rank has to end; None as long as all is well."""
        if self.launcher is not None and self.launcher.is_gone():
            return Verdict(f"the launcher of rank {self.rank} (host {self.card.host}) has ended")
        if self.exchange is None:
            return stuck([self.card], limit=self.limit)
        if self.exchange.verdict:
            return Verdict(self.exchange.verdict)
        return self._lost_store(self.exchange) or self._judged(self.exchange)

    def _lost_store(self, others: Exchange) -> Verdict | None:
        waited = time.monotonic() - others.answered
        if waited <= (ENDED if others.broken else self.limit):
            return None
        holder = f"{others.cards.get(0, 'rank 0')}, or the launcher on its host, where the ranks met,"
        reason = "has ended" if others.broken else f"has not moved for {waited:.0f} s: {STOPPED}"
        return Verdict(f"{holder} {reason}", [others.cards[0]] if 0 in others.cards else [])

    def _judged(self, others: Exchange) -> Verdict | None:
        cards, silence = others.cards | {self.rank: self.card}, others.silence() | {self.rank: 0.0}
        found = silent(list(cards.values()), silence, limit=self.limit, ended=ENDED)
        return found or (stuck(list(cards.values()), limit=self.limit) if len(others.cards) == self.size else None)

    def _end(self, verdict: Verdict) -> None:
        """Say why, leave the stacks in the log, and end this process."""
        faulthandler.dump_traceback_later(LAST_WORDS, exit=True, file=log_file())  # whatever holds up what follows
        holding = verdict.sentence if self.exchange is None else self.exchange.accuse(verdict.sentence)
        is_mine = holding == verdict.sentence and not (self.exchange is not None and self.exchange.verdict)
        if (file := log_file()) is not sys.stderr:
            faulthandler.dump_traceback(file=file)
        own = f"rank {self.rank} of {self.size} on host {self.card.host} ends"
        logger.log(logging.CRITICAL if is_mine else logging.WARNING, "%s: %s", own, holding)
        for card in verdict.deaf:
            self._end_stopped(card)
        time.sleep(HEARD if is_mine and self.rank == 0 and self.size > 1 else 0)
        drop(1)

    def _end_stopped(self, card: Card) -> None:
        """End a silent rank of this host: a process that is stopped hears nothing that its launcher may tell it."""
        if card.host == self.card.host and card.pid != self.card.pid:
            with suppress(psutil.Error):
                process = psutil.Process(card.pid)
                if process.create_time() == card.born:
                    process.kill()


def current() -> Watchdog | None:
    """The watchdog of this process; None if nothing is watched."""
    return _started[-1] if _started and not _started[-1]._stopped.is_set() else None


def log_file() -> TextIO:
    """The file to which this rank logs; standard error as long as there is none."""
    files = (each.stream for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler))
    return next(files, None) or sys.stderr


def _collectives() -> int:
    """How many collectives this process has begun, in all groups; backends count on the host."""
    groups: list[Any] = list(distributed_c10d._world.pg_map)
    return sum(group._get_sequence_number_for_group() for group in groups)
