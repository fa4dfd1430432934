"""A pytest plugin for the tests of transformers: attaches every encoder-decoder that a test makes, records outcomes.

CACHED_DS_HF_TESTS holds JSON: `report`, the file that gets a line per test, and `attach`, fields of `CachedConfig`, or
null to attach nothing. The window is as long as the encoder can read, up to 1024 tokens: the tests' inputs are shorter
than one window, so that results have to be Hugging Face's.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedModel, set_seed

from cached_ds.attachment import attach, is_attached
from cached_ds.models.families import FAMILIES, family_of

LONGEST = 1024
SEED = 0
SETTINGS = json.loads(os.environ["CACHED_DS_HF_TESTS"])


def window_of(config) -> int:
    """The longest window that the encoder of a model's config reads, up to `LONGEST`."""
    family = family_of(config)
    positions = getattr(config, family.positions) if family.positions else LONGEST
    multiple = family.window_multiple(config)
    return min(positions, LONGEST) // multiple * multiple


def attach_made(make):
    """`make`, after whose outermost call the model is attached; models are made out of models."""

    @functools.wraps(make)
    def made(owner, *args, **kwargs):
        attach_made.depth += 1
        try:
            result = make(owner, *args, **kwargs)
        finally:
            attach_made.depth -= 1
        found = result[0] if isinstance(result, tuple) else result  # with loading info
        model = owner if found is None else found  # `__init__` returns nothing
        if attach_made.depth == 0 and not is_attached(model) and reads_and_writes(model):
            attach(model, window=window_of(model.config), **SETTINGS["attach"])
        return result

    return made


attach_made.depth = 0


def reads_and_writes(model: PreTrainedModel) -> bool:
    """Whether a model has an encoder and a decoder."""
    return model.config.is_encoder_decoder and model.get_encoder() is not model and model.get_decoder() is not model


def pytest_configure() -> None:
    """Patch the families' models, in this process only."""
    if SETTINGS["attach"] is None:
        return
    PreTrainedModel.from_pretrained = classmethod(attach_made(PreTrainedModel.from_pretrained.__func__))
    for family in FAMILIES:
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        for cls in [value for value in vars(module).values() if isinstance(value, type)]:
            if issubclass(cls, PreTrainedModel) and cls is not PreTrainedModel and "__init__" in vars(cls):
                cls.__init__ = attach_made(cls.__init__)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Begin every test with the same random numbers, those of the tests' own generator included."""
    set_seed(SEED)
    common = sys.modules.get("tests.test_modeling_common")
    if common is not None:
        common.global_rng.seed(SEED)


OUTCOMES: dict[str, dict[str, str]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember a test's outcome: failed if any phase or subtest failed, skipped if any was."""
    known = OUTCOMES.setdefault(report.nodeid, {"test": report.nodeid, "outcome": "passed"})
    if report.failed and known["outcome"] != "failed":
        known |= {"outcome": "failed", "trace": report.longreprtext}
    elif report.skipped and known["outcome"] == "passed":
        known["outcome"] = "skipped"


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Write the line of a test."""
    with Path(SETTINGS["report"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(OUTCOMES.pop(nodeid)) + "\n")
