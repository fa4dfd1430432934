"""On a CUDA device: the same gradients as on the CPU, dropout replayed, autocast, offload, and no waiting."""

from __future__ import annotations

import copy

import pytest
import torch

from cached_ds import attach, detach
from cached_ds.decoder import document_states as source
from cached_ds.decoder.tile_kernels import FlashCuda, Plain, kernel_for
from helpers import tiny
from helpers.compare import EXACT, gradients, worst_error

pytestmark = pytest.mark.gpu


def on_gpu(batch):
    return {name: value.cuda() for name, value in batch.items()}


def step(model, batch, *, autocast=False):
    """The gradients of one batch."""
    torch.manual_seed(3)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
        loss = model(**on_gpu(batch)).loss
    loss.backward()
    return gradients(model)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_equal_those_of_the_cpu(family):
    model = attach(tiny.make_model(family, dtype=torch.float64), window=tiny.WINDOW, **tiny.recipe(family))
    batch = tiny.make_batch(family, [100, 37])
    device_model = copy.deepcopy(model).cuda()
    model(**batch).loss.backward()
    expected = {name: gradient.cuda() for name, gradient in gradients(model).items()}
    assert worst_error(step(device_model, batch), expected) < EXACT


@pytest.mark.parametrize("autocast", [False, True])
def test_recomputed_passes_drop_the_same_units_as_kept_ones(autocast):
    model, batch = tiny.make_model("bart", dropout=0.1), tiny.make_batch("bart", [100, 37])
    kept = attach(copy.deepcopy(model), window=tiny.WINDOW, recompute=1000).cuda()
    replayed = attach(model, window=tiny.WINDOW).cuda()
    tolerance = 2e-2 if autocast else 1e-5  # sums in another order: bfloat16 has 8 bits, float32 24
    assert worst_error(step(replayed, batch, autocast=autocast), step(kept, batch, autocast=autocast)) < tolerance


def test_the_callers_generators_are_left_alone():
    model = attach(tiny.make_model("bart", dropout=0.1), window=tiny.WINDOW).cuda()
    batch = on_gpu(tiny.make_batch("bart", [100, 37]))
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        loss = model(**batch).loss
        before = torch.cuda.get_rng_state()
        loss.backward()
        assert torch.equal(before, torch.cuda.get_rng_state())
        states.append(before)
    assert torch.equal(*states)


def test_backward_never_waits_for_the_device():
    model = attach(tiny.make_model("bart", dropout=0.1), window=tiny.WINDOW).cuda()
    loss = model(**on_gpu(tiny.make_batch("bart", [100, 37]))).loss
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("schedule", ["window", "layer"])
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_states_give_the_same_gradients(place, schedule, monkeypatch):
    monkeypatch.setattr(source, "TILE", 16)  # several tiles in flight
    model, batch = tiny.make_model("bart", dtype=torch.float64), tiny.make_batch("bart", [100, 37])
    here = attach(copy.deepcopy(model), window=tiny.WINDOW).cuda()
    offloaded = attach(model, window=tiny.WINDOW, offload=place, schedule=schedule).cuda()
    states = offloaded.get_encoder()(**{n: v for n, v in on_gpu(batch).items() if n != "labels"}).last_hidden_state
    assert states.device.type == "cpu" and states.is_pinned() == (place == "cpu")
    assert worst_error(step(offloaded, batch), step(here, batch)) < EXACT


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_fused_kernel_is_used_in_half_precision_and_replays_its_dropout(dropout):
    q, gradient = torch.randn(2, 1, 2, 7, 64, device="cuda", dtype=torch.bfloat16)
    k, v = torch.randn(2, 1, 2, 50, 64, device="cuda", dtype=torch.bfloat16)
    kernel = kernel_for(q, scale=0.125, dropout=dropout)
    assert isinstance(kernel, FlashCuda)
    out, lse, state = kernel.forward(q, k, v)
    found = kernel.backward(gradient, q, k, v, out, lse, state)
    again = kernel.backward(gradient, q, k, v, out, lse, state)
    assert all(torch.equal(*pair) for pair in zip(found, again, strict=True))
    if not dropout:
        plain = Plain(0.125, 0.0)
        expected = plain.backward(gradient, q, k, v, *plain.forward(q, k, v)[:2], None)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=2**-4, atol=2**-4)  # some roundings of 2**-8


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_streamed_attention_in_bf16_is_close_to_float32(dropout, monkeypatch):
    monkeypatch.setattr(source, "TILE", 32)
    batch = tiny.make_batch("bart", [100, 37])
    model = attach(tiny.make_model("bart", dropout=dropout), window=tiny.WINDOW).cuda()
    kept = attach(
        copy.deepcopy(detach(copy.deepcopy(model))), window=tiny.WINDOW, recompute="auto", memory_budget="1GB"
    )
    narrow, other = (step(each, batch, autocast=True) for each in (model, kept))
    assert worst_error(narrow, other) < 2e-2  # the same units dropped; bfloat16 has 8 bits
