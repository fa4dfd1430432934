"""Whatever the engine: a checkpoint, exported, is the trained model for users of transformers alone."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from cached_ds.cli import main
from helpers.repo import ROOT
from lab import commands, training, workshop
from lab.programs import PROGRAMS

# Runs of ZeRO-3 that leave the weights in shards, and the run that has the same weights and gathers them.
GATHERED = {"zero3_sharded": "zero3", "zero3_sharded_bf16": "zero3_bf16"}
RUNS = {
    "deepspeed": ("zero1", "zero2", "zero3", "zero3_bf16", *GATHERED),
    "fsdp": ("launcher",),
    "torchrun": ("launcher",),
}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """`plain(*folders)`: what a process that never imports cached_ds reads there."""

    def read(*folders):
        output = tmp_path_factory.mktemp("read") / "found.pt"
        done = commands.run([sys.executable, PROGRAMS / "plain_reader.py", output, *folders])
        assert done.returncode == 0, done.stdout
        return [torch.load(output)[str(folder)] for folder in folders]

    return read


def settings_of(name, folder):
    """What `run_engines` gets for a run: a config of its own in `folder`, if it is none of ds_configs/."""
    if "_" not in name:
        return name
    settings = json.loads((ROOT / "ds_configs/zero3.json").read_text(encoding="utf-8"))
    settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = name not in GATHERED
    (folder / f"{name}.json").write_text(json.dumps(settings), encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize("launcher", RUNS)
def test_an_exported_checkpoint_is_the_trained_model(launched, folder, tmp_path, plain, launcher):
    changes = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 1}
    for bf16 in (False, True):
        engines = [settings_of(name, tmp_path) for name in RUNS[launcher] if name.endswith("bf16") == bf16]
        words = workshop.flags(folder, None, output_dir=None, bf16=bf16, **changes)
        launched.run(launcher, training.run_engines, output=str(tmp_path), engines=engines, words=words)
    runs = [tmp_path / name for name in RUNS[launcher]]
    for run in runs:
        is_whole = run.name not in GATHERED and launcher != "fsdp"
        assert (run / "checkpoint-2/model.safetensors").exists() == is_whole
        assert main(["export", str(run / "checkpoint-2"), str(run / "plain")]) == 0
        assert not [path.name for path in run.iterdir() if path.name.startswith(".")], "only what is finished stays"
    saved = [tmp_path / GATHERED.get(run.name, run.name) for run in runs]
    *found, untrained = plain(*(run / "plain" for run in runs), *saved, folder / "model")
    names = load_file(folder / "model/model.safetensors").keys()
    for run, exported, trained in zip(runs, found, found[len(runs) :], strict=False):
        dtype = "torch.bfloat16" if run.name.endswith("bf16") else "torch.float32"
        assert torch.equal(exported["logits"], trained["logits"]), run
        assert not torch.equal(exported["logits"].float(), untrained["logits"]), "it has learnt"
        assert not any(exported["said"].values()), exported["said"]
        assert exported["tied"] and exported["dtype"] == dtype and exported["begins"] == trained["begins"]
        assert load_file(run / "plain/model.safetensors").keys() == names, "of tied weights, one"
