"""Streamed cross-attention: tile by tile it is Hugging Face's, forward and backward, and keeps no more than H."""

from __future__ import annotations

import copy
import gc

import pytest
import torch

from cached_ds import attach, detach
from cached_ds.decoder import document_states
from cached_ds.decoder.cross_attention import Streamed
from cached_ds.decoder.document_states import DocumentStates
from cached_ds.decoder.tile_kernels import FlashCpu, Plain, kernel_for, merge_
from cached_ds.settings import device_sizes
from helpers import oracle, tiny
from helpers.compare import EXACT, gradients, worst_error
from helpers.saved_bytes import SavedBytes
from helpers.seen_shapes import SeenShapes

TILE = 16  # several tiles per document


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(device_sizes, "tile", lambda _: TILE)


def pair(family="bart", *, dropout=0.0, **fields):
    """An attached model, and the same one as it was."""
    model = tiny.make_model(family, dropout=dropout, dtype=torch.float64)
    reference = copy.deepcopy(model)
    return attach(model, window=tiny.WINDOW, **tiny.recipe(family), **fields), reference


def run(model, reference, batch, *, dropout=0.0, seed=7):
    """Worst relative error of loss and gradients against the oracle, which drops by the same tiles."""
    torch.manual_seed(seed)
    loss = model(**batch).loss
    loss.backward()
    torch.manual_seed(seed)
    expected = oracle.loss(reference, batch, window=tiny.WINDOW, tile=TILE, random=dropout > 0)
    expected.backward()
    assert abs(loss.item() / expected.item() - 1) < EXACT
    return worst_error(gradients(model), gradients(reference))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_many_tiles_give_the_gradients_of_the_full_graph(family, dropout, side):
    batch = tiny.make_batch(family, tiny.LENGTHS, side=side)
    assert run(*pair(family, dropout=dropout), batch, dropout=dropout) < EXACT


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("options", [{}, {"use_reentrant": False}], ids=["default", "non-reentrant"])
def test_gradient_checkpointing_of_the_decoder(dropout, options):
    model, reference = pair(dropout=dropout)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options or None)
    assert run(model, reference, tiny.make_batch("bart", tiny.LENGTHS), dropout=dropout) < EXACT


def test_reentrant_checkpointing_is_refused():
    model, _ = pair()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(RuntimeError, match=r'would lose the gradient .*"use_reentrant": False'):
        model(**tiny.make_batch("bart", tiny.LENGTHS))


def test_two_forwards_before_one_backward_with_checkpointing():
    model, reference = pair(dropout=0.1)
    model.gradient_checkpointing_enable()
    batches = [tiny.make_batch("bart", lengths, seed=number) for number, lengths in enumerate([(75, 30), (20, 41)])]
    torch.manual_seed(7)
    sum(model(**batch).loss for batch in batches).backward()
    torch.manual_seed(7)
    for batch in batches:
        oracle.loss(reference, batch, window=tiny.WINDOW, tile=TILE, random=True).backward()
    assert worst_error(gradients(model), gradients(reference)) < EXACT


def test_a_retained_graph_and_gradients_of_a_few_tensors_leave_nothing_behind():
    model, reference = pair()
    batch = tiny.make_batch("bart", tiny.LENGTHS)
    loss = model(**batch).loss
    few = [model.get_decoder().layers[0].encoder_attn.k_proj.weight]
    torch.autograd.grad(loss, few, retain_graph=True)  # never asks for the gradient of H
    loss.backward(retain_graph=True)
    loss.backward()
    oracle.loss(reference, batch, window=tiny.WINDOW).backward()
    found = {name: gradient / 2 for name, gradient in gradients(model).items()}
    assert worst_error(found, gradients(reference)) < EXACT


