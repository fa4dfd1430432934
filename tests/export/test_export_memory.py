"""One copy of the weights is the most that an export holds, whatever it reads them from."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import torch.distributed as dist
from torch.distributed import checkpoint as dcp
from transformers import BartConfig, BartForConditionalGeneration

from cached_ds import zero
from cached_ds.checkpoints import manifest
from helpers import tiny
from helpers.repo import ROOT
from lab import commands
from lab.programs import PROGRAMS

LARGE = {"d_model": 512, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048}  # 60 MiB, of which no tensor is 5
SLACK = 1.25  # what writing takes beside the copy, and what the allocator keeps

pytestmark = pytest.mark.timeout(300)


def model_of(**sizes):
    torch.manual_seed(0)
    return BartForConditionalGeneration(BartConfig(**tiny.bart_like(0.0) | sizes))


def save_plain(model, folder):
    model.save_pretrained(folder)


def save_fsdp(model, folder):
    with pytest.warns(UserWarning, match="torch.distributed"):
        dcp.save({"model": model.state_dict()}, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)


def save_zero3(folders):
    """On every rank: a checkpoint of ZeRO-3 that keeps its shards, as training leaves it."""
    settings = json.loads((ROOT / "ds_configs/zero3.json").read_text(encoding="utf-8"))
    settings["zero_allow_untested_optimizer"] = True  # SGD: without moments the files are smaller
    for folder, sizes in folders.items():
        model = model_of(**sizes)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        engine, *_ = zero.initialize(model=model, config=settings, optimizer=optimizer)
        engine.save_checkpoint(folder)
        engine.destroy()
    dist.barrier()


@pytest.mark.parametrize(("source", "copies"), [("plain", 0), ("fsdp", 1), ("zero3", 1)])
def test_it_holds_one_copy_of_the_weights_or_none(request, tmp_path, source, copies):
    folders = {tmp_path / "checkpoint-1": {}, tmp_path / "checkpoint-2": LARGE}
    if source == "zero3":
        request.getfixturevalue("zero_ranks").run(save_zero3, folders=folders)
    for folder, sizes in folders.items():
        model = model_of(**sizes)
        model.config.save_pretrained(folder)
        if source != "zero3":
            {"plain": save_plain, "fsdp": save_fsdp}[source](model, folder)
        files = manifest.sizes(folder)
        manifest.write(folder, {}, sizes=files, digests=manifest.digests(folder, files))
    done = commands.run([sys.executable, PROGRAMS / "export_memory.py", *folders, tmp_path])
    assert done.returncode == 0, done.stdout
    peak = int(done.stdout.split("peak ")[1].split()[0])
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert size > 50e6 and copies * 0.9 * size <= peak < (copies + SLACK - 1) * size, f"{peak / size:.2f} copies"
    exported = BartForConditionalGeneration.from_pretrained(tmp_path / "large").state_dict()
    assert all(torch.equal(exported[name], value) for name, value in model.state_dict().items())
