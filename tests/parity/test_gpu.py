"""On a CUDA device: full backpropagation's gradients, dropout replayed, autocast, offload, and no waiting."""

from __future__ import annotations

import copy

import pytest
import torch

from cached_ds import attach
from cached_ds.decoder.tile_kernels import FlashCuda, Plain, kernel_for
from helpers import on_device, tiny
from helpers.compare import EXACT
from helpers.on_device import AUTOCAST, PIECES, ROUNDED, step

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_equal_those_of_the_cpu(family):
    found = on_device.parity(family, torch.float64, CUDA)
    assert found["error"] < EXACT and found["of_full_backpropagation"] < EXACT


@pytest.mark.parametrize("schedule", ["window", "layer"])
@pytest.mark.parametrize("autocast", [False, True])
def test_recomputed_passes_drop_the_same_units_as_kept_ones(autocast, schedule):
    error = on_device.dropout_replay("bart", CUDA, schedule=schedule, autocast=autocast)
    assert error < (AUTOCAST if autocast else EXACT)


def test_the_callers_generators_are_left_alone():
    model = attach(tiny.make_model("bart", dropout=0.1), **PIECES).cuda()
    batch = on_device.moved(tiny.make_batch("bart", [100, 37]), CUDA)
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
    model = attach(tiny.make_model("bart", dropout=0.1), **PIECES).cuda()
    loss = model(**on_device.moved(tiny.make_batch("bart", [100, 37]), CUDA)).loss
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("schedule", ["window", "layer"])
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_states_give_the_same_gradients(place, schedule):
    assert on_device.offload(place, CUDA, schedule=schedule) < EXACT


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_states_are_on_the_host(place):
    model = attach(tiny.make_model("bart"), offload=place, **PIECES).cuda()
    batch = on_device.moved(tiny.make_batch("bart", [100, 37]), CUDA)
    del batch["labels"]
    states = model.get_encoder()(**batch).last_hidden_state
    assert states.device.type == "cpu" and states.is_pinned() == (place == "cpu")


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_fused_kernel_is_used_in_half_precision_and_replays_its_dropout(dropout):
    q, gradient = torch.randn(2, 1, 2, 7, 64, device="cuda", dtype=torch.bfloat16)
    k, v = torch.randn(2, 1, 2, 50, 64, device="cuda", dtype=torch.bfloat16)
    kernel = kernel_for(q, scale=0.125, dropout=dropout)
    assert isinstance(kernel, FlashCuda)
    assert on_device.kernel_replay(kernel, CUDA, torch.bfloat16) < ROUNDED
    if not dropout:
        plain = Plain(0.125, 0.0)
        expected = plain.backward(gradient, q, k, v, *plain.forward(q, k, v)[:2], None)
        out, lse, state = kernel.forward(q, k, v)
        for one, other in zip(kernel.backward(gradient, q, k, v, out, lse, state), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=2**-4, atol=2**-4)  # some roundings of 2**-8


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_streamed_attention_with_dropout_is_the_same_with_keys_and_values_kept(dropout):
    batch = tiny.make_batch("bart", [100, 37])
    model = tiny.make_model("bart", dropout=dropout)
    streamed = attach(copy.deepcopy(model), **PIECES).cuda()
    kept = attach(model, **PIECES, recompute="auto", memory_budget="1GB").cuda()
    assert on_device.encoder_error(*(step(each, batch, autocast=True) for each in (streamed, kept))) < AUTOCAST
