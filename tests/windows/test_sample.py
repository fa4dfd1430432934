"""Sampled windows: the gradient is the exact one in expectation, and that of the decoder always."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from cached_ds import CachedConfig, attach
from cached_ds.windows import sample
from helpers import tiny
from helpers.compare import EXACT, gradients, worst_error

LENGTHS = (50, 20)  # four windows and two
WINDOWS = 6
DRAWS = 60


@pytest.fixture(params=["bart", "t5"])
def family(request):
    return request.param


def attached(family, *, dropout=0.0, **fields):
    model = tiny.make_model(family, dropout=dropout, dtype=torch.float64)
    return attach(model, window=tiny.WINDOW, **tiny.recipe(family), **fields)


def gradients_of(family, *, model=None, **options):
    """Gradients of one step, and how often windows were encoded; the same documents at every call."""
    model = model or attached(family, **options)
    model.zero_grad()
    model(**tiny.make_batch(family, LENGTHS)).loss.backward()
    return gradients(model), model.get_encoder()._cached_ds.counters.encoder_forwards


def drawing(monkeypatch, chosen):
    """Make the next draws give these windows."""
    rest = [number for number in range(WINDOWS) if number not in chosen]
    monkeypatch.setattr(sample.torch, "randperm", lambda count: torch.tensor([*chosen, *rest])[:count])


def mean(all_gradients):
    return {name: sum(each[name] for each in all_gradients) / len(all_gradients) for name in all_gradients[0]}


def test_the_mean_over_all_draws_is_exact(family, monkeypatch):
    expected, _ = gradients_of(family)
    found = []
    for chosen in itertools.combinations(range(WINDOWS), 2):
        drawing(monkeypatch, chosen)
        found.append(gradients_of(family, sampled_windows=2)[0])
    assert worst_error(mean(found), expected) < EXACT
    assert min(worst_error(each, expected) for each in found) > 0.01, "no draw is exact by itself"
    decoder = [name for name in expected if "decoder." in name and "embed" not in name]
    assert decoder
    for each in found:
        assert worst_error({n: each[n] for n in decoder}, {n: expected[n] for n in decoder}) < EXACT


def test_many_draws_are_unbiased_within_their_confidence_interval():
    """A random projection of the gradient; without the weight N / K its mean would be far outside."""
    expected, _ = gradients_of("bart")
    torch.manual_seed(0)
    direction = {name: torch.randn_like(gradient) for name, gradient in expected.items()}

    def projected(found):
        return sum((found[name] * direction[name]).sum().item() for name in found)

    model = attached("bart", sampled_windows=3)
    draws = torch.tensor([projected(gradients_of("bart", model=model)[0]) for _ in range(DRAWS)])
    error = 4 * draws.std().item() / math.sqrt(DRAWS)
    assert abs(draws.mean().item() - projected(expected)) < error


@pytest.mark.parametrize("fields", [{"recompute": 1000}, {"windows_per_pass": 2}, {"offload": "disk"}])
def test_chosen_windows_are_replayed_with_their_dropout(family, fields, monkeypatch):
    """Graphs that were saved need no replay, and give the same gradients as those replayed."""
    drawing(monkeypatch, (4, 1, 2))
    options = {"dropout": 0.1, "sampled_windows": 3, "seed": 5} | fields
    found, forwards = gradients_of(family, **options)
    expected, kept = gradients_of(family, **{**options, "recompute": 1000})
    assert worst_error(found, expected) < EXACT
    assert kept == -(-3 // fields.get("windows_per_pass", 1)) * 2
    assert forwards - kept == {"recompute": 0, "windows_per_pass": 1, "offload": 2}[next(iter(fields))]


@pytest.mark.parametrize("count", [WINDOWS, 100])
def test_as_many_as_there_are_is_exact(family, count):
    expected, _ = gradients_of(family)
    found, _ = gradients_of(family, sampled_windows=count)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_evaluation_draws_nothing(family):
    model, exact = attached(family, sampled_windows=1).eval(), attached(family).eval()
    batch, state = tiny.make_batch(family, LENGTHS), torch.get_rng_state()
    assert torch.equal(model(**batch).loss, exact(**batch).loss)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_refused_values(value):
    with pytest.raises(ValueError, match=f"sampled_windows={value!r} is refused; allowed is None or an integer >= 1"):
        CachedConfig(sampled_windows=value)


def test_refused_with_the_layer_schedule():
    with pytest.raises(ValueError, match="sampled_windows=2 is refused with schedule='layer'"):
        CachedConfig(sampled_windows=2, schedule="layer")
