"""Curves: those of a training run in one picture, from the files that the Trainer writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cached_ds.settings.extras import needed_by

STATE, PICTURE = "trainer_state.json", "training.png"


def draw(output_dir: str | Path) -> Path:
    """Draw loss and ROUGE against steps from `trainer_state.json`; returns the picture's path.

    Raises:
        MissingExtra: matplotlib is not installed.
        ValueError: the folder has no `trainer_state.json`.
    """
    with needed_by(__name__):
        from matplotlib.figure import Figure  # slow to import, and most ranks and commands draw nothing

    state = Path(output_dir) / STATE
    if not state.is_file():
        raise ValueError(
            f"{output_dir}: no {STATE} here; give the --output_dir of a training run, or a file of --attribution"
        )
    history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, quality = figure.subplots(1, 2)
    _curves(loss, history, {"loss": "training", "eval_loss": "validation"}, title="loss per summary token")
    rouge = {f"eval_rouge{kind}": f"ROUGE-{kind}" for kind in ("1", "2", "L")}
    _curves(quality, history, rouge, title="validation ROUGE F1 x 100")
    figure.savefig(path := state.with_name(PICTURE), dpi=120)
    return path


def _curves(axes: Any, history: list[dict[str, float]], names: dict[str, str], *, title: str) -> None:
    for name, label in names.items():
        points = [(row["step"], row[name]) for row in history if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.set(title=title, xlabel="optimizer step")
    if axes.lines:
        axes.legend()
