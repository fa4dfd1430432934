"""The costs of a training step of a tiny model under every engine, as scaling.py counts them."""

from __future__ import annotations

import scaling
from subjects.shape import Shape
from subjects.trainers import COMPARED
from workers import rank, scaling_step

SHAPE = Shape(**scaling.TINY)


def costs_by_engine():
    """Engine -> the costs of a step with one window and with twenty, on this rank."""
    trainers = {variant: rank.make_trainer(variant, SHAPE, {}) for variant in COMPARED}
    return {name: scaling_step.count_steps(trainer, SHAPE, scaling.TWO_LENGTHS) for name, trainer in trainers.items()}
