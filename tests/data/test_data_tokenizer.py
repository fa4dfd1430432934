"""The trained tokenizer: ids and frames of each family, any text back to itself, no limit, saved and loaded."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    BartConfig,
    LEDConfig,
    MBartConfig,
    MT5Config,
    PegasusConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from cached_ds.data import train_tokenizer

TEXTS = ["def add(a, b):\n    return a + b\n", "import os, sys\nprint('hello world')\n"] * 5
CONFIGS = [BartConfig(), LEDConfig(), MBartConfig(), T5Config(), MT5Config(), PegasusConfig()]
BYTES = train_tokenizer(TEXTS, vocab_size=300, model_type="bart")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_ids_are_those_the_configuration_expects(config: PreTrainedConfig) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, model_type=config.model_type)
    assert tokenizer.pad_token_id == config.pad_token_id and tokenizer.eos_token_id == config.eos_token_id
    if tokenizer.bos_token_id is not None:
        assert tokenizer.bos_token_id == config.bos_token_id
    assert len(tokenizer) <= 300


@pytest.mark.parametrize(
    ("model_type", "tokens"),
    [
        ("bart", "<s> a </s>"),
        ("led", "<s> a </s>"),
        ("mbart", "a </s> en_XX"),
        ("t5", "a </s>"),
        ("mt5", "a </s>"),
        ("pegasus", "a </s>"),
    ],
)
def test_frame(model_type: str, tokens: str) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, model_type=model_type)
    ids = tokenizer("a")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokens.split()
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a"


def test_ids_of_the_special_tokens() -> None:
    mbart = train_tokenizer(TEXTS, vocab_size=300, model_type="mbart")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "en_XX"]
    assert mbart.convert_tokens_to_ids(special) == list(range(6))
    t5 = train_tokenizer(TEXTS, vocab_size=300, model_type="t5")
    assert t5.convert_tokens_to_ids(["<pad>", "</s>", "<unk>", "<mask>"]) == list(range(4))


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    ids = BYTES(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert BYTES.decode(ids) == text


def test_no_limit_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(BYTES("ab " * 100_000)["input_ids"]) > 100_000


def test_word_level() -> None:
    tokenizer = train_tokenizer(["word1 fact2 word3"] * 2, vocab_size=20, model_type="bart", word_level=True)
    ids = tokenizer("fact2 word1 new")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "fact2", "word1", "<unk>", "</s>"]
    assert tokenizer.decode(ids[:3], skip_special_tokens=True) == "fact2 word1"


def test_training_is_deterministic() -> None:
    again = train_tokenizer(iter(TEXTS), vocab_size=300, model_type="bart")
    assert again.backend_tokenizer.to_str() == BYTES.backend_tokenizer.to_str()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_saved_and_loaded(tmp_path: Path, config: PreTrainedConfig) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, model_type=config.model_type)
    tokenizer.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    for loaded in (PreTrainedTokenizerFast.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert loaded(TEXTS[0])["input_ids"] == tokenizer(TEXTS[0])["input_ids"]
        assert loaded.model_max_length == tokenizer.model_max_length
        assert (loaded.pad_token_id, loaded.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"model_type='gpt2' is not supported; supported: bart, led, mbart, .*t5"):
        train_tokenizer(TEXTS, vocab_size=300, model_type="gpt2")
    with pytest.raises(ValueError, match=r"vocab_size=100: must be at least 261 for bart"):
        train_tokenizer(TEXTS, vocab_size=100, model_type="bart")
    with pytest.raises(ValueError, match=r"vocab_size=4: must be at least 5 for t5"):
        train_tokenizer(TEXTS, vocab_size=4, model_type="t5", word_level=True)
