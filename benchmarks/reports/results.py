"""The rows of a benchmark, read: medians, ratios within a round, failures, promises, and the form of tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]  # what a table is made of; of a trial: its script, round, settings and result


class Results:
    """The rows of trials, by variant and length."""

    def __init__(self, rows: Iterable[Row]) -> None:
        """Take the rows of a Store (harness/trials.py)."""
        self.rows = list(rows)

    def of(self, variant: str, length: int, **shape: Any) -> list[Row]:
        """The rows of a variant at a length, with these fields of its shape."""
        return [
            row
            for row in self.rows
            if (row["settings"]["variant"], row["settings"]["length"]) == (variant, length)
            and all(row["settings"]["shape"].get(name) == value for name, value in shape.items())
        ]

    def values(self, variant: str, length: int, name: str, **shape: Any) -> dict[int, Any]:
        """Round -> value of a field, of the rounds that have it."""
        rows = self.of(variant, length, **shape)
        return {row["round"]: row["result"][name] for row in rows if name in row["result"]}

    def median(self, variant: str, length: int, name: str, **shape: Any) -> float | None:
        """The median over the rounds; None without any."""
        values = self.values(variant, length, name, **shape)
        return statistics.median(values.values()) if values else None

    def ratio(self, variant: str, other: str, length: int, name: str = "seconds") -> float | None:
        """The median of the ratios variant / other, each within one round."""
        return median_of_ratios(self.values(variant, length, name), self.values(other, length, name))

    def failure(self, variant: str, length: int, **shape: Any) -> str | None:
        """The reason of the first trial that failed; None if none did."""
        reasons = [row["result"]["failed"] for row in self.of(variant, length, **shape) if "failed" in row["result"]]
        return reasons[0] if reasons else None

    def lengths(self) -> list[int]:
        """The lengths that were measured, the shortest first."""
        return sorted({row["settings"]["length"] for row in self.rows})


def median_of_ratios(ours: dict[int, float], theirs: dict[int, float]) -> float | None:
    """The median of ours / theirs over the rounds that both have; None without any."""
    ratios = [value / theirs[number] for number, value in ours.items() if number in theirs]
    return statistics.median(ratios) if ratios else None


@dataclass(frozen=True)
class Promise:
    """What a benchmark holds its rows to: a value that is to be at most, or at least, a bound.

    Attributes:
        what: the value, in words.
        value: None if this run did not measure it.
        bound: the last value that keeps the promise.
        at_least: the value must not be below the bound; otherwise not above it.
    """

    what: str
    value: float | None
    bound: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the promise is kept; one that was not measured is not broken."""
        return self.value is None or (self.value >= self.bound if self.at_least else self.value <= self.bound)

    def line(self) -> str:
        """PASS or FAIL, with the numbers."""
        word = "----" if self.value is None else "PASS" if self.passed else "FAIL"
        shown = "not measured" if self.value is None else f"{self.value:.4g}"
        return f"{word}  {self.what}: {shown} (limit: {'>=' if self.at_least else '<='} {self.bound:.4g})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of these rows, ending in a line break."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def tokens(length: int) -> str:
    """A number of tokens as tables show it: 16K for 16,384."""
    return f"{length // 1024}K" if length % 1024 == 0 else f"{length:,}"


def number(value: float | None, form: str) -> str:
    """The value in a format such as `.2f`; a dash if there is none."""
    return "–" if value is None else format(value, form)
