"""The algorithm that newcomers read first (docs/algorithm.py) is that of the package."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch

from cached_ds import attach
from helpers import tiny
from helpers.compare import EXACT, gradients, worst_error
from helpers.repo import ROOT

SEED = 11
SPEC = importlib.util.spec_from_file_location("algorithm", ROOT / "docs" / "algorithm.py")
SPEC.loader.exec_module(algorithm := importlib.util.module_from_spec(SPEC))


# Plain attention: the streamed one draws its dropout by tile, which the forty lines leave out.
@pytest.mark.parametrize(("dropout", "fields"), [(0.0, {}), (0.1, {"stream_cross_attention": False})])
@pytest.mark.parametrize("length", [30, 75])
def test_gradients_are_those_of_the_package(length, dropout, fields):
    model, batch = tiny.make_model("bart", dropout=dropout, dtype=torch.float64), tiny.make_batch("bart", (length,))
    ours = attach(copy.deepcopy(model), window=tiny.WINDOW, seed=SEED, **fields)
    torch.manual_seed(3)
    expected = ours(**batch).loss
    expected.backward()
    torch.manual_seed(3)
    labels, ids = batch["labels"], batch["input_ids"][0]
    loss = algorithm.gradient_cached_step(model, ids, labels, window=tiny.WINDOW, seed=SEED)
    assert abs(loss / expected.detach() - 1) < EXACT
    assert worst_error(gradients(ours), gradients(model)) < EXACT
