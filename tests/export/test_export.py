"""What `cached-ds export` writes, what its model card says, and what it refuses; nothing half-written is left."""

from __future__ import annotations

import json
import shutil
import sys

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from cached_ds import attach
from cached_ds.checkpoints import manifest
from cached_ds.cli import main
from cached_ds.export import export, weights
from cached_ds.provenance.record import read_record, recorded_reading, recorded_run, write_record
from cached_ds.run.arguments import parse, read_flags
from cached_ds.run.recorded import recorded
from cached_ds.settings.config import CachedConfig
from helpers import tiny
from lab import training, workshop


def seal(folder):
    """Write the manifest of a checkpoint, instead of the one that it has."""
    (folder / manifest.MANIFEST).unlink(missing_ok=True)
    files = manifest.sizes(folder)
    manifest.write(folder, {"step": 2}, sizes=files, digests=manifest.digests(folder, files))


@pytest.fixture
def checkpoint(folder, tmp_path):
    """A whole checkpoint with the workshop's model."""
    shutil.copytree(folder / "model", tmp_path / "run/checkpoint-2")
    seal(tmp_path / "run/checkpoint-2")
    return tmp_path / "run/checkpoint-2"


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_is_written_as_transformers_does(tmp_path, family, dtype):
    model = attach(tiny.make_model(family, dtype=dtype), window=tiny.WINDOW)
    model.save_pretrained(tmp_path / "run", max_shard_size="20KB")
    written = export(tmp_path / "run", tmp_path / "out")
    model.save_pretrained(tmp_path / "expected")
    assert written.model == type(model).__name__ and written.dtypes == (str(dtype).removeprefix("torch."),)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in (tmp_path / "expected").iterdir()} | {"README.md"}
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads(
            (tmp_path / "expected" / name).read_text()
        )
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "expected"))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_a_run_is_recorded_and_its_card_says_so(folder, tmp_path, capsys):
    changes = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    changes |= {"validation_file": folder / "validation.jsonl", "do_eval": True, "hub_token": "secret"}
    training.run(workshop.flags(folder, tmp_path / "run", **changes))
    capsys.readouterr()
    for name, source in (("step", "run/checkpoint-2"), ("whole", "run")):
        assert main(["export", str(tmp_path / source), str(tmp_path / name)]) == 0
        assert f"{tmp_path / name}: BartForConditionalGeneration, 92 tensors, float32" in capsys.readouterr().out
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        _, header, text = card.split("---\n", 2)
        assert yaml.safe_load(header) == {"library_name": "transformers", "tags": ["cached_ds"]}, "no name of the hub"
        assert (
            "- base model: model\n- training documents: train.jsonl\n- validation documents: validation.jsonl\n" in text
        )
        state = json.loads((tmp_path / source / "trainer_state.json").read_text())
        loss = next(entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry)
        assert f"| eval_loss | {loss:.6g} |" in text and f"{state['global_step']} steps" in text
        assert "_runtime" not in text
        settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
        assert settings["window"] == workshop.WINDOW and settings["learning_rate"] == workshop.LEARNING_RATE
        assert settings["model_name_or_path"] == "model" and "output_dir" not in settings
        assert str(tmp_path) not in card and str(folder) not in card and "secret" not in card
        assert f"torch {torch.__version__}" in text
        assert read_record(tmp_path / name) == read_record(tmp_path / source)
        assert recorded_reading(tmp_path / name) == {
            "window": workshop.WINDOW, "overlap": 0, "frame_windows": True, "global_first_token": None,
            "source_prefix": None, "own_prefixes": False,
        }  # fmt: skip
    trained = load_file(tmp_path / "run/model.safetensors")
    assert all(
        torch.equal(value, trained[key]) for key, value in load_file(tmp_path / "step/model.safetensors").items()
    )


def test_names_on_the_hub_and_scores_stand_in_the_header(checkpoint, tmp_path):
    words = ["--model_name_or_path", "some/model", "--dataset_name", "some/data", "--output_dir", str(tmp_path)]
    words += ["--prefix_separator", "</s>"]
    write_record(
        checkpoint.parent,
        recorded(parse(words), read_flags(words), cached=CachedConfig(), own_prefixes=False, run="3f2a"),
    )
    entries = [
        {"step": 1, "eval_rouge1": 1.0},
        {"step": 2, "eval_rouge1": 20.5, "epoch": 1.0},
        {"step": 2, "loss": 3.0},
    ]
    state = {"log_history": entries, "global_step": 2, "epoch": 1.0}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    seal(checkpoint)
    export(checkpoint, tmp_path / "out")
    _, header, text = (tmp_path / "out/README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "transformers", "tags": ["cached_ds"], "base_model": "some/model", "datasets": "some/data",
        "metrics": ["rouge"],
    }  # fmt: skip
    assert "prefix_separator: </s>\n" in text and "- base model: some/model\n- data set: some/data\n" in text
    assert "| eval_rouge1 | 20.5 |" in text and "2 steps, 1 epochs" in text and "loss" not in text
    assert read_record(tmp_path / "elsewhere") == {}
    assert recorded_run(checkpoint.parent) == "3f2a" and recorded_run(checkpoint) is None, "of this folder alone"


