"""Built-in shapes: every name makes a model of its family that attaches and trains."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from cached_ds import attach
from cached_ds.data import train_tokenizer
from cached_ds.models.families import FAMILIES
from cached_ds.models.shapes import family_name, is_shape, make_config, shapes
from cached_ds.models.sizes import SIZES

TEXT = "one two three four five six seven eight nine ten " * 12


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_of_every_family_trains_on_tokenized_text(family):
    tokenizer = train_tokenizer([TEXT], vocab_size=40, model_type=family, word_level=True)
    config = make_config(f"tiny-{family}", tokenizer, positions=32)
    model = attach(AutoModelForSeq2SeqLM.from_config(config), window=32)
    batch = tokenizer(TEXT, return_tensors="pt")
    labels = tokenizer("one two", return_tensors="pt")["input_ids"]
    loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    loss.backward()
    assert torch.isfinite(loss) and model.get_encoder()._cached_ds.counters.windows_read > 3
    assert config.pad_token_id == tokenizer.pad_token_id and config.eos_token_id == tokenizer.eos_token_id


def test_names():
    assert len(shapes()) == len(SIZES) * len(FAMILIES)
    assert family_name("base-t5") == "t5" and is_shape("base-t5") and not is_shape("facebook/bart-base")
    with pytest.raises(ValueError, match="unknown built-in shape 'tiny-brat': did you mean 'tiny-bart'"):
        family_name("tiny-brat")


def test_base_bart_has_the_published_size():
    tokenizer = train_tokenizer([TEXT], vocab_size=40, model_type="bart", word_level=True)
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(make_config("base-bart", tokenizer, positions=1024))
    embeddings = len(tokenizer) * 768
    assert sum(p.numel() for p in model.parameters()) - embeddings == 139_420_416 - 50_265 * 768  # facebook/bart-base
