"""The trials of document.py, read: timed ones as those of scaling.py, and what is counted, held and reached besides.

A row is a trial of document_step.py, with the probe "time", "bytes" or "longest".
"""

from __future__ import annotations

import statistics
from typing import Any

from probes import collectives
from reports.results import Row, median_of_ratios
from reports.scaling_results import Scaling

Counted = dict[str, Any]


class Documents:
    """The rows, to be asked by length and number of ranks."""

    def __init__(self, rows: list[Row]) -> None:
        """Take the rows of a Store (harness/trials.py)."""
        self.rows = rows
        self.timed = Scaling([row for row in rows if row["settings"]["probe"] == "time"])

    @property
    def failed(self) -> int:
        """How many trials failed that were to be timed or counted."""
        return sum("failed" in row["result"] for row in self.rows if row["settings"]["probe"] != "longest")

    def lengths(self) -> list[int]:
        """Those of the documents that were timed."""
        return sorted({row["settings"]["length"] for row in self.timed.done})

    def ranks(self) -> list[int]:
        """Numbers of ranks that shared a document and were timed."""
        return sorted({row["settings"]["ranks"] for row in self.timed.done if row["settings"]["ranks"] > 1})

    def of(self, length: int, ranks: int, *, alone: bool = False) -> list[Row]:
        """The timed trials of ranks that share a document, or of independent processes with one each."""
        documents = ranks if alone else 1
        return self.timed.of(length=length, ranks=ranks, documents=documents)

    def rates(self, length: int, ranks: int, *, alone: bool = False) -> dict[int, float]:
        """Round -> tokens per second."""
        documents = ranks if alone else 1
        return self.timed.rates(length=length, ranks=ranks, documents=documents)

    def speed_up(self, length: int, ranks: int, *, alone: bool = False) -> float | None:
        """Median of the ratios, each in one round, of tokens per second to those of one process."""
        return median_of_ratios(self.rates(length, ranks, alone=alone), self.rates(length, 1))

    def share(self, length: int, ranks: int) -> float | None:
        """Median of the ratios, each in one round, of the speed-up to that of as many independent processes."""
        return median_of_ratios(self.rates(length, ranks), self.rates(length, ranks, alone=True))

    def held(self, length: int, ranks: int, name: str, *, alone: bool = False) -> float | None:
        """Bytes on the rank with most: of `states`, their `gradient`, or `peak_bytes`; the median over the rounds."""
        found = [max(rank[name] for rank in row["result"]["ranks"]) for row in self.of(length, ranks, alone=alone)]
        return statistics.median(found) if found else None

    def work(self, length: int, ranks: int, *, alone: bool = False) -> float | None:
        """Processor seconds of a document, of all ranks together; the median over the rounds."""
        rows = self.of(length, ranks, alone=alone)
        found = [
            sum(statistics.median(rank["cpu_seconds"]) for rank in row["result"]["ranks"])
            / row["settings"]["documents"]
            for row in rows
        ]
        return statistics.median(found) if found else None

    def part_held(self, length: int, ranks: int) -> float | None:
        """Bytes of H and G on the rank that has most, as a part of those that one process has."""
        here, whole = ([self.held(length, count, name) for name in ("states", "gradient")] for count in (ranks, 1))
        return max(a / b for a, b in zip(here, whole, strict=True) if a and b) if all([*here, *whole]) else None

    def counted(self) -> dict[int, list[Counted]]:
        """Length -> what each rank counted in a step of a document of that length."""
        rows = [row for row in self.rows if row["settings"]["probe"] == "bytes" and "failed" not in row["result"]]
        return {
            length: [rank["counted"][number]["collectives"] for rank in row["result"]["ranks"]]
            for row in rows
            for number, length in enumerate(row["settings"]["counted"])
        }

    def sent(self) -> dict[int, float]:
        """Length -> bytes that the rank with most sends in a step."""
        return {length: max(collectives.sent(each, len(of)) for each in of) for length, of in self.counted().items()}

    def differences(self) -> int | None:
        """In how many kinds of collectives the ranks differ between the shortest and the longest document."""
        found = self.counted()
        if len(found) < 2:
            return None
        pairs = zip(found[min(found)], found[max(found)], strict=True)
        return sum(one.get(kind) != other.get(kind) for one, other in pairs for kind in one.keys() | other.keys())

    def longest(self) -> dict[int, tuple[int, int]]:
        """Ranks -> the longest document that had room under the limit, and the shortest one that had none; 0: none."""
        rows = [row for row in self.rows if row["settings"]["probe"] == "longest"]
        found = {}
        for ranks in sorted({row["settings"]["ranks"] for row in rows}):
            some = [row for row in rows if row["settings"]["ranks"] == ranks]
            lengths = {fits: [each["settings"]["length"] for each in some if fits == has_room(each)] for fits in (0, 1)}
            found[ranks] = (max(lengths[1], default=0), min(lengths[0], default=0))
        return found


def has_room(row: Row) -> bool:
    """Whether a step came to its end."""
    return "failed" not in row["result"]
