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

SHARDED = "zero3_sharded"  # ZeRO-3 that leaves the weights in shards
PICKLES = {SHARDED, "fsdp"}  # whose weights are in no model.safetensors
RUNS = {"deepspeed": ("zero1", "zero2", "zero3", SHARDED), "fsdp": ("launcher",), "torchrun": ("launcher",)}

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


@pytest.mark.parametrize("launcher", RUNS)
def test_an_exported_checkpoint_is_the_trained_model(launched, folder, tmp_path, plain, launcher):
    sharded = json.loads((ROOT / "ds_configs/zero3.json").read_text(encoding="utf-8"))
    sharded["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = False
    (tmp_path / f"{SHARDED}.json").write_text(json.dumps(sharded))
    engines = [tmp_path / name if name == SHARDED else name for name in RUNS[launcher]]
    words = workshop.flags(folder, None, output_dir=None, max_steps=2, save_strategy="steps", save_steps=2)
    launched.run(launcher, training.run_engines, output=str(tmp_path), engines=list(map(str, engines)), words=words)
    runs = [tmp_path / name for name in RUNS[launcher]]
    for run in runs:
        assert (run / "checkpoint-2/model.safetensors").exists() == (run.name != SHARDED and launcher != "fsdp")
        assert main(["export", str(run / "checkpoint-2"), str(run / "plain")]) == 0
        assert not [path.name for path in run.iterdir() if path.name.startswith(".")], "only what is finished stays"
    gathered = [tmp_path / "zero3" if run.name == SHARDED else run for run in runs]  # SHARDED saves no whole model
    found = plain(*(run / "plain" for run in runs), *gathered, folder / "model")
    for run, exported, trained in zip(runs, found, found[len(runs) :], strict=False):
        assert torch.equal(exported["logits"], trained["logits"]), run
        assert not torch.equal(exported["logits"], found[-1]["logits"]), "it has learnt"
        assert not any(exported["said"].values()), exported["said"]
        assert exported["tied"] and exported["dtype"] == "torch.float32" and exported["begins"] == trained["begins"]
        weights, untouched = load_file(run / "plain/model.safetensors"), load_file(folder / "model/model.safetensors")
        assert weights.keys() == untouched.keys(), "of tied weights, the one that save_pretrained writes"
