"""What attach and an attached model refuse, and with which remedy."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MvpConfig, MvpForConditionalGeneration

from cached_ds import CachedConfig, attach, detach
from helpers import tiny

SMALL = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}


def attached(family="bart", **changes):
    return attach(tiny.make_model(family), **{"window": tiny.WINDOW, **changes})


def test_attaching_twice():
    with pytest.raises(ValueError, match=r"already attached; call cached_ds.detach\(model\) first"):
        attach(attached(), window=tiny.WINDOW)


def test_config_and_fields():
    with pytest.raises(ValueError, match="either a CachedConfig or its fields, not both: overlap, window"):
        attach(tiny.make_model("bart"), CachedConfig(), window=8, overlap=1)


def test_an_unsupported_family():
    model = MvpForConditionalGeneration(MvpConfig(vocab_size=50, max_position_embeddings=32, **SMALL, **HEADS))
    with pytest.raises(
        ValueError, match="model_type='mvp' is not supported; supported: bart, led, mbart, mt5, pegasus"
    ):
        attach(model, window=16)


def test_a_decoder_only_model():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="model_type='gpt2' is not supported; supported: bart"):
        attach(model, window=16)


def test_a_wrapped_model():
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    with pytest.raises(ValueError, match="Wrapper is not a Hugging Face model; attach it before an engine wraps"):
        attach(Wrapper(tiny.make_model("bart")), window=16)


def test_a_bare_module():
    with pytest.raises(ValueError, match="Linear is not a Hugging Face model"):
        attach(torch.nn.Linear(2, 2), window=16)


@pytest.mark.parametrize("family", ["bart", "mbart", "pegasus", "led"])
def test_a_window_larger_than_the_position_table(family):
    name = "max_encoder_position_embeddings" if family == "led" else "max_position_embeddings"
    with pytest.raises(ValueError, match=f"window=128 is refused; allowed is at most 64, the encoder's {name}"):
        attached(family, window=128)


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_relative_positions_have_no_limit(family):
    attached(family, window=4096)


def test_a_window_that_leds_attention_window_does_not_divide():
    with pytest.raises(ValueError, match="window=18 is refused; allowed are multiples of 4, its attention_window"):
        attached("led", window=18)


def test_detaching_what_is_not_attached():
    with pytest.raises(ValueError, match="the model is not attached; call cached_ds.attach"):
        detach(tiny.make_model("bart"))


def test_nothing_is_changed_by_a_refusal():
    model = tiny.make_model("led")
    before = type(model.get_encoder())
    with pytest.raises(ValueError, match="window=18"):
        attach(model, window=18)
    assert type(model.get_encoder()) is before
    assert not model._forward_pre_hooks


def test_global_first_token_for_a_family_without_global_attention():
    with pytest.raises(ValueError, match="global_first_token=True is refused: this encoder has no global attention"):
        attached(global_first_token=True)


def test_inputs_embeds():
    model, batch = attached(), tiny.make_batch("bart", (40,))
    embeddings = model.get_input_embeddings()(batch.pop("input_ids"))
    with pytest.raises(ValueError, match="takes input_ids .* and no inputs_embeds"):
        model(**batch, inputs_embeds=embeddings)


def test_a_mask_of_another_shape():
    batch = tiny.make_batch("bart", (40,))
    batch["attention_mask"] = batch["attention_mask"][:, :-1]
    with pytest.raises(ValueError, match=r"input_ids \(1, 40\) and attention_mask \(1, 39\) must both be \[B, L\]"):
        attached()(**batch)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_document_without_its_frame(family):
    batch = tiny.make_batch(family, (40,))
    batch["input_ids"][0, -2:] = 7
    with pytest.raises(ValueError, match=r"document 0 \(40 tokens\) lacks the special tokens .* frame_windows=False"):
        attached(family)(**batch)
    attached(family, frame_windows=False)(**batch)


def test_a_short_document_needs_no_frame():
    batch = tiny.make_batch("bart", (tiny.WINDOW,))
    batch["input_ids"][0, -1] = 7
    attached()(**batch)


def test_a_global_attention_mask_for_a_family_without_global_attention():
    model, batch = attached(), tiny.make_batch("bart", (40,))
    mask = torch.zeros_like(batch["input_ids"])
    with pytest.raises(ValueError, match="this encoder has no global attention; only LED's has"):
        model.get_encoder()(batch["input_ids"], global_attention_mask=mask)


def test_train_and_eval_switched_between_forward_and_backward():
    model = attached()
    loss = model(**tiny.make_batch("bart", (40,))).loss
    model.eval()
    with pytest.raises(
        RuntimeError, match=r"model.train\(\) or model.eval\(\) was called between forward and backward"
    ):
        loss.backward()
