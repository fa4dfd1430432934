"""Attach and detach: every family keeps its names, files, copies and pickles, and comes back as it was."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from cached_ds import CachedConfig, attach, detach
from cached_ds.attachment import is_attached, windowed_encoder
from cached_ds.models.class_swap import base_of
from helpers import tiny

families = pytest.mark.parametrize("family", tiny.FAMILIES)


def attached(family, **changes):
    return attach(tiny.make_model(family), **{"window": tiny.WINDOW, **changes})


def loss_of(model, family):
    return model(**tiny.make_batch(family, (40, 17))).loss


@families
def test_names_classes_and_weights_stay(family):
    before, model = tiny.make_model(family), tiny.make_model(family)
    assert attach(model, window=tiny.WINDOW) is model
    assert list(model.state_dict()) == list(before.state_dict())
    assert isinstance(model.get_encoder(), type(before.get_encoder()))
    assert isinstance(model, type(before)) and type(model).__name__ == type(before).__name__
    assert [name for name, _ in model.named_modules()] == [name for name, _ in before.named_modules()]


@families
def test_saved_models_load_without_cached_ds(family, tmp_path):
    model = attached(family)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".json") == ["model.safetensors"]
    assert AutoConfig.from_pretrained(tmp_path).architectures == [type(model).__name__]
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(loaded) is base_of(model) and not is_attached(loaded)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


@families
def test_deepcopy_and_pickle_keep_it_attached(family):
    model = attached(family, overlap=1)
    expected = loss_of(model, family)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(copied.get_encoder()) is type(model.get_encoder())
        assert copied.get_encoder()._cached_ds.config == model.get_encoder()._cached_ds.config
        assert torch.equal(loss_of(copied, family), expected)
        assert not set(map(id, copied.parameters())) & set(map(id, model.parameters()))
        assert not is_attached(detach(copied)) and is_attached(model)


def loss_in_another_process(rank, model, results):
    assert rank == 0
    results.put(loss_of(model, "bart").item())


def test_a_spawned_process_takes_an_attached_model():
    model = attached("bart")
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(loss_in_another_process, args=(model, results), nprocs=1)
    assert results.get() == loss_of(model, "bart").item()


@families
@pytest.mark.parametrize("schedule", ["window", "layer"])
def test_detach_restores_class_hooks_and_attributes(family, schedule):
    model, before = tiny.make_model(family), tiny.make_model(family)
    attach(model, window=tiny.WINDOW, schedule=schedule)(**tiny.make_batch(family, (40,))).loss.backward()
    assert detach(model) is model
    assert type(model.get_encoder()) is type(before.get_encoder())
    assert not hasattr(model.get_encoder(), "_cached_ds")
    assert "accepts_loss_kwargs" not in vars(model)
    assert not model._forward_pre_hooks and not model._forward_pre_hooks_with_kwargs
    assert not model._forward_hooks and type(model.lm_head) is type(before.lm_head)
    for (name, found), expected in zip(model.named_modules(), before.modules(), strict=True):
        assert type(found) is type(expected) and vars(found).keys() == vars(expected).keys(), name


def test_detach_leaves_what_the_model_itself_says_to_the_trainer():
    model = tiny.make_model("bart")
    model.accepts_loss_kwargs = True
    assert attach(model, window=tiny.WINDOW).accepts_loss_kwargs is False
    assert detach(model).accepts_loss_kwargs is True


def test_the_trainer_is_told_that_the_loss_is_a_mean():
    assert attached("bart").accepts_loss_kwargs is False


def test_attach_again_with_another_config_after_detach():
    model = attached("bart")
    attach(detach(model), CachedConfig(window=8))
    assert windowed_encoder(model)._cached_ds.config.window == 8
    assert len(model._forward_pre_hooks) == len(attached("bart")._forward_pre_hooks)


@families
def test_documents_of_one_window_have_the_states_of_the_unattached_encoder(family):
    """Both without grad: with it, torch has another attention kernel for T5's bias, which rounds otherwise."""
    model = tiny.make_model(family).eval()
    batch = tiny.make_batch(family, (tiny.WINDOW, tiny.WINDOW))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model.get_encoder()(**inputs).last_hidden_state
        attach(model, window=tiny.WINDOW, windows_per_pass=2)
        assert torch.equal(model.get_encoder()(**inputs).last_hidden_state, expected)


@families
def test_documents_of_one_window_and_padding(family):
    model = tiny.make_model(family).double().eval()
    batch = tiny.make_batch(family, (tiny.WINDOW, 9))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = model(**batch).loss
    states = attach(model, window=tiny.WINDOW).get_encoder()(**inputs).last_hidden_state
    assert torch.equal(states[1, 9:], torch.zeros_like(states[1, 9:]))
    # One row at a time is another matrix product than two rows: float64 rounding, 1e-16 a step.
    torch.testing.assert_close(model(**batch).loss, expected, rtol=1e-12, atol=0)


@families
def test_masked_tokens_of_one_window_keep_their_places(family):
    model, batch = tiny.make_model(family).double().eval(), tiny.make_batch(family, (tiny.WINDOW, 9))
    batch["attention_mask"][:, 3:5] = batch["attention_mask"][0, 8] = 0
    expected = model(**batch)
    found = attach(model, window=tiny.WINDOW)(**batch)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-10, atol=1e-10)


def test_the_encoder_saves_itself_under_its_own_name(tmp_path):
    encoder = attached("bart").get_encoder()
    encoder.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["architectures"] == ["BartEncoder"]
    assert type(encoder).__name__ == "WindowedBartEncoder"


@families
def test_arguments_by_position_have_hugging_faces_places(family):
    encoder, batch = attached(family).get_encoder().eval(), tiny.make_batch(family, (40,))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(encoder(ids, mask, None).last_hidden_state, expected)
    third = torch.ones_like(ids) if family == "led" else encoder.get_input_embeddings()(ids)
    if family == "led":
        assert not torch.equal(encoder(ids, mask, third).last_hidden_state, expected)
    else:
        name = "encoder_hidden_states" if family in ("t5", "mt5") else "inputs_embeds"
        with pytest.raises(ValueError, match=f"and no {name}"):
            encoder(ids, mask, third)
