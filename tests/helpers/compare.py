"""Compare: how far gradients or weights are from those expected; an attached model against the oracle, in float64."""

from __future__ import annotations

import copy
import math

import torch

from cached_ds import CachedConfig, attach
from helpers import oracle, tiny

# Sums of some 10**4 float64 products (1e-16 each) in another order give 1e-13 or so; 1e-10 leaves room for the softmax,
# and is far below the 1e-7 of anything that happens in float32 by mistake.
EXACT = 1e-10
# Of the norm of all tensors together. The gradient of a key's bias is mathematically zero, so what is found of it is
# rounding, and its relative error means nothing.
NEGLIGIBLE = 1e-6


def gradients(model):
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


def worst_error(found, expected):
    """Worst relative error of a tensor, in the Euclidean norm; a negligible one counts by its share in the whole.

    For gradients in float64, and for weights: in float32 what is found of a gradient of zero is not negligible.
    """
    whole = math.sqrt(sum(tensor.norm().item() ** 2 for tensor in expected.values()))
    assert found.keys() == expected.keys()
    assert whole > 0
    gaps = {name: (found[name] - expected[name]).norm().item() for name in expected}
    return largest(gap / max(expected[name].norm().item(), NEGLIGIBLE * whole) for name, gap in gaps.items())


def whole_error(found, expected):
    """Relative error of all tensors together, in the Euclidean norm: for gradients in types narrower than float64."""
    assert found.keys() == expected.keys()
    gaps = [(found[name].double() - expected[name].double()).norm().item() for name in expected]
    return math.hypot(*gaps) / math.hypot(*(tensor.double().norm().item() for tensor in expected.values()))


def largest(errors):
    """The largest of some errors; `max` alone may pass over a NaN."""
    errors = list(errors)
    assert all(map(math.isfinite, errors)), errors
    return max(errors)


def oracle_options(config, *, random):
    """How the oracle has to cut for a model attached with this config."""
    return {
        "window": config.window,
        "overlap": config.overlap,
        "framed": config.frame_windows,
        "per_pass": config.windows_per_pass or 1,
        "random": random,
        "global_first": bool(config.global_first_token),
    }


def gradient_error(model, batch, *, random=False, seed=7, **fields):
    """Worst relative error of loss and gradients of `model` once attached, against the oracle on a copy of it."""
    config = CachedConfig(**{"window": tiny.WINDOW, **tiny.recipe(model.config.model_type), **fields})
    reference = copy.deepcopy(model)
    reference.gradient_checkpointing_disable()
    torch.manual_seed(seed)
    loss = attach(model, config)(**batch).loss
    loss.backward()
    torch.manual_seed(seed)
    expected = oracle.loss(reference, batch, **oracle_options(config, random=random))
    expected.backward()
    return largest([worst_error(gradients(model), gradients(reference)), abs(loss.item() / expected.item() - 1)])
