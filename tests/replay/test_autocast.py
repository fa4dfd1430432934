"""Autocast remembers casts of weights; it must not remember the states that pass by."""

from __future__ import annotations

import weakref

import pytest
import torch

from cached_ds import attach
from cached_ds.decoder.cross_cache import Projections
from cached_ds.encoder.layered import Replayed
from helpers import tiny


def most_alive(monkeypatch, owner, name, which, **fields):
    """Step under autocast; the largest number of states alive when `owner.name` is called with the next, and calls."""
    seen, alive, inner = [], [], getattr(owner, name)

    def watched(*arguments, **more):
        alive.append(sum(found() is not None for found in seen))
        seen.append(weakref.ref(arguments[which]))
        return inner(*arguments, **more)

    model = attach(tiny.make_model("bart"), window=tiny.WINDOW, tile=8, **fields)
    monkeypatch.setattr(owner, name, watched)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**tiny.make_batch("bart", (200,))).loss
    seen.clear()
    alive.clear()
    loss.backward()
    return max(alive), len(seen)


@pytest.mark.parametrize(
    ("owner", "name", "which", "fields"),
    [(Projections, "project", 1, {}), (Replayed, "_run", 4, {"schedule": "layer"})],
    ids=["tiles", "passes of a layer"],
)
def test_states_that_were_read_are_not_kept_until_the_end_of_backward(owner, name, which, fields, monkeypatch):
    alive, calls = most_alive(monkeypatch, owner, name, which, **fields)
    assert calls > 20 and alive <= 2


def test_gradients_under_autocast_are_those_of_hugging_face():
    """bf16 products, added up in another order: a part of 2**-8."""
    found = []
    for options in ({}, {"stream_cross_attention": False}):
        model = attach(tiny.make_model("bart"), window=tiny.WINDOW, **options)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**tiny.make_batch("bart", (75, 30))).loss
        loss.backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert (found[0] - found[1]).norm() < 2**-6 * found[1].norm()
