"""An interrupted run, resumed from its checkpoint, ends exactly where an uninterrupted one does.

With dropout and AdamW, so that random states, moments and step counts must all come back (accelerate #3971: FSDP2 lost
the optimizer's step).
"""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from helpers.repo import ROOT, TRAIN
from lab import commands, training, workshop
from lab.workshop import flags

ENGINES = {"zero2": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero2.json"}), "fsdp": ("fsdp", {})}

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("zero_ops")]


@pytest.mark.parametrize(
    ("launcher", "engine"), [(launcher, engine) for engine, (launcher, _) in ENGINES.items()], ids=ENGINES
)
def test_resumed_run_ends_like_an_uninterrupted_one(launched, launcher, engine, tmp_path):
    folder = workshop.build(tmp_path, dropout=0.1)
    _, changes = ENGINES[engine]
    changes |= {"optim": "adamw_torch", "learning_rate": 0.01, "max_steps": 4, "gradient_accumulation_steps": 1}
    changes |= {"save_strategy": "steps", "save_steps": 2}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    launched.run(launcher, training.run, words=flags(folder, whole, **changes))
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")  # what is left after an interruption
    words = flags(folder, resumed, **changes, resume_from_checkpoint=True)
    done = commands.run([*commands.launcher(launcher), TRAIN, *words])  # processes that know nothing of the first run
    assert done.returncode == 0, done.stdout
    expected = AutoModelForSeq2SeqLM.from_pretrained(whole).state_dict()
    found = AutoModelForSeq2SeqLM.from_pretrained(resumed).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
