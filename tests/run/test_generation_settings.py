"""Generation settings: what is reported is what transformers will generate with."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig, Seq2SeqTrainingArguments

from cached_ds.run.generation_settings import DEFAULTS, OF_SAMPLES, generation_settings
from helpers import tiny

OF_BART_LARGE_CNN = {
    "num_beams": 4, "max_length": 142, "min_length": 56, "no_repeat_ngram_size": 3, "length_penalty": 2.0,
    "early_stopping": True, "forced_bos_token_id": 0, "forced_eos_token_id": 2,
}  # fmt: skip
CASES = {
    "nothing": ({}, {}),
    "the model's own": (OF_BART_LARGE_CNN, {}),
    "flags first": (OF_BART_LARGE_CNN, {"num_beams": 1, "max_length": 1024}),
    "samples": ({"do_sample": True, "top_p": 0.9}, {"num_beams": 2}),
}


@pytest.mark.parametrize(("own", "flags"), CASES.values(), ids=CASES)
def test_they_are_those_that_transformers_takes(tmp_path, own, flags):
    model = tiny.make_model("bart")
    model.generation_config = GenerationConfig(**own)
    given = {f"generation_{name}": value for name, value in flags.items()}
    training = Seq2SeqTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **given)
    taken, _ = model._prepare_generation_config(None, **flags)
    names = DEFAULTS | (OF_SAMPLES if own.get("do_sample") else {})
    expected = {f"generation_{name}": getattr(taken, name) for name in names if getattr(taken, name) is not None}
    assert generation_settings(model, training) == expected


def test_lists_are_one_word(tmp_path):
    model = tiny.make_model("bart")
    model.generation_config.forced_eos_token_id = [2, 3]
    training = Seq2SeqTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert generation_settings(model, training)["generation_forced_eos_token_id"] == "[2, 3]"
