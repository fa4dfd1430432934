"""Decoding loops that users write themselves: with a cache or without, gradients or not, they are Hugging Face's."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from cached_ds import attach
from helpers import tiny

families = pytest.mark.parametrize("family", tiny.FAMILIES)
TOKENS = torch.tensor([[7, 9, 11, 8], [12, 6, 10, 9]])
# float64, but the attached model sums attention by tiles.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def pair(family):
    """A model and its attached copy, without dropout, and the encoder's output for both."""
    model = tiny.make_model(family, dtype=torch.float64).eval()
    ours = attach(copy.deepcopy(model), window=tiny.WINDOW)
    batch = tiny.make_batch(family, (40, 20))
    with torch.no_grad():
        states = ours.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return model, ours, {"encoder_outputs": states, "attention_mask": batch["attention_mask"]}


def given_states(inputs):
    """The same inputs with states of their own, as leaves of the caller's graph."""
    states = inputs["encoder_outputs"].last_hidden_state.clone().requires_grad_(torch.is_grad_enabled())
    return inputs | {"encoder_outputs": BaseModelOutput(last_hidden_state=states)}


def loop(model, inputs, **options):
    """Logits of every step of a loop that hands the cache on."""
    past, found = None, []
    for step in range(TOKENS.shape[1]):
        tokens = TOKENS[:, step : step + 1]
        output = model(**inputs, decoder_input_ids=tokens, past_key_values=past, **options)
        past = output.past_key_values
        assert past is not None and past.get_seq_length() == step + 1
        found.append(output.logits)
    return torch.cat(found, 1)


@families
@pytest.mark.parametrize("use_cache", [{"use_cache": True}, {}], ids=["asked", "by config"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_a_loop_with_a_cache_has_its_history(family, use_cache, training, grad):
    model, ours, inputs = pair(family)
    with torch.set_grad_enabled(grad):
        inputs = given_states(inputs)
        found, expected = (loop(each.train(training), inputs, **use_cache) for each in (ours, model))
        whole = model(**inputs, decoder_input_ids=TOKENS).logits
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(found, whole, **CLOSE)


@families
@pytest.mark.parametrize("use_cache", [{"use_cache": True}, {}], ids=["asked", "by config"])
def test_a_cache_holds_the_documents_keys_from_the_first_call_on(family, use_cache):
    model, ours, inputs = pair(family)
    options = {**given_states(inputs), "decoder_input_ids": TOKENS, **use_cache}
    found, expected = (each(**options).past_key_values.cross_attention_cache for each in (ours, model))
    for one, other in zip(found.layers, expected.layers, strict=True):
        torch.testing.assert_close((one.keys, one.values), (other.keys, other.values), **CLOSE)


@families
def test_gradients_through_a_loop_are_those_of_plain_hugging_face(family):
    model, ours, inputs = pair(family)
    found = []
    for each in (ours, model):
        own = given_states(inputs)
        loop(each, own).tanh().sum().backward()
        found.append([own["encoder_outputs"].last_hidden_state.grad, each.get_output_embeddings().weight.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@families
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("options", [{}, {"use_cache": True}, {"use_cache": False}], ids=str)
def test_tuples_have_hugging_faces_places(family, training, options):
    model, ours, inputs = pair(family)
    states = given_states(inputs)["encoder_outputs"].last_hidden_state
    inputs |= {"encoder_outputs": (states,), "decoder_input_ids": TOKENS, "return_dict": False} | options
    found, expected = (each.train(training)(**inputs) for each in (ours, model))
    assert [type(value) for value in found] == [type(value) for value in expected]
    torch.testing.assert_close(found[0], expected[0], **CLOSE)
