"""Peers compute what they say, the FLOP model what torch counts, the matmuls alone what the FLOP model says."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from made_up import FIELDS, TINY
from torch.utils.flop_counter import FlopCounterMode

from helpers import oracle
from helpers.compare import EXACT, gradients, worst_error
from helpers.engines import FP32
from peers import EXACT as EXACT_PEERS
from peers import STEPS, full, windows
from probes import flops, matmuls
from probes.collectives import Collectives
from subjects.shape import Shape, make_batch, make_model
from subjects.trainers import PEER
from subjects.variants import CACHED, FLOP_KINDS, NAMES, PEERS
from workers.one_step import measure
from workers.rank import make_documents, make_trainer

SHAPE = Shape(**TINY)
LENGTHS = (16, 17, SHAPE.length_of(windows=3), 61)  # one window; two; no rest; a rest


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("peer", EXACT_PEERS)
def test_peers_compute_the_gradients_of_the_whole_document(peer, length):
    model, batch = make_model(SHAPE, length=length).double(), make_batch(SHAPE, length=length)
    loss = STEPS[peer](model, batch, window=SHAPE.window)
    reference = make_model(SHAPE, length=length).double()
    expected = oracle.loss(reference, batch, window=SHAPE.window)
    expected.backward()
    assert worst_error(gradients(model), gradients(reference)) < EXACT
    assert loss.item() == pytest.approx(expected.item(), rel=EXACT)


def backward(trainer, batch):
    """Loss, gradients of all ranks and collectives of a step; then the optimizer's step."""
    from deepspeed.utils import safe_get_full_grad

    with Collectives() as collectives:
        loss = trainer.backward(batch).item()
    found = {name: safe_get_full_grad(each) for name, each in trainer.model.module.named_parameters()}
    trainer.update()
    return loss, found, collectives.found


def steps_of_zero2(variant):
    """Two steps on two documents, of one window on rank 0 and of five on rank 1."""
    trainer, batch = make_trainer(variant, SHAPE, {}), make_documents(SHAPE, LENGTHS[-dist.get_rank()], count=2)
    return [backward(trainer, batch) for _ in range(2)]


@pytest.mark.slow
def test_the_peer_of_zero2_has_its_gradients_and_its_one_reduction(zero_ranks):
    found, expected = (zero_ranks.run(steps_of_zero2, variant=variant) for variant in (PEER, "zero2"))
    for of_rank, right in zip(found, expected, strict=True):
        for (loss, gradient, calls), (its_loss, its_gradient, its_calls) in zip(of_rank, right, strict=True):
            assert loss == pytest.approx(its_loss, rel=FP32)
            assert worst_error(gradient, its_gradient) < FP32
            assert calls == its_calls and calls["all-reduce"]["count"] == 1


@pytest.mark.parametrize("peer", ["full", "checkpointing", "two_phase"])
def test_windows_folded_into_the_batch_change_nothing(peer):
    models = [make_model(SHAPE, length=61).double() for _ in range(2)]
    for model, together in zip(models, (1, 3), strict=True):
        STEPS[peer](model, make_batch(SHAPE, length=61), window=SHAPE.window, together=together)
    assert worst_error(*map(gradients, models)) < EXACT


@pytest.mark.parametrize("peer", [name for name in PEERS if name not in EXACT_PEERS])
def test_the_other_peers_train(peer):
    model = make_model(SHAPE, length=61, led=peer == "led")
    assert STEPS[peer](model, make_batch(SHAPE, length=61), window=SHAPE.window).isfinite()
    assert all(gradient.any() for name, gradient in gradients(model).items() if "q_proj.weight" in name)


@pytest.mark.parametrize("length", LENGTHS)
def test_window_widths_are_those_of_the_windows(length):
    widths = [each.tokens.shape[1] for each in windows.cut(make_batch(SHAPE, length=length)["input_ids"], window=16)]
    assert SHAPE.window_widths(length) == {width: widths.count(width) for width in widths}


@pytest.mark.parametrize("length", LENGTHS)
def test_the_flop_model_counts_what_torch_counts(length):
    model, batch = make_model(SHAPE, length=length), make_batch(SHAPE, length=length)
    model.set_attn_implementation("eager")  # torch does not count the CPU's fused attention
    with FlopCounterMode(display=False) as counter:
        full.step(model, batch, window=SHAPE.window)
    assert flops.step(SHAPE, length, "full", fused=False) == pytest.approx(counter.get_total_flops())


def test_the_matmuls_alone_are_the_flops_of_the_encoder():
    work = flops.encoder(SHAPE, SHAPE.window)
    there, back = matmuls.encoder_forward(SHAPE, 16), matmuls.encoder_backward(SHAPE, 16)
    assert sum(each.flops for each in [*there, *back]) == work.step(1, fused=True)
    for each in [*there, *back]:
        a, b = each.operands()
        assert (a.shape, b.shape) == ((each.batch, each.m, each.k), (each.batch, each.k, each.n))
        assert (a.is_contiguous(), b.is_contiguous()) == ("a" not in each.transposed, "b" not in each.transposed)


@pytest.mark.parametrize("variant", ["full", "checkpointing", "cached"])
def test_saved_bytes_are_those_of_the_issue(variant):
    shape = {**TINY, "encoder_layers": 1, "width": 32, "window": 128}  # H is larger than anything else
    settings = {"variant": variant, "length": 1000, "fields": FIELDS if variant == "cached" else {}, "shape": shape}
    found = measure(settings | {"probe": "saved"})
    states = 32 * 4  # plain cross-attention keeps H and each layer's keys and values
    assert found["saved_per_token"] == states * (1 + 2 * SHAPE.decoder_layers if variant == "full" else 1)


def test_every_variant_has_its_words():
    assert set(STEPS) == set(PEERS) and set(NAMES) == set(PEERS) | set(CACHED)
    assert set(FLOP_KINDS) == set(NAMES) - {"led"} and set(FLOP_KINDS.values()) <= flops.FORWARDS.keys()
