"""Start tokens and languages: training and generation begin alike, for every family and kind of tokenizer."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, MBart50Tokenizer, MBartTokenizer

from cached_ds.data import train_tokenizer
from cached_ds.models.languages import choose_languages
from cached_ds.models.start_tokens import agree_on_start
from cached_ds.models.token_ids import Frame
from helpers import tiny

WORDS = [(f"▁{letter}", -1.0) for letter in "abcde"]
SPECIAL = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]


def mbart_with(tokenizer, **generation):
    model = tiny.make_model("mbart")
    model.resize_token_embeddings(len(tokenizer))
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    return model


def first_tokens(model, tokenizer):
    """What training gives the decoder first and expects first, and what generation does."""
    labels = torch.tensor([tokenizer(text_target="a b")["input_ids"]])
    trained = model.prepare_decoder_input_ids_from_labels(labels)[0, 0].item()
    made = model.eval().generate(input_ids=torch.tensor([tokenizer("a b")["input_ids"]]), max_new_tokens=2, num_beams=1)
    return (trained, labels[0, 0].item()), made[0, :2].tolist()


@pytest.mark.parametrize("start", [None, 2])
@pytest.mark.parametrize("kind", [MBartTokenizer, MBart50Tokenizer])
def test_mbart_generates_from_the_token_that_it_was_trained_from(kind, start):
    tokenizer = kind(vocab=[*SPECIAL, *WORDS])
    choose_languages(tokenizer, "de_DE", "ro_RO")
    model = mbart_with(tokenizer, decoder_start_token_id=start)
    model.config.decoder_start_token_id = start
    agree_on_start(model, tokenizer)
    (trained, label), generated = first_tokens(model, tokenizer)
    language = tokenizer.lang_code_to_id["ro_RO"]
    assert generated[0] == trained == (language if kind is MBartTokenizer else tokenizer.eos_token_id)
    if kind is MBart50Tokenizer:
        assert generated[1] == label == language, "forced, as mBART-50 is used"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_built_in_family_generates_from_the_token_that_it_was_trained_from(family):
    tokenizer = train_tokenizer(["a b c"] * 4, vocab_size=300, model_type=family)
    model = tiny.make_model(family)
    model.resize_token_embeddings(len(tokenizer))
    agree_on_start(model, tokenizer)
    (trained, _), generated = first_tokens(model, tokenizer)
    assert generated[0] == trained == model.generation_config.decoder_start_token_id


def test_a_forced_token_that_no_summary_begins_with_is_not_forced(caplog):
    tokenizer = train_tokenizer(["a b c"] * 4, vocab_size=300, model_type="bart")
    model = tiny.make_model("bart")
    model.generation_config.forced_bos_token_id = 7
    agree_on_start(model, tokenizer)
    assert model.generation_config.forced_bos_token_id is None
    assert "forced_bos_token_id is None, as in training, and not 7" in caplog.text
    model.generation_config.forced_bos_token_id = Frame.of(tokenizer, target=True).head[0]
    agree_on_start(model, tokenizer)
    assert model.generation_config.forced_bos_token_id == Frame.of(tokenizer, target=True).head[0]


def test_a_config_without_a_start_token_is_refused():
    model = tiny.make_model("bart")
    model.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="its config has no decoder_start_token_id, from which training starts"):
        agree_on_start(model, train_tokenizer(["a b c"] * 4, vocab_size=300, model_type="bart"))


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        ((None, None), r"knows \d+ languages; give --lang, or"),
        (("de_DX", "de_DE"), "unknown language 'de_DX'"),
    ],
)
def test_languages_that_are_not_known_are_asked_for(languages, message):
    with pytest.raises(ValueError, match=message):
        choose_languages(MBartTokenizer(vocab=[*SPECIAL, *WORDS]), *languages)


def test_a_tokenizer_of_one_language_is_given_none():
    tokenizer = train_tokenizer(["a b c"] * 4, vocab_size=300, model_type="bart")
    choose_languages(tokenizer, None, None)
    with pytest.raises(ValueError, match="lang='de_DE': this tokenizer has no languages"):
        choose_languages(tokenizer, "de_DE", "de_DE")


def test_a_saved_tokenizer_knows_its_languages(tmp_path):
    tokenizer = MBartTokenizer(vocab=[*SPECIAL, *WORDS])
    choose_languages(tokenizer, "de_DE", "ro_RO")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    choose_languages(loaded, None, None)
    assert loaded("a")["input_ids"] == tokenizer("a")["input_ids"]
    assert loaded(text_target="a")["input_ids"] == tokenizer(text_target="a")["input_ids"]
