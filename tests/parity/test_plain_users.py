"""The plain Seq2SeqTrainer and a plain Accelerator loop on an attached model: right gradients and right losses shown.

transformers 5.23 would show (and train with) losses multiplied by ranks and accumulation steps; see attach.py.
"""

from __future__ import annotations

import json
import re

import pytest
from lab import workshop
from lab.workshop import ROOT, launch, launcher

SCRIPT = ROOT / "tests" / "lab" / "plain_users.py"
TOLERANCE = 1e-5  # float32: sums of the two ranks and of windows in another order
KINDS = {
    "accelerator-loop": ("torchrun", ["loop"]),
    "trainer-ddp": ("torchrun", ["trainer"]),
    "trainer-zero2": ("deepspeed", ["trainer", ROOT / "ds_configs/zero2.json"]),
    "trainer-zero3": ("deepspeed", ["trainer", ROOT / "ds_configs/zero3.json"]),
}

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("zero_ops")]


@pytest.mark.parametrize("kind", KINDS)
def test_what_users_have_trains_rightly(kind, folder, expected, tmp_path):
    weights, losses = expected
    how, arguments = KINDS[kind]
    done = launch([*launcher(how), SCRIPT, folder, tmp_path, *arguments])
    assert done.returncode == 0, done.stdout
    assert workshop.worst_error(tmp_path, weights) < TOLERANCE
    shown = json.loads(re.search(r"losses: (\[.*?\])", done.stdout)[1])
    assert shown == pytest.approx(losses, abs=1e-3)  # the Trainer shows four digits
