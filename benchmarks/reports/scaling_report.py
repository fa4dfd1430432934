"""The tables and the promises of scaling.py."""

from __future__ import annotations

import statistics

from probes import collectives, state_bytes
from reports.results import Promise, Row, markdown, number
from reports.scaling_results import Counted, Scaling
from subjects.trainers import ALONE, COMPARED, PEER, TITLES

SHARE, DEVIATION = 0.95, 0.02
LONG = 16384  # tokens from which the share is promised
MIB = 2**20
TIMES = ("ranks", "documents", "engine", "seconds, median (min–max)", "tokens/s", "of independent processes")
TIMES += ("weak: of the ideal", "strong: of the ideal")
BESIDE = (*TIMES[:2], "beside ZeRO-2", TIMES[3], "cached_ds / this", "collectives per step")
COUNTS = ("ranks", "engine", "how", "collectives per step", "MiB sent per rank", "parameters, MiB (formula)")
COUNTS += ("gradients, MiB (formula)", "optimizer, MiB (formula)", "besides: copy of the weights, buckets, MiB")
HOW = {False: "measured", True: "counted, not timed"}


def table(rows: list[Row]) -> str:
    """Times of every trial that was timed; ZeRO-2 against its peer; collectives and memory of one rank."""
    results = Scaling(rows)
    settings = sorted({(row["settings"]["ranks"], row["settings"]["documents"]) for row in results.timed()})
    times = [
        _times(results, variant, ranks, documents)
        for ranks, documents in settings
        for variant in (ALONE, *COMPARED)
        if results.timed(variant=variant, ranks=ranks, documents=documents)
    ]
    counts = [
        [str(ranks), TITLES[variant], HOW[fake], *_counts(results, found[0], variant, ranks)]
        for fake in HOW
        for ranks in results.ranks(fake=fake)
        for variant in COMPARED
        if (found := results.counted(variant=variant, ranks=ranks, fake=fake))
    ]
    peer = [_peer(results, *each) for each in settings if results.timed(variant=PEER, ranks=each[0], documents=each[1])]
    tables = [markdown(TIMES, times), *([markdown(BESIDE, peer)] if peer else []), markdown(COUNTS, counts)]
    return "\n".join(tables)


def _times(results: Scaling, variant: str, ranks: int, documents: int) -> list[str]:
    rates = results.rates(variant=variant, ranks=ranks, documents=documents)
    limit = results.share(rates, processes=ranks, documents=ranks) if variant in COMPARED else None
    weak = results.share(rates, processes=1, documents=1, times=ranks) if documents == ranks > 1 else None
    strong = results.share(rates, processes=1, documents=documents, times=ranks) if variant in COMPARED else None
    shares = [number(share, ".3f") for share in (limit, weak, strong)]
    title = TITLES.get(variant) or ("one process" if ranks == 1 else "independent processes")
    seconds = _seconds(results, variant, ranks, documents)
    return [str(ranks), str(documents), title, seconds, f"{statistics.median(rates.values()):.0f}", *shares]


def _peer(results: Scaling, ranks: int, documents: int) -> list[str]:
    ratio = number(results.to_peer(ranks=ranks, documents=documents), ".3f")
    calls = collectives.count(results.counted(variant=PEER, ranks=ranks, fake=False)[0]["collectives"])
    return [str(ranks), str(documents), TITLES[PEER], _seconds(results, PEER, ranks, documents), ratio, str(calls)]


def _seconds(results: Scaling, variant: str, ranks: int, documents: int) -> str:
    """Median and spread of the seconds of a step."""
    rows = results.timed(variant=variant, ranks=ranks, documents=documents)
    found = [row["result"]["seconds"] for row in rows]
    return f"{statistics.median(found):.1f} ({min(found):.1f}–{max(found):.1f})"


def _counts(results: Scaling, found: Counted, variant: str, ranks: int) -> list[str]:
    kinds, sizes, expected = found["collectives"], found["state_bytes"], results.formula(variant, ranks)
    words = ", ".join(f"{entry['count']} {kind}" for kind, entry in sorted(kinds.items()))
    parts = [f"{mib(sizes[part])} ({mib(expected[part]) if expected else '–'})" for part in state_bytes.PARTS]
    total = collectives.count(kinds)
    return [
        f"{total}: {words}",
        mib(collectives.sent(kinds, ranks)),
        *parts,
        f"{mib(sizes['master'])}, {mib(sizes['buckets'])}",
    ]


def mib(size: float) -> str:
    """Bytes in MiB, with one decimal."""
    return f"{size / MIB:,.1f}"


def failures(rows: list[Row]) -> list[str]:
    """A line per trial that failed, with the reason."""
    return [
        f"failed: {TITLES.get(row['settings']['variant'], ALONE)} on {row['settings']['ranks']} ranks: "
        f"{row['result']['failed']}"
        for row in Scaling(rows).failed
    ]


def promises(rows: list[Row]) -> list[Promise]:
    """Bounds of speed and of optimizer bytes by ranks; collectives that agree; no trial that failed."""
    results, found = Scaling(rows), []
    long = all(row["settings"]["length"] >= LONG for row in results.timed())
    for ranks in (ranks for ranks in results.ranks(fake=False) if ranks > 1):
        for variant in COMPARED if long else ():
            rates = results.rates(variant=variant, ranks=ranks, documents=ranks)
            share = results.share(rates, processes=ranks, documents=ranks)
            what = f"{ranks} ranks: {TITLES[variant]}'s tokens/s / those of {ranks} independent processes"
            found.append(Promise(what, share, SHARE, at_least=True))
        for variant in state_bytes.SHARDED:
            what = f"{ranks} ranks: {TITLES[variant]}'s optimizer bytes per rank, deviation from all / ranks"
            found.append(Promise(what, results.deviation(variant, ranks), DEVIATION))
    for variant in COMPARED:
        what = f"{TITLES[variant]}: kinds of collectives that differ between"
        found.append(Promise(f"{what} 1 and 20 windows", results.differences_by_length(variant), 0))
        found.append(Promise(f"{what} real and fake ranks", results.differences_by_group(variant), 0))
    return [*found, Promise("trials that failed", len(results.failed), 0)]
