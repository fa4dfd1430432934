"""The tables and the promises of document.py."""

from __future__ import annotations

import statistics

from probes import collectives
from reports.document import paper
from reports.document.results import Documents
from reports.results import Promise, Row, markdown, number, tokens

SHARE, LONG = 0.93, 131072  # of the speed-up of independent processes; tokens from which it is promised
HALF, LONGER = 1.05, 1.8  # of an equal part of H and G; times the longest document of one process, on two ranks
MIB = 2**20
TIMES = ("tokens", "ranks", "step", "seconds, median (min–max)", "speed-up", "of independent processes")
TIMES += (
    "processor seconds of a document",
    "H + G per rank, MiB",
    "of one process",
    "peak per rank above model and optimizer, MiB",
)
BYTES = ("tokens", "ranks", "collectives per step", "bytes sent per rank")
LONGEST = ("MiB of a rank above model and optimizer", "ranks", "the longest document that had room")
LONGEST += ("the next, which had none",)


def table(rows: list[Row]) -> str:
    """Times and memory; bytes by length; the longest documents; and on paper."""
    results = Documents(rows)
    times = [line for length in results.lengths() for line in _times(results, length)]
    found = [markdown(TIMES, times), markdown(BYTES, _bytes(results)), markdown(LONGEST, _longest(results, rows))]
    return "\n".join([*found, paper.table()])


def _times(results: Documents, length: int) -> list[list[str]]:
    lines = [_line(results, length, 1, "one process")]
    for ranks in results.ranks():
        lines.append(_line(results, length, ranks, "independent processes, a document each", alone=True))
        lines.append(_line(results, length, ranks, "**one document, shared**"))
    return lines


def _line(results: Documents, length: int, ranks: int, title: str, *, alone: bool = False) -> list[str]:
    seconds = [row["result"]["seconds"] for row in results.of(length, ranks, alone=alone)]
    is_shared = ranks > 1 and not alone
    share = results.share(length, ranks) if is_shared else None
    part = results.part_held(length, ranks) if is_shared else None
    states, gradient, peak = (
        results.held(length, ranks, name, alone=alone) for name in ("states", "gradient", "peak_bytes")
    )
    return [
        tokens(length),
        str(ranks),
        title,
        f"{statistics.median(seconds):.1f} ({min(seconds):.1f}–{max(seconds):.1f})" if seconds else "–",
        number(results.speed_up(length, ranks, alone=alone) if ranks > 1 else None, ".2f"),
        number(share, ".3f"),
        number(results.work(length, ranks, alone=alone), ".1f"),
        number(None if states is None or gradient is None else (states + gradient) / MIB, ".1f"),
        number(part, ".3f"),
        number(None if peak is None else peak / MIB, ",.0f"),
    ]


def _bytes(results: Documents) -> list[list[str]]:
    lines, sent = [], results.sent()
    for length, ranks in results.counted().items():
        kinds = ranks[0]
        words = ", ".join(f"{entry['count']} {kind}" for kind, entry in sorted(kinds.items()))
        lines.append([tokens(length), str(len(ranks)), f"{collectives.count(kinds)}: {words}", f"{sent[length]:,.0f}"])
    return lines


def _longest(results: Documents, rows: list[Row]) -> list[list[str]]:
    rooms = {row["settings"]["room"] for row in rows if row["settings"]["probe"] == "longest"}
    return [
        [" ".join(f"{room}" for room in rooms), str(ranks), *(tokens(each) if each else "–" for each in found)]
        for ranks, found in results.longest().items()
    ]


def promises(rows: list[Row]) -> list[Promise]:
    """Bounds of speed-up, bytes, memory and length, for every number of ranks; no trial that failed."""
    results, found = Documents(rows), []
    lengths = [length for length in results.lengths() if length >= LONG]
    for ranks in results.ranks():
        for length in lengths:
            what = f"{tokens(length)} tokens, {ranks} ranks: speed-up / that of independent processes"
            found.append(Promise(what, results.share(length, ranks), SHARE, at_least=True))
            part = results.part_held(length, ranks)
            what = f"{tokens(length)} tokens, {ranks} ranks: H and G per rank x {ranks} / of one process"
            found.append(Promise(what, None if part is None else ranks * part, HALF))
    found.append(Promise("kinds of collectives that differ by the document's length", results.differences(), 0))
    (_, (alone, _)), *others = results.longest().items() or {1: (0, 0)}.items()
    for ranks, (longest, _) in others:
        times = longest / alone if alone else None
        what = f"{ranks} ranks: the longest document / that of one process"
        found.append(Promise(what, times, LONGER * ranks / 2, at_least=True))
    return [*found, Promise("trials that failed, but for a lack of room", results.failed, 0)]
