"""Attentions and hidden states of an attached model: the decoder's as Hugging Face gives them, the encoder's None."""

from __future__ import annotations

import copy

import pytest
import torch

from cached_ds import attach
from helpers import tiny

ATTENTIONS, STATES = {"output_attentions": True}, {"output_hidden_states": True}
ASKED = (ATTENTIONS, STATES, ATTENTIONS | STATES)
OF_DECODER = ("decoder_attentions", "decoder_hidden_states", "cross_attentions")
OF_ENCODER = ("encoder_attentions", "encoder_hidden_states")


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("by", ["arguments", "config"])
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_the_decoders_are_given_and_the_encoders_are_none(family, by, asked):
    model = tiny.make_model(family, dtype=torch.float64).eval()
    model.set_attn_implementation("eager")
    ours, batch = attach(copy.deepcopy(model), window=tiny.WINDOW), tiny.make_batch(family, (40, 20))
    states = ours.get_encoder()(batch["input_ids"], batch["attention_mask"])
    given = {name: batch[name] for name in ("attention_mask", "labels")}
    arguments = asked if by == "arguments" else {}
    for each in (model, ours) if by == "config" else ():
        for name, value in asked.items():
            setattr(each.config, name, value)
    expected = model(encoder_outputs=copy.copy(states), **given, **arguments)
    found = ours(**batch, **arguments)
    for name in OF_DECODER:
        assert (found.get(name) is None) == (expected.get(name) is None), name
        for one, other in zip(found.get(name) or (), expected.get(name) or (), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert all(found.get(name) is None for name in OF_ENCODER)


def test_keywords_that_hugging_face_ignores_are_ignored():
    model = attach(tiny.make_model("bart"), window=tiny.WINDOW).eval()
    batch = tiny.make_batch("bart", (40,))
    expected = model(**batch).loss
    assert torch.equal(model(**batch, num_items_in_batch=None).loss, expected)
    found = model.get_encoder()(batch["input_ids"], batch["attention_mask"], num_items_in_batch=torch.tensor(3))
    assert found.last_hidden_state.shape == (1, 40, tiny.WIDTH)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_logits_in_training_where_they_are_asked_for(family):
    model, batch = tiny.make_model(family, dtype=torch.float64), tiny.make_batch(family, (tiny.WINDOW,))
    ours = attach(copy.deepcopy(model), window=tiny.WINDOW, chunked_loss=False)
    found, expected = (each(**batch) for each in (ours, model))
    for one, other in ((found.loss, expected.loss), (found.logits, expected.logits)):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert type(ours.get_output_embeddings()) is torch.nn.Linear
