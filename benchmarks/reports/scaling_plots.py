"""The plot of scaling.py: speed, collectives, bytes sent and bytes held against the number of ranks.

Filled marks are measured; hollow ones were counted in one process with a fake process group, and not timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from probes import collectives
from probes.state_bytes import PARTS
from reports.results import Row
from reports.scaling_results import Counted, Scaling
from subjects.trainers import ALONE, COMPARED, TITLES

MARKERS = dict(zip(COMPARED, "os^Dv", strict=True))
MIB = 2**20


def draw(rows: list[Row], path: Path) -> None:
    """Speed, collectives, bytes sent and bytes held, against ranks."""
    results = Scaling(rows)
    figure = Figure(figsize=(11, 8), layout="constrained")
    (speed, calls), (sent, memory) = figure.subplots(2, 2)
    _speed(speed, results)
    _counted(calls, results, lambda found, _: collectives.count(found["collectives"]), "collectives per step")
    _counted(
        sent, results, lambda found, ranks: collectives.sent(found["collectives"], ranks) / MIB, "MiB sent per rank"
    )
    title = "MiB of parameters, gradients, optimizer per rank"
    _counted(memory, results, lambda found, _: sum(found["state_bytes"][part] for part in PARTS) / MIB, title)
    for axes in (calls, sent, memory):
        axes.set_title(f"{axes.get_title()}\n(filled: measured; hollow: counted, not timed)", fontsize=10)
    figure.savefig(path, dpi=120)


def _speed(axes: Any, results: Scaling) -> None:
    """Tokens per second, a document per rank."""
    ranks = results.ranks(fake=False)
    for variant in (ALONE, *COMPARED):
        rates = {each: results.rates(variant=variant, ranks=each, documents=each) for each in ranks}
        points = {each: statistics.median(found.values()) for each, found in rates.items() if found}
        label = TITLES.get(variant, "independent processes")
        if points:
            axes.plot(list(points), list(points.values()), **_style(variant), label=label)
        if variant == ALONE and 1 in points:
            axes.plot(ranks, [each * points[1] for each in ranks], ":", color="black", label="ideal")
    axes.set(title="weak scaling: one document per rank", xlabel="ranks", ylabel="tokens/s")
    axes.set_ylim(bottom=0)
    _ranks(axes, ranks)


def _counted(axes: Any, results: Scaling, value: Callable[[Counted, int], float], title: str) -> None:
    everywhere = sorted({*results.ranks(fake=False), *results.ranks(fake=True)})
    for variant in COMPARED:
        points: dict[int, float] = {}
        for fake in (True, False):  # what was measured goes over what was counted
            for ranks in results.ranks(fake=fake):
                for found in results.counted(variant=variant, ranks=ranks, fake=fake)[:1]:
                    points[ranks] = value(found, ranks)
                    fill = "none" if fake else None
                    axes.plot(ranks, points[ranks], **_style(variant) | {"linestyle": "", "fillstyle": fill})
        known = sorted(points.items())
        axes.plot(
            [ranks for ranks, _ in known],
            [each for _, each in known],
            color=_style(variant)["color"],
            linewidth=0.8,
            label=TITLES[variant],
        )
    axes.set(title=title, xscale="log", yscale="log", xlabel="ranks")
    _ranks(axes, [ranks for ranks in everywhere if ranks > 1])


def _ranks(axes: Any, ranks: list[int]) -> None:
    axes.set_xticks(ranks, [str(each) for each in ranks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _style(variant: str) -> dict[str, Any]:
    if variant == ALONE:
        return {"color": "black", "marker": "x", "linestyle": "--"}
    return {"color": f"C{list(COMPARED).index(variant)}", "marker": MARKERS[variant]}
