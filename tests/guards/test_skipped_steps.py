"""A step whose loss or gradient is not finite on one rank changes no parameter on any, and training goes on."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForSeq2SeqLM

from helpers.repo import ROOT
from lab import mishaps, workshop
from lab.workshop import flags

ENGINES = {
    "ddp": ("torchrun", {}),
    "zero1": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero1.json"}),
    "zero2": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero2.json"}),
    "zero3": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero3.json"}),
    "fsdp": ("fsdp", {}),
}
STEPS = {"gradient_accumulation_steps": 1, "optim": "adamw_torch", "weight_decay": 0.1, "learning_rate": 0.01}
FAULTS = {"document": "encoder states of window 2 of 8 are not finite", "loss": "the loss of it is not",
          "gradient": "but the gradient of the encoder states of window"}  # fmt: skip

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("zero_ops")]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    folder = workshop.build(tmp_path_factory.mktemp("poisoned"))
    mishaps.write_documents(folder)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("launcher", "engine"), [(launcher, engine) for engine, (launcher, _) in ENGINES.items()], ids=ENGINES
)
def test_a_bad_step_of_one_rank_changes_nothing_on_any(launched, poisoned, tmp_path, launcher, engine, fault):
    words = flags(poisoned, tmp_path, **STEPS | ENGINES[engine][1])
    ranks = launched.run(launcher, mishaps.run, words=words, fault=fault, rank=1, step=2)
    bad = [number for number, (same, _, _) in enumerate(ranks[0], start=1) if same]
    assert len(bad) == 1 and (fault == "document" or bad == [2])
    for steps in ranks:
        assert [same for same, _, _ in steps] == [number in bad for number in (1, 2, 3)]
        assert all(finite for _, finite, _ in steps)
    saved = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).state_dict()
    assert all(bool(values.isfinite().all()) for values in saved.values())
    said = (tmp_path / "logs/rank_00000.log").read_text(encoding="utf-8")
    assert f"step {bad[0]} is skipped" in said and FAULTS[fault] in said, said
    if fault == "document":
        assert f"document {mishaps.ROW} ({poisoned / 'train.jsonl'}, line {mishaps.ROW + 1}, " in said
    history = json.loads((tmp_path / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    losses = [row["loss"] for row in history if "loss" in row]
    assert [loss != loss for loss in losses] == [number in bad for number in (1, 2, 3)]
    assert [row["step"] for row in history if row.get("skipped_steps")] == bad


@pytest.mark.parametrize(
    ("launcher", "engine"), [(launcher, engine) for engine, (launcher, _) in ENGINES.items()], ids=ENGINES
)
def test_a_document_without_content_is_no_reason_to_skip(launched, folder, tmp_path, launcher, engine):
    words = flags(folder, tmp_path, **STEPS | ENGINES[engine][1], max_skipped_steps=0)
    for steps in launched.run(launcher, mishaps.run, words=words, fault="empty", rank=1, step=2):
        assert [same for same, _, _ in steps] == [False] * 3


def test_the_loss_scaler_of_fp16_skips_by_its_own_rules(launched, folder, tmp_path):
    config = json.loads((ROOT / "ds_configs/zero2.json").read_text(encoding="utf-8"))
    config["fp16"] = {"enabled": True, "initial_scale_power": 18, "hysteresis": 1}
    (file := tmp_path / "fp16.json").write_text(json.dumps(config), encoding="utf-8")
    words = flags(folder, tmp_path, **STEPS, deepspeed=file, fp16=True, max_skipped_steps=0, max_steps=12)
    for steps in launched.run("deepspeed", mishaps.run_in_fp16, words=words):
        same = [same for same, _, _ in steps]
        assert same[:2] == [True, True] and not same[-1], "the scale halves until it fits"
    assert "is skipped" not in (tmp_path / "logs/rank_00000.log").read_text(encoding="utf-8")
