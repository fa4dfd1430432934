"""Generation on an attached model: what it writes about a long document is what the full encoder states say."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from cached_ds import attach
from helpers import oracle, tiny
from helpers.compare import gradients
from helpers.engines import FP32

families = pytest.mark.parametrize("family", tiny.FAMILIES)
WAYS = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "two-beams-back": {"num_beams": 3, "num_return_sequences": 2},
    "samples": {"do_sample": True, "num_return_sequences": 3},
}
WRITE = {"max_new_tokens": 8, "min_new_tokens": 4, "do_sample": False}
SEED = 5


def five_windows(family):
    special = len(tiny.frame(family, []))
    return tiny.make_batch(family, (special + 5 * (tiny.WINDOW - special), 30))


def pair(family, **config):
    """A model and its attached copy, in evaluation mode."""
    model = tiny.make_model(family, dtype=torch.float64).eval()
    return model, attach(copy.deepcopy(model), window=tiny.WINDOW, **tiny.recipe(family), **config)


def by_oracle(model, batch, **options):
    """The same generation from the oracle's encoder states."""
    lengths = {name: options.pop(name, None) for name in ("prefix", "segments")}
    with torch.no_grad():
        ids, mask = batch["input_ids"], batch["attention_mask"]
        states = oracle.encode(model, ids, mask, window=tiny.WINDOW, **lengths)
    encoded = BaseModelOutput(last_hidden_state=states)
    torch.manual_seed(SEED)
    return model.generate(encoder_outputs=encoded, attention_mask=batch["attention_mask"], **WRITE | options)


@pytest.mark.parametrize("cross_cache", ["kv", "none"])
@pytest.mark.parametrize("way", WAYS)
@families
def test_generation_is_that_from_the_full_states(family, way, cross_cache):
    batch, (model, ours) = five_windows(family), pair(family, cross_cache=cross_cache)
    torch.manual_seed(SEED)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    found = ours.generate(**inputs, **WRITE | WAYS[way])
    assert torch.equal(found, by_oracle(model, batch, **WAYS[way]))
    counters = ours.get_encoder()._cached_ds.counters
    assert counters.encoder_forwards == counters.windows_read


def check_lengths(family, way, name, lengths):
    """What is generated is the oracle's, and the lengths change the states; `name` is "prefix" or "segments"."""
    batch, (model, ours) = five_windows(family), pair(family)
    inputs = {each: batch[each] for each in ("input_ids", "attention_mask")}
    given = {{"prefix": "prefix_lengths", "segments": "segment_lengths"}[name]: lengths}
    found = ours.generate(**inputs, **given, **WRITE, **WAYS[way])
    assert torch.equal(found, by_oracle(model, batch, **{name: lengths}, **WAYS[way]))
    states = ours.get_encoder()(**inputs, **given).last_hidden_state
    assert not torch.equal(states, ours.get_encoder()(**inputs).last_hidden_state)


@pytest.mark.parametrize("way", ["greedy", "beams"])
def test_prefix_lengths_in_generation(way):
    check_lengths("bart", way, "prefix", torch.tensor([3, 1]))


