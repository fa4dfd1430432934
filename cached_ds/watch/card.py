"""Card: what a rank says about itself, once a second, as one line of JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a training run is.

    Attributes:
        step: number of the optimizer step, from 1.
        window: the last window that the encoder has begun to read, from 1; 0: none yet.
        windows: of the batch.
        moves: grows with everything that happens: a pass of the encoder, a batch, a step, a checkpoint.
    """

    step: int
    window: int
    windows: int
    moves: int

    def __str__(self) -> str:
        """`step 7, window 12 of 40`."""
        return f"step {self.step}" + (f", window {self.window} of {self.windows}" if self.windows else "")


@dataclass(frozen=True, kw_only=True)
class Card:
    """One rank, as the others see it.

    Attributes:
        rank: its number.
        host: where it runs.
        pid: its process there.
        born: when that process began, in seconds since the epoch; with `pid` it tells one process from all others.
        beat: number of this card.
        place: where it is; None while it does not train.
        collectives: how many it has begun, in all groups; the rank that the others wait for has begun the fewest.
        still: seconds since anything of it moved.
        bereft: whether a collective failed because of another rank.
        over: whether its work is done.
    """

    rank: int
    host: str
    pid: int
    born: float
    beat: int = 0
    place: Place | None = None
    collectives: int = 0
    still: float = 0.0
    bereft: bool = False
    over: bool = False

    def __str__(self) -> str:
        """`rank 1 (host a, step 7, window 12 of 40)`."""
        where = f"host {self.host}" + (f", {self.place}" if self.place is not None else "")
        return f"rank {self.rank} ({where})"

    def line(self) -> str:
        """The card as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def of(cls, line: str) -> Card:
        """The card of a text."""
        values = json.loads(line)
        place = values.pop("place")
        return cls(place=None if place is None else Place(**place), **values)
