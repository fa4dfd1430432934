"""Parity under engines: two ranks with different numbers of windows, three steps with accumulation and clipping."""

from __future__ import annotations

import pytest
import torch

from helpers import engines, tiny
from helpers.engines import FP32, FP64, SMALL


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_bart_with_1_and_37_windows(zero_ranks, engine):
    assert max(zero_ranks.run(engines.parity, family="bart", engine=engine, dropout=0.1)) < FP32


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_bart_without_dropout(zero_ranks, engine):
    assert max(zero_ranks.run(engines.parity, family="bart", engine=engine, dropout=0.0, **SMALL)) < FP32


@pytest.mark.parametrize("family", [family for family in tiny.FAMILIES if family != "bart"])
@pytest.mark.parametrize("engine", engines.ENGINES)
def test_every_family_under_every_engine(zero_ranks, engine, family):
    assert max(zero_ranks.run(engines.parity, family=family, engine=engine, dropout=0.1, **SMALL)) < FP32


# DeepSpeed has no float64: stages 1-3 keep float32 master weights, and stage 0 refuses to reduce a float64 gradient.
@pytest.mark.parametrize("family", ["bart", "t5"])
@pytest.mark.parametrize("engine", ["plain", "ddp", "fsdp2"])
def test_float64(ranks, engine, family):
    found = ranks.run(engines.parity, family=family, engine=engine, dropout=0.1, dtype=torch.float64, **SMALL)
    assert max(found) < FP64
