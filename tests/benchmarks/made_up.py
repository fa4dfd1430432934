"""Tiny models, and rows of trials that were never run."""

from __future__ import annotations

from harness.trials import make_row

TINY = {"vocabulary": 40, "width": 16, "encoder_layers": 2, "decoder_layers": 2, "heads": 2, "feed_forward": 24}
TINY |= {"window": 16, "target": 6}
FIELDS = {"windows_per_pass": 2, "recompute": "all"}


def rows_of(plan, result_of):
    """A row per trial of the plan, with `result_of(settings)` as its result."""
    return [make_row(trial, result_of(trial.settings)) for trial in plan]


def broken(promises):
    """The promises that are not kept, in words."""
    return [promise.what for promise in promises if not promise.passed]
