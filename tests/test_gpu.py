"""On a CUDA device: the same gradients as on the CPU, dropout replayed, autocast, and no waiting in backward."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch

from cached_ds import attach

pytestmark = pytest.mark.gpu


def on_gpu(batch):
    return {name: value.cuda() for name, value in batch.items()}


def gradients(model, batch, *, autocast=False):
    torch.manual_seed(3)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
        loss = model(**on_gpu(batch)).loss
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def worst(found, expected):
    return max(
        ((found[name] - value).norm() / value.norm().clamp_min(1e-12)).item() for name, value in expected.items()
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_equal_those_of_the_cpu(family):
    model = attach(tiny.make_model(family, dtype=torch.float64), window=tiny.WINDOW)
    batch = tiny.make_batch(family, [100, 37])
    device_model = copy.deepcopy(model).cuda()
    model(**batch).loss.backward()
    expected = {name: p.grad.cuda() for name, p in model.named_parameters() if p.grad is not None}
    assert worst(gradients(device_model, batch), expected) < 1e-10  # float64: sums in another order


@pytest.mark.parametrize("autocast", [False, True])
def test_recomputed_passes_drop_the_same_units_as_kept_ones(autocast):
    model, batch = tiny.make_model("bart", dropout=0.1), tiny.make_batch("bart", [100, 37])
    kept = attach(copy.deepcopy(model), window=tiny.WINDOW, recompute=1000).cuda()
    replayed = attach(model, window=tiny.WINDOW).cuda()
    tolerance = 2e-2 if autocast else 1e-5  # sums in another order: bfloat16 has 8 bits, float32 24
    assert worst(gradients(replayed, batch, autocast=autocast), gradients(kept, batch, autocast=autocast)) < tolerance


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
