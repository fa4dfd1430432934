"""Faults: the one error of a run that cannot go on, a sentence for the user; launch/train.py ends a rank with it."""

from __future__ import annotations


class TrainingFault(RuntimeError):
    """Training has ended: the message says at which step, on which rank, why, and what to do."""
