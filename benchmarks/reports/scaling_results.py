"""The trials of scaling.py, read: tokens per second and shares of the same round, collectives, bytes held.

A row is a trial of scaling_step.py. Timed ones have steps. Counted ones have the timed model's shape (probe "scaling"),
or a tiny one at two lengths (probe "lengths"). Fake ones had a process group that sends nothing.
"""

from __future__ import annotations

import statistics
from typing import Any

from probes import state_bytes
from probes.collectives import Found
from reports.results import Row, median_of_ratios
from subjects.trainers import ALONE, PEER

Counted = dict[str, Any]


class Scaling:
    """The rows, to be asked by engine, number of ranks and documents per step."""

    def __init__(self, rows: list[Row]) -> None:
        """Take the rows of a Store (harness/trials.py)."""
        self.done = [row for row in rows if "failed" not in row["result"]]
        self.failed = [row for row in rows if "failed" in row["result"]]

    def of(self, **settings: Any) -> list[Row]:
        """The rows with these settings that did not fail."""
        return [row for row in self.done if all(row["settings"][name] == value for name, value in settings.items())]

    def timed(self, **settings: Any) -> list[Row]:
        """Those of them that were timed."""
        return [row for row in self.of(**settings) if row["settings"]["steps"]]

    def counted(self, *, variant: str, ranks: int, fake: bool) -> list[Counted]:
        """Collectives and bytes held in a step of the timed model's shape, rank by rank; empty where nobody looked."""
        rows = self.of(variant=variant, ranks=ranks, fake=fake, probe="scaling")
        found = [[rank["counted"][0] for rank in row["result"]["ranks"]] for row in rows if row["settings"]["counted"]]
        return found[0] if found else []

    def rates(self, **settings: Any) -> dict[int, float]:
        """Round -> tokens per second."""
        return {row["round"]: rate(row) for row in self.timed(**settings)}

    def share(self, rates: dict[int, float], *, processes: int, documents: int, times: int = 1) -> float | None:
        """Median of the ratios, each in one round, of `rates` to `times` those of processes that are alone."""
        alone = self.rates(variant=ALONE, ranks=processes, documents=documents)
        ratio = median_of_ratios(rates, alone)
        return None if ratio is None else ratio / times

    def to_peer(self, *, ranks: int, documents: int) -> float | None:
        """Median of the ratios, each in one round, of the seconds of ZeRO-2 with cached_ds to those of its peer."""
        rates, of_peer = (self.rates(variant=each, ranks=ranks, documents=documents) for each in ("zero2", PEER))
        return median_of_ratios(of_peer, rates)

    def ranks(self, *, fake: bool) -> list[int]:
        """The numbers of ranks of the timed trials, or of the fake ones."""
        rows = self.of(fake=True) if fake else self.timed()
        return sorted({row["settings"]["ranks"] for row in rows})

    def formula(self, variant: str, ranks: int) -> dict[str, float] | None:
        """What ZeRO's formula expects of a rank, from what DDP holds, which shards nothing."""
        for fake in (False, True):
            for some in self.ranks(fake=fake):
                for found in self.counted(variant="ddp", ranks=some, fake=fake):
                    return state_bytes.formula(found["state_bytes"], variant=variant, ranks=ranks)
        return None

    def deviation(self, variant: str, ranks: int) -> float | None:
        """How far the worst rank's optimizer bytes are from an equal share."""
        found, expected = self.counted(variant=variant, ranks=ranks, fake=False), self.formula(variant, ranks)
        if not found or expected is None:
            return None
        return max(abs(rank["state_bytes"]["optimizer"] / expected["optimizer"] - 1) for rank in found)

    def differences_by_length(self, variant: str) -> int | None:
        """In how many kinds of collectives a short and a long document differ, over all ranks."""
        rows = self.of(variant=variant, probe="lengths")
        pairs = [[each["collectives"] for each in rank["counted"]] for row in rows for rank in row["result"]["ranks"]]
        return sum(_different(*pair) for pair in pairs) if pairs else None

    def differences_by_group(self, variant: str) -> int | None:
        """In how many kinds of collectives a real and a fake group differ, over all ranks."""
        pairs = [
            (real["collectives"], fake["collectives"])
            for ranks in self.ranks(fake=True)
            for fake in self.counted(variant=variant, ranks=ranks, fake=True)
            for real in self.counted(variant=variant, ranks=ranks, fake=False)
        ]
        return sum(_different(*pair) for pair in pairs) if pairs else None


def rate(row: Row) -> float:
    """Tokens per second of all ranks; processes that are alone do not wait for each other."""
    settings = row["settings"]
    if settings["variant"] != ALONE:
        return settings["documents"] * settings["length"] / row["result"]["seconds"]
    tokens = settings["documents"] // settings["ranks"] * settings["length"]
    return sum(tokens / statistics.median(rank["seconds"]) for rank in row["result"]["ranks"])


def _different(one: Found, other: Found) -> int:
    return sum(one.get(kind) != other.get(kind) for kind in one.keys() | other.keys())
