"""Parity in one process: loss and every gradient of every family equal full backpropagation, in float64."""

from __future__ import annotations

import pytest
import torch

from cached_ds import attach
from helpers import tiny
from helpers.compare import EXACT, gradient_error

LENGTHS = (3, 70, 41, 16)  # a few tokens; some windows; a ragged end; exactly one window
SETTINGS = {
    "default": {},
    "overlap": {"overlap": 2},
    "raw": {"frame_windows": False},
    "raw-overlap": {"frame_windows": False, "overlap": 3},
    "three-per-pass": {"windows_per_pass": 3},
    "all-in-one-pass": {"windows_per_pass": 1000},
    "keep-2": {"recompute": 2},
    "keep-all": {"recompute": 1000},
    "everything": {"overlap": 1, "windows_per_pass": 2, "recompute": 1, "prefix": [0, 3, 1, 2]},
    "prefix": {"prefix": [1, 2, 0, 3]},
    "raw-prefix": {"frame_windows": False, "prefix": [1, 2, 0, 3]},
}

# Shares of each document's content: none; more segments than windows; one that is longer than a window; one token.
SEGMENTS = ((), (0.1, 0.1, 0.5, 0.3), (0.9, 0.1), (1,))
SEGMENT_SETTINGS = {
    "default": {},
    "prefix": {"prefix": [0, 3, 1, 2], "windows_per_pass": 3},
    "overlap": {"overlap": 2, "recompute": 2},
    "raw": {"frame_windows": False},
    "layer": {"schedule": "layer", "prefix": [0, 3, 1, 2]},
}


def error(family, dropout, settings, *, side="right", lengths=LENGTHS, shares=None):
    settings = dict(settings)
    model = tiny.make_model(family, dropout=dropout, dtype=torch.float64)
    batch = tiny.make_batch(family, lengths, side=side)
    prefix = settings.pop("prefix", [0] * len(lengths))
    if any(prefix):
        batch["prefix_lengths"] = torch.tensor(prefix)
    if shares is not None:
        special = len(tiny.frame(family, [])) if settings.get("frame_windows", True) else 0
        contents = [length - special - repeated for length, repeated in zip(lengths, prefix, strict=True)]
        batch["segment_lengths"] = tiny.segments(contents, shares)
    return gradient_error(model, batch, random=dropout > 0, **settings)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_are_those_of_the_full_graph(family, dropout, setting):
    assert error(family, dropout, SETTINGS[setting]) < EXACT


@pytest.mark.parametrize("setting", SEGMENT_SETTINGS)
@pytest.mark.parametrize(("family", "side"), [("bart", "right"), ("t5", "left"), ("led", "right")])
def test_segments_begin_windows(family, side, setting):
    assert error(family, 0.1, SEGMENT_SETTINGS[setting], side=side, shares=SEGMENTS) < EXACT


@pytest.mark.parametrize("setting", ["default", "everything"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_on_the_left(family, setting):
    assert error(family, 0.1, SETTINGS[setting], side="left") < EXACT


@pytest.mark.parametrize("schedule", ["window", "layer"])
@pytest.mark.parametrize("setting", ["default", "three-per-pass"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_masked_tokens_inside_documents(family, setting, schedule):
    model, batch = tiny.make_model(family, dtype=torch.float64), tiny.make_batch(family, LENGTHS)
    batch["attention_mask"][1:, 5:7] = batch["attention_mask"][1:3, 30:35] = 0
    assert gradient_error(model, batch, schedule=schedule, **SETTINGS[setting]) < EXACT


@pytest.mark.parametrize("family", ["bart", "t5", "led"])
@pytest.mark.parametrize("windows", [1, 2, 3])
def test_documents_of_exactly_k_windows(family, windows):
    special = len(tiny.frame(family, []))
    length = special + windows * (tiny.WINDOW - special)
    assert error(family, 0.1, {}, lengths=(length, length)) < EXACT


def test_a_batch_without_attention_mask():
    batch = tiny.make_batch("bart", (40, 40))
    models = [attach(tiny.make_model("bart", dtype=torch.float64), window=tiny.WINDOW) for _ in range(2)]
    without = models[0](input_ids=batch["input_ids"], labels=batch["labels"]).loss
    assert torch.equal(without, models[1](**batch).loss)


@pytest.mark.parametrize("schedule", ["window", "layer"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_a_padding_token_inside_a_document_learns_as_it_does_in_hugging_faces_embedding(family, schedule):
    batch = tiny.make_batch(family, LENGTHS)
    model = tiny.make_model(family, dtype=torch.float64)
    batch["input_ids"][0, 20:22] = model.config.pad_token_id
    assert gradient_error(model, batch, schedule=schedule, **tiny.recipe(family)) < EXACT


def test_layers_dropped_at_random_are_dropped_again():
    model = tiny.make_model("bart", dropout=0.1, dtype=torch.float64)
    model.get_encoder().layerdrop = 0.5
    batch = tiny.make_batch("bart", LENGTHS)
    assert gradient_error(model, batch, random=True) < EXACT


@pytest.mark.parametrize("frozen", ["layers.0", "embed", "layers.1.self_attn"])
def test_a_partly_frozen_encoder(frozen):
    model = tiny.make_model("bart", dtype=torch.float64)
    for name, parameter in model.get_encoder().named_parameters():
        parameter.requires_grad_(frozen not in name)
    assert gradient_error(model, tiny.make_batch("bart", LENGTHS)) < EXACT


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradient_checkpointing_of_the_whole_model(family):
    model = tiny.make_model(family, dropout=0.1, dtype=torch.float64)
    model.gradient_checkpointing_enable()
    assert gradient_error(model, tiny.make_batch(family, LENGTHS), random=True) < EXACT