@pytest.mark.parametrize("way", ["greedy", "beams"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_segment_lengths_in_generation(family, way):
    special = len(tiny.frame(family, []))
    contents = (five_windows(family)["attention_mask"].sum(1) - special).tolist()
    check_lengths(family, way, "segments", tiny.segments(contents, [(0.1, 0.6, 0.3), (0.5, 0.5)]))


@pytest.mark.parametrize("name", ["prefix_lengths", "segment_lengths"])
def test_lengths_that_are_not_given_may_be_none(name):
    batch, (_, model) = five_windows("bart"), pair("bart")
    assert torch.equal(model(**batch, **{name: None}).loss, model(**batch).loss)


@pytest.mark.parametrize("lengths", [[5, 6], [[73, 5]], [[70, 2], [28, 0]]], ids=str)
def test_segment_lengths_that_do_not_fit_are_refused(lengths):
    batch, (_, model) = five_windows("bart"), pair("bart")
    with pytest.raises(ValueError, match=r"segment_lengths.* (must be \[B, S\] with B=2|allowed are lengths with)"):
        model(**batch, segment_lengths=torch.tensor(lengths))


def test_prefix_lengths_of_one_call_do_not_reach_the_next():
    batch, (_, model) = five_windows("bart"), pair("bart")
    plain = model(**batch).loss
    model(**batch, prefix_lengths=torch.tensor([3, 1]))
    assert torch.equal(model(**batch).loss, plain)


@families
def test_return_dict_false(family):
    batch, (_, model) = five_windows(family), pair(family)
    output = model(**batch)
    found = model(**batch, return_dict=False)
    assert torch.equal(found[0], output.loss)
    assert torch.equal(found[1], output.logits)
    encoder = model.get_encoder()
    (states,) = encoder(batch["input_ids"], batch["attention_mask"], return_dict=False)
    assert torch.equal(states, encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state)


def test_leds_global_attention_mask_is_the_callers():
    model, batch = attach(tiny.make_model("led"), window=tiny.WINDOW).eval(), five_windows("led")
    mask = torch.zeros_like(batch["input_ids"])
    first_only, middle = (mask.index_fill(1, torch.tensor(at), 1) for at in ([0], [5, 40]))
    none = model(**batch).loss
    zeros, first, more = (model(**batch, global_attention_mask=given).loss for given in (mask, first_only, middle))
    assert torch.equal(none, zeros)
    assert not torch.equal(none, first) and not torch.equal(none, more)


@pytest.mark.parametrize("recipe", [True, False], ids=["recipe", "no recipe"])
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
def test_leds_gradients_with_any_global_attention(masked, recipe):
    """In float32 (see `tiny.recipe`), so the whole gradient is compared: some parameters have hardly any."""
    model, batch = tiny.make_model("led"), five_windows("led")
    if masked:
        batch["global_attention_mask"] = torch.zeros_like(batch["input_ids"]).index_fill_(1, torch.tensor([5, 40]), 1)
    reference = copy.deepcopy(model)
    attach(model, window=tiny.WINDOW, global_first_token=recipe)(**batch).loss.backward()
    oracle.loss(reference, batch, window=tiny.WINDOW, global_first=recipe).backward()
    found, expected = (torch.cat([g.flatten() for g in gradients(each).values()]) for each in (model, reference))
    assert (found - expected).norm() < FP32 * expected.norm()


def test_gradient_free_encoding_leaves_no_graph():
    batch, (_, model) = five_windows("bart"), pair("bart")
    with torch.no_grad():
        assert model(**batch).loss.grad_fn is None
    assert model(**batch).loss.grad_fn is not None


def test_prefix_lengths_of_one_generation_do_not_reach_the_next():
    batch, (_, model) = five_windows("bart"), pair("bart")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    states = model.get_encoder()(**inputs).last_hidden_state
    model.generate(**inputs, prefix_lengths=torch.tensor([3, 1]), **WRITE)
    assert torch.equal(model.get_encoder()(**inputs).last_hidden_state, states)


def test_prefix_lengths_of_a_call_with_states_do_not_reach_the_next():
    batch, (_, model) = five_windows("bart"), pair("bart")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    encoded = model.get_encoder()(**inputs)
    prefix = torch.tensor([3, 1])
    model(
        encoder_outputs=encoded, attention_mask=batch["attention_mask"], labels=batch["labels"], prefix_lengths=prefix
    )
    assert torch.equal(model.get_encoder()(**inputs).last_hidden_state, encoded.last_hidden_state)


@pytest.mark.parametrize("family", ["bart", "mbart"])  # Hugging Face's own fails, or fails now and then, for the others
def test_guidance_is_hugging_faces(family):
    """It calls the model with the summary so far as a document of its own, which grows without a cache."""
    batch, (model, ours) = tiny.make_batch(family, (tiny.WINDOW,)), pair(family)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    guided = {**WRITE, "guidance_scale": 1.5, "use_cache": False}
    assert torch.equal(ours.generate(**inputs, **guided), model.generate(**inputs, **guided))
