"""Parameters of which most are slow: a few show in every run what all show with --slow."""

from __future__ import annotations

import pytest


def slow_but(quick, values):
    """The values as parameters of a test; all but the quick ones need --slow."""
    words = [value if isinstance(value, tuple) else (value,) for value in values]
    return [
        pytest.param(*each, marks=[] if value in quick else [pytest.mark.slow])
        for value, each in zip(values, words, strict=True)
    ]