def test_states_that_the_user_made_get_their_gradient():
    model, reference = pair()
    batch = tiny.make_batch("bart", (40, 20))
    given = [torch.randn(2, 40, tiny.WIDTH, dtype=torch.float64).requires_grad_() for _ in range(2)]
    given[1].data.copy_(given[0].data)
    for states, each in zip(given, (model, reference), strict=True):
        loss = each(encoder_outputs=(states,), attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
        (loss + states.square().sum()).backward()
    torch.testing.assert_close(given[0].grad, given[1].grad, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("frozen", ["encoder", "decoder", "k_proj", "v_proj", "encoder_attn"])
def test_frozen_parts(frozen):
    model, reference = pair()
    for each in (model, reference):
        for name, parameter in each.named_parameters():
            if f".{frozen}." in name:
                parameter.requires_grad_(False)
    assert run(model, reference, tiny.make_batch("bart", tiny.LENGTHS)) < EXACT


def test_the_loss_without_grad_is_streamed_too():
    model, reference = (each.eval() for each in pair())
    batch, seen = tiny.make_batch("bart", tiny.LENGTHS), []
    handle = model.get_decoder().layers[0].encoder_attn.out_proj.register_forward_hook(lambda *_: seen.append(True))
    with torch.no_grad(), SeenShapes() as shapes:
        loss = model(**batch).loss
    handle.remove()
    assert seen and not shapes.holding(6, max(tiny.LENGTHS))
    assert abs(loss / oracle.loss(reference, batch, window=tiny.WINDOW) - 1) < EXACT


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_tensor_of_target_by_source_in_forward_or_backward(family, dropout):
    target, length = 7, 75
    batch = tiny.make_batch(family, (length, 30), target=target)
    model, reference = pair(family, dropout=dropout)
    with SeenShapes() as ours:
        model(**batch).loss.backward()
    with SeenShapes() as theirs:
        oracle.loss(reference, batch, window=tiny.WINDOW).backward()
    assert not ours.holding(target, length)
    assert theirs.holding(target, length), "the test sees nothing"


def kept_bytes(layers, *, length, dropout=0.0, stream=True):
    """Bytes alive between forward and backward, beyond parameters and inputs."""
    config = tiny.make_config("bart", dropout)
    config.decoder_layers = layers
    model = attach(tiny.MODELS["bart"](config).train(), window=tiny.WINDOW, stream_cross_attention=stream)
    model.get_encoder().requires_grad_(False)  # what the encoder keeps is counted elsewhere
    with SavedBytes() as saved:
        output = model(**tiny.make_batch("bart", (length,)))
    saved.note(output.encoder_last_hidden_state)
    assert output.loss.requires_grad
    return saved.total(without=model.parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_bytes_kept_per_source_token_are_one_copy_of_the_states(dropout):
    for layers in (2, 4):
        growth = kept_bytes(layers, length=2000, dropout=dropout) - kept_bytes(layers, length=1000, dropout=dropout)
        assert growth == 1000 * tiny.WIDTH * 4
    plain = kept_bytes(2, length=2000, stream=False) - kept_bytes(2, length=1000, stream=False)
    assert plain > 4 * growth


def test_nothing_of_the_document_outlives_the_backward():
    model, _ = pair()
    before = set(document_states._BY_ADDRESS)
    output = model(**tiny.make_batch("bart", (200,)))
    loss = output.loss
    del output
    loss.backward()
    assert not [t for t in gc.get_objects() if type(t) is torch.Tensor and t.numel() == 200 * tiny.WIDTH]
    assert set(document_states._BY_ADDRESS) <= before


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_without_streaming_gradients_are_the_same(family):
    assert run(*pair(family, stream_cross_attention=False), tiny.make_batch(family, tiny.LENGTHS)) < EXACT


def test_the_loss_in_inference_mode():
    model, reference = (each.eval() for each in pair())
    batch = tiny.make_batch("bart", tiny.LENGTHS)
    expected = oracle.loss(reference, batch, window=tiny.WINDOW)
    with torch.inference_mode():
        inside = {name: value.clone() for name, value in batch.items()}
        assert abs(model(**inside).loss / expected.detach() - 1) < EXACT


def test_generation_with_a_cache_and_attention_weights_are_hugging_faces():
    model, _ = pair()
    plain = detach(copy.deepcopy(model)).eval()
    model.eval()
    batch = tiny.make_batch("bart", (40, 20))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    states = model.get_encoder()(**inputs)
    expected = plain.generate(encoder_outputs=copy.copy(states), attention_mask=inputs["attention_mask"], **options)
    assert torch.equal(model.generate(**inputs, **options), expected)
    assert torch.equal(model.generate(**inputs, use_cache=False, **options), expected)  # this one is streamed
    model.set_attn_implementation("eager")
    given = {"encoder_outputs": (states.last_hidden_state,), "attention_mask": batch["attention_mask"]}
    weights = model(**given, labels=batch["labels"], output_attentions=True).cross_attentions
    assert weights[0].shape[-2:] == (6, 40)


def test_the_streamed_class_is_one_per_class_and_goes_with_detach():
    one, other = pair()[0], pair()[0]
    modules = [each.get_decoder().layers[0].encoder_attn for each in (one, other)]
    assert type(modules[0]) is type(modules[1]) and modules[0]._z3_leaf
    detach(one)
    assert not any(isinstance(module, Streamed) for module in one.modules())
    assert not one.get_decoder()._forward_pre_hooks
    assert not any(isinstance(module, Streamed) for module in pair(stream_cross_attention=False)[0].modules())


def test_a_placeholder_is_found_through_views_and_nothing_else_is():
    states = torch.randn(2, 5, 3)
    documents = DocumentStates(states, [])
    placeholder = documents.placeholder()
    assert placeholder.shape == states.shape and placeholder.untyped_storage().nbytes() == 1
    for view in (placeholder.detach(), placeholder.view_as(placeholder)):
        assert DocumentStates.find(view) is documents
    for other in (states, torch.zeros(2, 5, 3, dtype=torch.int8)):
        assert DocumentStates.find(other) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", [FlashCpu(0.3), Plain(0.3, 0.0)], ids=["flash", "plain"])
def test_kernels_over_tiles_are_attention_over_all(kernel, dtype):
    torch.manual_seed(0)
    q, gradient = torch.randn(2, 1, 2, 7, 8, dtype=torch.float64).to(dtype)
    k, v = torch.randn(2, 1, 2, 50, 8, dtype=torch.float64).to(dtype)
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*exact, scale=0.3)
    expected.backward(gradient.double())
    wide = torch.promote_types(dtype, torch.float32)
    out, lse = torch.zeros_like(q, dtype=wide), torch.full((1, 2, 7), -torch.inf, dtype=wide)
    spans = [slice(0, 20), slice(20, 21), slice(21, 50)]
    for span in spans:
        merge_(out, lse, *kernel.forward(q, k[:, :, span], v[:, :, span])[:2])
    rows = [kernel.backward(gradient, q, k[:, :, s], v[:, :, s], out.to(dtype), lse, None) for s in spans]
    found = [out, sum(r[0] for r in rows), torch.cat([r[1] for r in rows], 2), torch.cat([r[2] for r in rows], 2)]
    unit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-4}[dtype]  # bf16: some roundings of 2**-8
    for one, other in zip(found, [expected, *(t.grad for t in exact)], strict=True):
        torch.testing.assert_close(one.double(), other, rtol=unit, atol=unit)


def test_the_kernel_for_the_cpu_is_the_fused_one_unless_there_is_dropout():
    q = torch.randn(1, 2, 3, 8)
    assert isinstance(kernel_for(q, scale=1.0, dropout=0.0), FlashCpu)
    assert isinstance(kernel_for(q, scale=1.0, dropout=0.1), Plain)
