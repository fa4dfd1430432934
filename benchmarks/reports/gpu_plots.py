"""The plot of gpu.py: tokens per second by length for each model, and memory by length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from reports.gpu_report import GIB, NAMES, TITLES, Rows, models
from reports.results import Results, tokens


def draw(rows: Rows, path: Path) -> None:
    """A panel per model for speed, and one for memory."""
    panels = [(f"{model}: tokens/s", results, "seconds") for model, results in models(rows, "speed").items()]
    panels += [(f"{model}: peak GiB", results, "peak_bytes") for model, results in models(rows, "memory").items()]
    if not panels:
        return
    figure = Figure(figsize=(5 * len(panels), 4.5), layout="constrained")
    for axes, (title, results, field) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for variant in NAMES:
            _line(axes, results, variant, field)
        lengths = results.lengths()
        axes.set(xscale="log", yscale="log", title=title, xlabel="source tokens")
        axes.set_xticks(lengths, [tokens(length) for length in lengths])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _line(axes: Any, results: Results, variant: str, field: str) -> None:
    found = [(length, results.median(variant, length, field)) for length in results.lengths()]
    known = [(length, value) for length, value in found if value is not None]
    if known:
        values = [length / value if field == "seconds" else value / GIB for length, value in known]
        style: dict[str, Any] = {"linewidth": 2.2} if variant.startswith("cached") else {"linestyle": "--"}
        style |= {"color": f"C{NAMES.index(variant)}", "label": TITLES[variant].replace("*", "").replace("`", "")}
        axes.plot([length for length, _ in known], values, marker="o", **style)
