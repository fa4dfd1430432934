"""A run that cannot go on ends on all ranks with a sentence and an exit code other than 0, and saves nothing bad."""

from __future__ import annotations

import re

import pytest

from helpers.repo import ROOT
from lab import commands
from lab.programs import PROGRAMS
from lab.running import Running
from lab.slow import slow_but
from lab.workshop import flags

RUNS = {
    "ddp": ("torchrun", {}),
    "zero2": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero2.json"}),
    "fsdp": ("fsdp", {}),
}
STEPS = {"gradient_accumulation_steps": 1, "save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
SENTENCES = {
    "loss": r"step 2: loss or gradient is not finite, 1 times in a row; allowed is --max_skipped_steps 0 \(rank 1, "
    r"document \d \(\S+train.jsonl, line \d, [\d,]+ tokens\): its states are finite, but the loss of it is not\)",
    "memory": r"step 2, rank 1, document \d \(\S+train.jsonl, line \d, [\d,]+ tokens\): out of memory.*; set --offload "
    "disk; if that is not enough, set --schedule layer, with ZeRO-3 or FSDP2",
}
PAIRS = [(fault, engine) for fault in SENTENCES for engine in RUNS]
QUICK = [("loss", "zero2"), ("memory", "ddp")]

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("zero_ops")]


@pytest.mark.parametrize(("fault", "engine"), slow_but(QUICK, PAIRS))
def test_all_ranks_end_with_a_sentence(folder, tmp_path, fault, engine):
    launcher, changes = RUNS[engine]
    words = flags(folder, tmp_path, **STEPS | changes, max_skipped_steps=0)
    run = Running([*commands.launcher(launcher), PROGRAMS / "faulty_run.py", fault, 1, 2, *words])
    done = run.finish(120)
    assert done.returncode not in (None, 0) and not done.survivors, done
    ranks = set(re.findall(rf"train.py: error: rank (\d) of 2 on host \S+: {SENTENCES[fault]}", done.output))
    assert ranks == ({"0", "1"} if fault == "loss" else {"1"}), done.output
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-1"}
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_negative_number_of_skipped_steps_is_refused(folder, tmp_path):
    from lab.training import train

    with pytest.raises(ValueError, match="--max_skipped_steps -1 is refused; allowed is a number >= 0"):
        train.parse(flags(folder, tmp_path, max_skipped_steps=-1))
