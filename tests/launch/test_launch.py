"""launch/train.py under every launcher and every config of ds_configs/: real runs on two ranks, held to the oracle."""

from __future__ import annotations

import json

import pytest

from helpers.repo import ROOT, TRAIN
from lab import commands, training, workshop
from lab.workshop import flags

RUNS = {
    "torchrun": ("torchrun", {}),
    "zero1": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero1.json"}),
    "zero2": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero2.json"}),
    "zero3": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero3.json"}),
    "zero3_offload": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero3_offload.json"}),
    "fsdp": ("fsdp", {}),
    "fsdp_offload": ("fsdp_offload", {}),
    "zero3-layer": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero3.json", "schedule": "layer", "offload": "disk"}),
    "fsdp-layer": ("fsdp", {"schedule": "layer", "windows_per_pass": 2}),
    "torchrun-auto": ("torchrun", {"windows_per_pass": "auto", "recompute": "auto"}),
}

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("zero_ops")]


@pytest.mark.parametrize(("launcher", "name"), [(launcher, name) for name, (launcher, _) in RUNS.items()], ids=RUNS)
def test_every_config_trains_like_full_backpropagation(launched, launcher, name, folder, expected, tmp_path):
    _, changes = RUNS[name]
    launched.run(launcher, training.run, words=flags(folder, tmp_path, **changes))
    weights, _ = expected
    assert workshop.saved_error(tmp_path, weights) < workshop.TOLERANCE
    for file in ("train_results.json", "all_results.json", "trainer_state.json", "training.png", "model.safetensors"):
        assert (tmp_path / file).is_file(), f"{name} did not write {file}"


def test_one_process_and_a_recipe_with_evaluation(folder, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    words = flags(folder, tmp_path / "out", max_steps=1, validation_file=folder / "validation.jsonl")
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    more = {"--do_eval": "true", "--do_predict": "true", "--predict_with_generate": "true"}
    more |= {"--test_file": str(folder / "validation.jsonl"), "--max_target_length": "12", "--attribution": "occlusion"}
    lines = [f"{name.removeprefix('--')}: {value}" for name, value in (pairs | more).items()]
    recipe.write_text("\n".join(lines), encoding="utf-8")
    done = commands.run(["python", TRAIN, recipe, "--num_beams", 2])
    assert done.returncode == 0, done.stdout
    assert "document 2 (35 tokens)" in done.stdout  # the third sample: 33 words and their frame
    assert len((tmp_path / "out/generated_predictions.txt").read_text().splitlines()) == 4
    records = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == [0, 1, 2, 3] and "rougeLsum" in records[3]["scores"]
    sources = [json.loads(line) for line in (tmp_path / "out/attribution.jsonl").read_text().splitlines()]
    assert [each["summary"] for each in sources] == [record["prediction"] for record in records]
    results = (tmp_path / "out/all_results.json").read_text()
    for key in (
        "predict_rouge1_low",
        "predict_rougeLsum_high",
        "eval_rouge1",
        "eval_rougeLsum",
        "predict_rouge2",
        "train_loss",
        "predict_samples",
    ):
        assert f'"{key}"' in results
