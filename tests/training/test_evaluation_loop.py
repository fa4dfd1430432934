"""Evaluation: every document once and in order, whatever the ranks, the batch size and the engine."""

from __future__ import annotations

import pytest
import torch

from helpers.repo import ROOT
from lab import evaluating

COUNTS, BATCH_SIZES = (1, 3, 7), (1, 3)
FSDP2 = {"version": 2, "cpu_ram_efficient_loading": False}
ENGINES = {
    "ddp": ("torchrun", {}),
    "zero2": ("deepspeed", {"deepspeed": str(ROOT / "ds_configs/zero2.json")}),
    "zero3": ("deepspeed", {"deepspeed": str(ROOT / "ds_configs/zero3.json")}),
    "fsdp2": ("torchrun", {"fsdp": "full_shard", "fsdp_config": FSDP2}),
}
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def alone(many, tmp_path_factory):
    """What one process finds."""
    return evaluating.evaluate(many, str(tmp_path_factory.mktemp("out")), counts=COUNTS, batch_sizes=BATCH_SIZES)


def same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for key, (metrics, texts, labels) in found.items():
        assert metrics == pytest.approx(expected[key][0], rel=tolerance, abs=tolerance), key
        assert (texts, labels) == expected[key][1:], key


def test_the_loss_is_the_mean_over_label_tokens(many, alone):
    for count in COUNTS:
        for batch_size in BATCH_SIZES:
            metrics, texts, labels = alone[count, batch_size]
            assert metrics["loss"] == pytest.approx(evaluating.loss_per_token(many, count), rel=1e-12)
            assert len(texts) == labels == count
            assert texts == alone[7, 1][1][:count], "in the data's order"


@pytest.mark.parametrize(("launcher", "name"), [(engine[0], name) for name, engine in ENGINES.items()], ids=ENGINES)
def test_two_ranks_find_what_one_finds(launched, launcher, name, many, alone, tmp_path):
    options = dict(counts=COUNTS, batch_sizes=BATCH_SIZES, **ENGINES[name][1])
    wide = launcher != "deepspeed"  # which has no float64
    options["dtype"] = torch.float64 if wide else torch.float32
    for found in launched.run(launcher, evaluating.evaluate, folder=many, output=str(tmp_path), **options):
        same(found, alone, 1e-12 if wide else 1e-5)


@pytest.mark.parametrize("name", ["ddp", "zero3"])
def test_two_ranks_that_share_documents_find_what_one_finds(launched, name, many, alone, tmp_path):
    launcher, settings = ENGINES[name]
    options = dict(counts=COUNTS, batch_sizes=BATCH_SIZES, ranks_per_document=2, **settings)
    wide = launcher != "deepspeed"
    options["dtype"] = torch.float64 if wide else torch.float32
    for found in launched.run(launcher, evaluating.evaluate, folder=many, output=str(tmp_path), **options):
        same(found, alone, 1e-12 if wide else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ranks_per_document", [1, 2])
def test_four_ranks_find_what_one_finds(four_ranks, many, alone, tmp_path, ranks_per_document):
    options = {"counts": COUNTS, "batch_sizes": BATCH_SIZES, "ranks_per_document": ranks_per_document}
    for found in four_ranks.run(evaluating.evaluate, folder=many, output=str(tmp_path), timeout=300, **options):
        same(found, alone, 1e-12)
