"""The plain Seq2SeqTrainer and a plain Accelerator loop on an attached model: right gradients and right losses shown.

transformers 5.23 would show (and train with) losses multiplied by ranks and accumulation steps; see attachment.py.
"""

from __future__ import annotations

import pytest

from helpers.repo import ROOT
from lab import plain_users, workshop

FSDP2 = {"version": 2, "cpu_ram_efficient_loading": False}
KINDS = {
    "accelerator-loop": ("torchrun", plain_users.loop, {}),
    "trainer-ddp": ("torchrun", plain_users.trainer, {}),
    "model_init-fsdp2": ("torchrun", plain_users.model_init, {"fsdp": "full_shard", "fsdp_config": FSDP2}),
    "shared-ddp": ("torchrun", plain_users.shared, {}),
    "shared-fsdp2": ("torchrun", plain_users.shared, {"fsdp": "full_shard", "fsdp_config": FSDP2}),
    "shared-zero3": ("deepspeed", plain_users.shared, {"deepspeed": str(ROOT / "ds_configs/zero3.json")}),
    "trainer-zero2": ("deepspeed", plain_users.trainer, {"deepspeed": str(ROOT / "ds_configs/zero2.json")}),
    "trainer-zero3": ("deepspeed", plain_users.trainer, {"deepspeed": str(ROOT / "ds_configs/zero3.json")}),
}

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize(("launcher", "kind"), [(launcher, kind) for kind, (launcher, *_) in KINDS.items()], ids=KINDS)
def test_what_users_have_trains_rightly(launched, launcher, kind, folder, expected, tmp_path):
    weights, losses = expected
    _, function, options = KINDS[kind]
    for shown in launched.run(launcher, function, folder=folder, output=str(tmp_path), **options):
        assert shown == pytest.approx(losses, abs=1e-3)  # the Trainer shows four digits
    assert workshop.saved_error(tmp_path, weights) < workshop.TOLERANCE
