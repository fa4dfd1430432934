"""Compiled: the same gradients, one shape only, and a clear word where torch.compile cannot do it."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from cached_ds import attach, detach
from cached_ds.attachment import inner_model, windowed_encoder
from cached_ds.planning import compiled
from helpers import tiny
from helpers.compare import EXACT, gradient_error, gradients, worst_error


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def quick(monkeypatch):
    """Trace and differentiate, but do not generate code: seconds instead of half a minute."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("family", ["bart", "mbart", "pegasus", "t5"])
def test_gradients_are_those_of_the_full_graph(family):
    model = tiny.make_model(family, dtype=torch.float64)
    assert gradient_error(model, tiny.make_batch(family, tiny.LENGTHS), compile=True, windows_per_pass=2) < EXACT
    assert windowed_encoder(model)._cached_ds.budget.compiled_shape == (2, tiny.WINDOW)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_generated_code_drops_the_same_units_when_it_runs_again(monkeypatch):
    """Kept graphs are made once, so they cannot differ; recomputed passes must give the same gradients."""
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    found = []
    for recompute in ("all", 100):
        model = tiny.make_model("bart", dropout=0.1, dtype=torch.float64)
        attach(model, window=tiny.WINDOW, compile=True, recompute=recompute)
        torch.manual_seed(7)
        model(**tiny.make_batch("bart", tiny.LENGTHS)).loss.backward()
        assert windowed_encoder(model)._cached_ds.budget.compiled_shape == (1, tiny.WINDOW)
        found.append(gradients(model))
    assert worst_error(*found) < EXACT


def test_a_failure_is_told_once_and_the_encoder_runs_as_it_is(monkeypatch, caplog):
    monkeypatch.setattr(compiled, "BACKEND", failing_backend)
    model = tiny.make_model("bart", dropout=0.1, dtype=torch.float64)
    batch = tiny.make_batch("bart", tiny.LENGTHS)
    assert gradient_error(model, batch, random=True, compile=True) < EXACT
    model(**batch)
    messages = [record.message for record in caplog.records if record.name == "cached_ds.planning.compiled"]
    assert len(messages) == 1
    assert messages[0].startswith("compile=True: the encoder runs uncompiled, because torch.compile failed with ")
    assert "no such machine" in messages[0]


def failing_backend(*_):
    raise RuntimeError("no such machine")


@pytest.mark.usefixtures("quick")
def test_led_runs_as_it_is():
    """Its global attention asks the device for numbers, which no compiler can see through."""
    model = tiny.make_model("led", dtype=torch.float64)
    assert gradient_error(model, tiny.make_batch("led", tiny.LENGTHS), compile=True) < EXACT
    assert windowed_encoder(model)._cached_ds.budget.compiled_shape == ()


@pytest.mark.usefixtures("quick")
def test_detach_leaves_no_compiled_layer():
    model = attach(tiny.make_model("bart"), window=tiny.WINDOW, compile=True)
    model(**tiny.make_batch("bart", tiny.LENGTHS))
    layers = model.get_encoder().layers
    assert all(layer._compiled_call_impl is not None for layer in layers)
    detach(model)
    assert all(layer._compiled_call_impl is None for layer in layers)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("schedule", ["window", "layer"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_a_compiled_model_gives_the_same_gradients(family, schedule, dropout):
    """The whole model under torch.compile; `eager` runs what dynamo has captured as it is."""
    model = attach(tiny.make_model(family, dropout=dropout), window=tiny.WINDOW, schedule=schedule)
    compiled_model = torch.compile(copy.deepcopy(model), backend="eager")
    found = []
    for each in (model, compiled_model):
        torch.manual_seed(5)
        loss = each(**tiny.make_batch(family, (75, 30))).loss
        loss.backward()
        found.append([loss, *gradients(inner_model(each)).values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
