"""A check: what is measured on every rank, what is wrong with it, and how the table sums it up.

Facts are plain dictionaries of plain values, so that ranks can read each other's even if they run different code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cached_ds.doctor.checks.context import Limits, RankContext

Facts = dict[str, Any]
Reports = Mapping[int, Facts]  # rank -> its facts
LISTED = 3  # names in one sentence
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        text: the sentence, without the rank.
        rank: where; None: on all ranks together.
        warning: whether a run may well succeed in spite of it.
    """

    text: str
    rank: int | None = None
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the table.

    Attributes:
        name: the row's name.
        measure: returns this rank's facts, empty if there is nothing to check; called on every rank, in the same order
            everywhere. An error that it raises is this rank's finding.
        judge: yields the findings, as a pure function of all ranks' facts.
        show: returns the row's text; called with at least one rank's facts.
    """

    name: str
    measure: Callable[[RankContext], Facts]
    judge: Callable[[Reports, Limits], Iterator[Finding]]
    show: Callable[[Reports], str]


def odd_values(reports: Reports, part: str) -> Iterator[tuple[int, str, Any, Any]]:
    """Yield rank, name, value and the usual value where a rank's dictionary `part` differs from that of most ranks.

    A name that only some ranks have counts as missing (None) on the others. In a tie, rank 0 is right.
    """
    for name in sorted({name for facts in reports.values() for name in facts[part]}):
        values = {rank: reports[rank][part].get(name) for rank in sorted(reports)}
        usual = Counter(value for value in values.values() if value is not None).most_common(1)[0][0]
        yield from ((rank, name, value, usual) for rank, value in values.items() if value != usual)


def unequal_files(reports: Reports) -> Iterator[Finding]:
    """Judge `facts["files"]`, a dictionary of digests by name: all ranks must have the same."""
    odd = list(odd_values(reports, "files"))
    for rank in sorted({rank for rank, *_ in odd}):
        missing = [name for at, name, value, _ in odd if at == rank and value is None]
        changed = [name for at, name, value, _ in odd if at == rank and value is not None]
        if missing:
            yield Finding(rank=rank, text=f"missing here, but not everywhere: {listed(missing)}")
        if changed:
            yield Finding(rank=rank, text=f"not the same as on other ranks: {listed(changed)}")


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def span(values: Sequence[float], write: Callable[[float], str]) -> str:
    """Lowest and highest value as text, or the only one."""
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low} to {high}"


def by_host(reports: Reports) -> dict[str, list[int]]:
    """The ranks of each host, from `facts["host"]`."""
    hosts: dict[str, list[int]] = {}
    for rank in sorted(reports):
        hosts.setdefault(reports[rank]["host"], []).append(rank)
    return hosts


def bytes_text(count: float) -> str:
    """Bytes in a readable unit, such as `1.5 GiB`."""
    power = min(len(UNITS) - 1, max(0, int(count).bit_length() - 1) // 10)
    return f"{count / 1024**power:.4g} {UNITS[power]}"
