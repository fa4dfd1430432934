"""The plots of the benchmarks: step time and memory against document length, idle share against ranks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from reports.results import Results, Row, tokens
from subjects.shape import Shape
from subjects.variants import CACHED, NAMES, plain_title

MARKERS = dict(zip(NAMES, "xsv^DPoph", strict=True))


def speed(rows: list[Row], path: Path, *, shape: Shape, model_seconds: Callable[..., float | None]) -> None:
    """Seconds per step, and time relative to cached_ds."""
    results = Results(rows)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for variant in NAMES:
        points = _points(results, variant, lambda each, length: results.median(each, length, "seconds"))
        _line(left, points, **_style(variant))
        ratios = _points(results, variant, lambda each, length: results.ratio(each, "cached", length))
        _line(right, ratios, **_style(variant))
    model = _points(results, "cached", lambda each, length: model_seconds(results, each, length, shape))
    left.plot(*model, linestyle=":", color="black", label="cached_ds, FLOP model")
    _axes(left, results, title="one training step", ylabel="seconds")
    _axes(right, results, title="time / time of cached_ds, same round", ylabel="ratio")
    right.set_yscale("linear")
    right.set_ylim(bottom=0)
    left.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def memory(results: Results, saved: dict[str, dict[str, float]], path: Path) -> None:
    """Peak MiB above the model against length, and bars of saved bytes per token: variant -> set-up -> bytes."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for variant in NAMES:
        points = _points(results, variant, lambda each, length: results.median(each, length, "peak_bytes"))
        _line(left, (points[0], [value / 2**20 for value in points[1]]), **_style(variant))
    _axes(left, results, title="peak resident memory above the model (gradients included)", ylabel="MiB")
    left.legend(fontsize=8)
    _bars(right, saved)
    figure.savefig(path, dpi=120)


def _bars(axes: Any, saved: dict[str, dict[str, float]]) -> None:
    setups = list(dict.fromkeys(setup for bars in saved.values() for setup in bars))
    width = 0.8 / max(1, len(saved))
    for number, (variant, bars) in enumerate(saved.items()):
        places = [setups.index(setup) + width * (number - (len(saved) - 1) / 2) for setup in bars]
        drawn = axes.bar(places, bars.values(), width, label=plain_title(variant), **_colour(variant))
        axes.bar_label(drawn, fmt="{:,.0f}", fontsize=7)
    axes.set(yscale="log", title="decoder: bytes saved for backward per source token", ylabel="bytes")
    axes.set_xticks(range(len(setups)), setups)
    if saved:
        axes.set_ylim(top=axes.get_ylim()[1] * 4)  # room for the legend
        axes.legend(fontsize=8, loc="upper left")


def _points(results: Results, variant: str, value: Callable[[str, int], float | None]) -> tuple[list[int], list[float]]:
    found = [(length, value(variant, length)) for length in results.lengths() if results.of(variant, length)]
    known = [(length, each) for length, each in found if each is not None]
    return [length for length, _ in known], [each for _, each in known]


def _line(axes: Any, points: tuple[list[int], list[float]], **style: Any) -> None:
    """Draw a line, unless there is nothing to show."""
    if points[0]:
        axes.plot(*points, **style)


def _colour(variant: str) -> dict[str, Any]:
    return {"color": f"C{NAMES.index(variant)}"}


def _style(variant: str) -> dict[str, Any]:
    own = {"linewidth": 2.2} if variant in CACHED else {"linewidth": 1.2, "linestyle": "--"}
    return {"marker": MARKERS[variant], "label": plain_title(variant), **_colour(variant), **own}


def _axes(axes: Any, results: Results, *, title: str, ylabel: str) -> None:
    lengths = results.lengths()
    axes.set(xscale="log", yscale="log", title=title, xlabel="source tokens", ylabel=ylabel)
    axes.set_xticks(lengths, [tokens(length) for length in lengths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def balance(rows: list[Row], path: Path, *, samplers: Sequence[str]) -> None:
    """Idle share against ranks, a panel per data set: medians, and bars from the lowest to the highest."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    figure = Figure(figsize=(3.2 * len(names), 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        ranks = sorted({row["ranks"] for row in rows if row["data"] == name})
        for sampler, marker in zip(samplers, MARKERS.values(), strict=False):
            shares = [sorted(values(rows, name, number, sampler, "idle_share")) for number in ranks]
            middle = [statistics.median(each) for each in shares]
            below = [center - each[0] for center, each in zip(middle, shares, strict=True)]
            above = [each[-1] - center for center, each in zip(middle, shares, strict=True)]
            axes.errorbar(ranks, middle, (below, above), marker=marker, capsize=3, label=sampler)
        axes.set(xscale="log", title=f"lengths like {name}", xlabel="ranks", ylim=(0, 1))
        axes.set_xticks(ranks, [str(number) for number in ranks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("share of rank-time spent waiting")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def values(rows: list[Row], name: str, ranks: int, sampler: str, field: str) -> list[float]:
    """A field of all rows of one data set, number of ranks and sampler."""
    place = (name, ranks, sampler)
    return [row[field] for row in rows if (row["data"], row["ranks"], row["sampler"]) == place]
