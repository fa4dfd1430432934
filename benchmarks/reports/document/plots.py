"""The plot of document.py: speed-up by ranks, bytes sent by length, bytes of H and G by ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from reports.document.results import Documents
from reports.results import Row, tokens

MIB = 2**20


def draw(rows: list[Row], path: Path) -> None:
    """A panel for each."""
    results = Documents(rows)
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    speed, bytes_sent, held = figure.subplots(1, 3)
    ranks = [1, *results.ranks()]
    for length, colour in zip(results.lengths(), ("C0", "C1", "C2", "C3"), strict=False):
        for alone, line, words in ((True, "x--", "independent processes"), (False, "o-", "one document, shared")):
            values = [1.0, *(results.speed_up(length, each, alone=alone) for each in ranks[1:])]
            speed.plot(ranks, values, line, color=colour, label=f"{tokens(length)} tokens, {words}")
        parts = [results.held(length, each, name) or 0 for name in ("states", "gradient") for each in ranks]
        total = [(a + b) / MIB for a, b in zip(parts[: len(ranks)], parts[len(ranks) :], strict=True)]
        held.plot(ranks, total, "o-", color=colour, label=f"{tokens(length)} tokens")
    sent = results.sent()
    bytes_sent.plot(list(sent), list(sent.values()), "o-")
    bytes_sent.set(title="bytes sent per rank and step", xlabel="tokens of the document", xscale="log")
    bytes_sent.set_xticks(list(sent), [tokens(length) for length in sent])
    bytes_sent.minorticks_off()
    bytes_sent.set_ylim(bottom=0)
    speed.set(title="speed-up over one process", xlabel="ranks")
    held.set(title="MiB of H and G per rank", xlabel="ranks")
    for axes in (speed, held):
        _finish(axes, ranks)
    bytes_sent.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _finish(axes: Any, ranks: list[int]) -> None:
    axes.set_xticks(ranks, [str(each) for each in ranks])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