def test_nothing_is_said_of_what_no_file_says(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert (
        "## Base" not in text and "## Results" not in text and "## Training" not in text and "## Versions" not in text
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("word1")["input_ids"]


def test_an_adapter_is_written_as_peft_saves_it(folder, tmp_path):
    base = AutoModelForSeq2SeqLM.from_pretrained(folder / "model")
    settings = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = attach(peft.get_peft_model(base, settings), window=16)
    model.save_pretrained(tmp_path / "run")
    assert export(tmp_path / "run", tmp_path / "out").model == "adapter"
    again = peft.PeftModel.from_pretrained(
        AutoModelForSeq2SeqLM.from_pretrained(folder / "model"), tmp_path / "out"
    ).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
    assert "library_name: peft" in (tmp_path / "out/README.md").read_text()
    save_file({}, tmp_path / "run/adapter_model.safetensors")  # what ZeRO-3 leaves beside its shards
    refused(tmp_path / "run", tmp_path / "other", "it holds the shards of an adapter")


def refused(source, target, message):
    with pytest.raises(ValueError, match=message):
        export(source, target)
    assert not target.exists()


BROKEN = {
    "a flipped bit": (lambda path: flip(path / "model.safetensors"), "model.safetensors was changed"),
    "a file is missing": (lambda path: (path / "config.json").unlink(), "config.json is missing"),
    "no manifest": (lambda path: (path / manifest.MANIFEST).unlink(), "holds no manifest.json"),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", BROKEN)
def test_a_checkpoint_that_is_not_whole_is_refused(checkpoint, tmp_path, capsys, damage):
    hurt, phrase = BROKEN[damage]
    hurt(checkpoint)
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{checkpoint} is not a whole checkpoint: {phrase}" in error and "export another one of the run" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_targets_that_are_taken_or_nowhere_are_refused(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").touch()
    with pytest.raises(ValueError, match="out is there already; allowed is a folder that does not exist or is empty"):
        export(checkpoint, tmp_path / "out")
    with pytest.raises(ValueError, match="in which it is to stand, does not exist"):
        export(checkpoint, tmp_path / "nowhere/out")
    with pytest.raises(ValueError, match="there is no such folder"):
        export(tmp_path / "checkpoint-7", tmp_path / "new")
    (tmp_path / "out/file").unlink()
    export(checkpoint, tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_file(), "an empty folder is no obstacle"


@pytest.mark.parametrize("trouble", [OSError("No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing(checkpoint, tmp_path, monkeypatch, trouble):
    def fail(*_, **__):
        raise trouble

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(type(trouble)):
        export(checkpoint, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_shards_are_opened_only_where_a_manifest_vouches_for_them(checkpoint, tmp_path):
    run = checkpoint.rename(tmp_path / "run/renamed")
    (run / manifest.MANIFEST).unlink()
    (run / "model.safetensors").unlink()
    refused(run, tmp_path / "out", "no weights here; allowed is a checkpoint-N of a run")
    (run / weights.SHARDED_MODEL).mkdir()
    refused(run, tmp_path / "out", "shards that contain pickles, and no manifest vouches for them")
    (run / "config.json").unlink()
    refused(run, tmp_path / "out", "holds no config.json, which says what model its weights are of")


@pytest.mark.parametrize(
    ("change", "message"), [("drop", "its weights lack model.shared.weight"), ("cut", "the shape")]
)
def test_weights_of_another_model_are_refused(checkpoint, tmp_path, change, message):
    tensors = load_file(checkpoint / "model.safetensors")
    tensor = tensors.pop("model.shared.weight")
    if change == "cut":
        tensors["model.shared.weight"] = tensor[:-1].contiguous()
    save_file(tensors, checkpoint / "model.safetensors")
    seal(checkpoint)
    refused(checkpoint, tmp_path / "out", message)


def test_shards_of_zero_need_deepspeed(checkpoint, tmp_path, monkeypatch, capsys):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "latest").write_text("global_step2")
    seal(checkpoint)
    for name in [name for name in sys.modules if name.split(".")[0] == "deepspeed"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    assert main(["export", str(checkpoint), str(tmp_path / "out")]) == 2
    assert "pip install 'cached_ds[deepspeed]'" in capsys.readouterr().err


class Hidden:
    def find_spec(self, name, *_):
        if name == "deepspeed":
            raise ModuleNotFoundError(name="deepspeed")
