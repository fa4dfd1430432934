"""Adapters and frozen encoders: LoRA before and after attach, and no second forward where nothing learns."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

from cached_ds import attach, detach
from cached_ds.attachment import windowed_encoder
from helpers import oracle, tiny
from helpers.compare import EXACT, worst_error

LENGTHS = (40, 23)


def lora(model, targets):
    torch.manual_seed(3)
    settings = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=targets, init_lora_weights=False)
    return peft.get_peft_model(model, settings)


def named_gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def expected_gradients(family, targets):
    reference = lora(tiny.make_model(family, dtype=torch.float64), targets)
    oracle.loss(reference.get_base_model(), tiny.make_batch(family, LENGTHS), window=tiny.WINDOW).backward()
    return named_gradients(reference)


@pytest.mark.parametrize("attach_first", [True, False])
@pytest.mark.parametrize(("family", "targets"), [("bart", ["q_proj", "v_proj"]), ("t5", ["q", "v"]), ("led", ["fc1"])])
def test_lora_gradients_are_those_of_the_full_graph(family, targets, attach_first):
    model = tiny.make_model(family, dtype=torch.float64)
    options = {"window": tiny.WINDOW, **tiny.recipe(family)}
    model = lora(attach(model, **options), targets) if attach_first else lora(model, targets)
    model = model if attach_first else attach(model, **options)
    model(**tiny.make_batch(family, LENGTHS)).loss.backward()
    found = named_gradients(model)
    assert any("encoder" in name for name in found)
    assert worst_error(found, expected_gradients(family, targets)) < EXACT
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_adapters_can_be_switched_off_merged_and_detached():
    model = attach(lora(tiny.make_model("bart"), ["q_proj"]), window=tiny.WINDOW).eval()
    batch = tiny.make_batch("bart", LENGTHS)
    plain = attach(tiny.make_model("bart"), window=tiny.WINDOW).eval()(**batch).loss
    with model.disable_adapter():
        assert torch.equal(model(**batch).loss, plain)
    adapted = model(**batch).loss
    assert not torch.equal(adapted, plain)
    # The merged weight W + BA is rounded to float32 once more: 6e-8, through two layers.
    torch.testing.assert_close(copy.deepcopy(model).merge_and_unload()(**batch).loss, adapted, rtol=1e-5, atol=0)
    detach(model)
    with pytest.raises(ValueError, match="not attached"):
        windowed_encoder(model)


def test_adapters_in_the_decoder_only_encode_once():
    model = attach(lora(tiny.make_model("bart"), r".*decoder.*q_proj"), window=tiny.WINDOW)
    model(**tiny.make_batch("bart", LENGTHS)).loss.backward()
    counters = windowed_encoder(model)._cached_ds.counters
    assert counters.encoder_forwards == counters.windows_read > 0


def test_prefix_lengths_reach_the_encoder_through_the_wrapper():
    batch = tiny.make_batch("bart", LENGTHS)
    plain = attach(tiny.make_model("bart"), window=tiny.WINDOW).eval()
    wrapped = lora(attach(tiny.make_model("bart"), window=tiny.WINDOW), ["q_proj"]).eval()
    prefix = torch.tensor([3, 2])
    with wrapped.disable_adapter():
        found = wrapped(**batch, prefix_lengths=prefix).loss
    assert torch.equal(found, plain(**batch, prefix_lengths=prefix).loss)
    assert not torch.equal(found, plain(**batch).loss)


@pytest.mark.parametrize("schedule", ["window", "layer"])
@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_a_model_in_which_nothing_is_trainable_does_not_seem_to_train(schedule, offload):
    """PEFT loads an adapter frozen; with the anchors alone the loss had a graph, and a gradient of nothing."""
    model = tiny.make_model("bart").requires_grad_(False)
    loss = attach(model, window=tiny.WINDOW, schedule=schedule, offload=offload)(
        **tiny.make_batch("bart", LENGTHS)
    ).loss
    assert not loss.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        loss.backward()
