"""The plot of quality.py: score against length, and learning curves against updates and seconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from reports.quality.tables import rows_of, scores, stages_of
from reports.results import Row
from subjects.learners import LEARNERS
from subjects.variants import plain


def draw(rows: list[Row], path: Path) -> None:
    """A row of three axes for each data set."""
    names = list(dict.fromkeys(row["settings"]["data"] for row in rows))
    figure = Figure(figsize=(15, 4.5 * len(names)), layout="constrained")
    for data, axes in zip(names, figure.subplots(len(names), 3, squeeze=False), strict=True):
        for learner in LEARNERS:
            if rows_of(rows, learner, data):
                _draw_learner(axes, rows, learner, data)
        unit = "% of facts" if data == "keyfacts" else "ROUGE-1"
        titles = ("test documents", "validation documents, by updates", "validation documents, by time")
        labels = ("words of a document" if data == "keyfacts" else "", "updates", "seconds of learning")
        for each, title, label in zip(axes, titles, labels, strict=True):
            each.set(title=f"{data}: {title}", xlabel=label, ylabel=unit)
            each.grid(alpha=0.3)
        if len(stages_of(rows, data)) == 1:
            axes[0].tick_params(labelbottom=False)  # learners stand side by side; their colours tell which
    figure.legend(*figure.get_axes()[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=110)


def _draw_learner(axes: Any, rows: list[Row], learner: str, data: str) -> None:
    style = {"label": plain(LEARNERS[learner].title), "color": _colour(learner)}
    stages = stages_of(rows, data)
    values = [scores(rows, learner, data, stage) for stage in stages]
    means = [statistics.mean(each) for each in values]
    errors = [
        [m - min(each) for m, each in zip(means, values, strict=True)],
        [max(each) - m for m, each in zip(means, values, strict=True)],
    ]
    places = stages if len(stages) > 1 else [style["label"]]
    axes[0].errorbar(places, means, errors, marker="o", capsize=3, **style)
    curves = [_joined(row["result"]) for row in rows_of(rows, learner, data)]
    height = [statistics.mean(points) for points in zip(*[[y for _, _, y in curve] for curve in curves], strict=True)]
    for axis, pick in ((axes[1], 0), (axes[2], 1)):
        axis.plot(_means(curves, lambda point, pick=pick: point[pick]), height, **style)


def _joined(stages: dict[str, Any]) -> list[tuple[float, float, float]]:
    """The curves of all stages as one: updates and seconds go on."""
    points, updates, seconds = list[tuple[float, float, float]](), 0.0, 0.0
    for stage in stages.values():
        points += [(updates + x, seconds + s, y) for x, s, y in stage["curve"]]
        updates, seconds = points[-1][0], seconds + stage["seconds"]
    return points


def _means(curves: list[Any], pick: Callable[[Any], float]) -> list[float]:
    return [statistics.mean(map(pick, points)) for points in zip(*curves, strict=True)]


def _colour(learner: str) -> str:
    return f"C{list(LEARNERS).index(learner)}"
