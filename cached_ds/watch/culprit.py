"""Culprit: whose fault it is that a run stands still, read from the ranks' cards.

In a step all ranks wait for the slowest, so that a rank which does not move may be at fault or wait. Two things tell:

- a process that is stopped or gone, or whose interpreter does not run, writes no card;
- of those that do, the rank that all wait for has begun fewer collectives than the others.

A rank that waits does not move either; so nothing is said before no rank has moved for the whole time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cached_ds.watch.card import Card

STOPPED = "its process is stopped or gone"


@dataclass(frozen=True)
class Verdict:
    """Why a rank has to end.

    Attributes:
        sentence: who is at fault.
        deaf: the ranks that will not hear of it.
    """

    sentence: str
    deaf: Sequence[Card] = ()


def silent(cards: Sequence[Card], silence: Mapping[int, float], *, limit: float, ended: float) -> Verdict | None:
    """The ranks that write no cards any more.

    Args:
        cards: the last one of each rank, or of some.
        silence: seconds since it came, by rank.
        limit: seconds that a rank may be silent.
        ended: the same where another rank has lost it in a collective.
    """
    present = [card for card in cards if not card.over]
    bereft = any(card.bereft for card in present)
    guilty = [card for card in present if silence[card.rank] > (ended if bereft else limit)]
    if not guilty:
        return None
    if bereft:
        return Verdict(f"{_named(guilty)} ended, or {'stands' if len(guilty) == 1 else 'stand'} still", guilty)
    seconds = min(silence[card.rank] + card.still for card in guilty)
    return Verdict(f"{_named(guilty)} not moved for {seconds:.0f} s: {STOPPED}", guilty)


def stuck(cards: Sequence[Card], *, limit: float) -> Verdict | None:
    """The ranks for which all others wait, once no rank that trains has moved for `limit` seconds.

    Args:
        cards: of all ranks.
        limit: seconds.
    """
    present = [card for card in cards if not card.over]
    training = [card for card in present if card.place is not None]
    if not training or min(card.still for card in training) <= limit:
        return None
    fewest = min(card.collectives for card in present)
    guilty = [card for card in present if card.collectives == fewest]
    seconds = min(card.still for card in guilty)
    return Verdict(f"{_named(guilty)} not moved for {seconds:.0f} s; the stacks of its threads are in its log")


def _named(cards: Sequence[Card]) -> str:
    return f"{' and '.join(map(str, cards[:4]))}{' and others' if len(cards) > 4 else ''} {_has(cards)}"


def _has(cards: Sequence[Card]) -> str:
    return "has" if len(cards) == 1 else "have"
