"""Bad input to launch/train.py: one clear sentence, exit code 2, no traceback, on every rank, before any work."""

from __future__ import annotations

import json

import pytest
from lab.workshop import ROOT, flags, launch, launcher

from cached_ds.run.arguments import parse

TRAIN = ROOT / "launch" / "train.py"


def refused(folder, tmp_path, **changes):
    with pytest.raises(ValueError) as caught:
        parse(flags(folder, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists(), "nothing may be written before the input is checked"
    return str(caught.value)


def test_unknown_flag_names_the_nearest(folder, tmp_path):
    assert "'--windw': did you mean '--window'?" in refused(folder, tmp_path, windw=8)


def test_unknown_recipe_key_names_file_and_nearest(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("max_step: 3", encoding="utf-8")
    with pytest.raises(ValueError, match=r"r\.yaml: unknown key 'max_step': did you mean 'max_steps'"):
        parse([str(recipe)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": "wide"}, "argument --window: invalid int value: 'wide'"),
        ({"window": 2}, "window=2 is refused"),
        ({"recompute": "some"}, "recompute='some' is refused"),
        ({"train_file": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"num_beams": 0}, "--num_beams 0 is refused"),
        ({"config_name": "tiny-bart"}, "either --model_name_or_path"),
        ({"max_steps": "1e3"}, "max_steps/--max-steps: invalid int value: '1e3'"),
    ],
)
def test_values_that_are_not_allowed(folder, tmp_path, changes, message):
    assert message in refused(folder, tmp_path, **changes)


def test_unknown_shape_names_the_nearest(tmp_path):
    words = ["--config_name", "tiny-brat", "--dataset_name", "pysource", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="did you mean 'tiny-bart'"):
        parse(words)


def test_a_stray_word_is_not_a_recipe():
    with pytest.raises(ValueError, match="'train': expected a flag, or a recipe"):
        parse(["train"])


def test_deepspeed_typo_is_found_before_any_work(folder, tmp_path):
    config = tmp_path / "ds.json"
    config.write_text(json.dumps({"zero_optimisation": {"stage": 2}}), encoding="utf-8")
    assert "zero_optimization" in refused(folder, tmp_path, deepspeed=config)


@pytest.mark.timeout(200)
def test_all_ranks_end_together_with_exit_code_2(folder, tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"text": "a b", "summary": "c"}\n{"text": "d"}\n', encoding="utf-8")
    words = flags(folder, tmp_path / "out", train_file=tmp_path / "broken.jsonl", text_column="text")
    done = launch([*launcher("deepspeed"), TRAIN, *words, "--summary_column", "summary"])
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stdout
    assert done.stdout.count("train.py: error:") == 2, done.stdout
    assert "broken.jsonl" in done.stdout and "line 2" in done.stdout


@pytest.mark.timeout(200)
def test_a_document_without_words_is_named(folder, tmp_path):
    (tmp_path / "empty.jsonl").write_text('{"text": "a b", "summary": "c"}\n{"text": "", "summary": "d"}\n')
    done = launch(["python", TRAIN, *flags(folder, tmp_path / "out", train_file=tmp_path / "empty.jsonl")])
    assert done.returncode == 2 and "line 2" in done.stdout, done.stdout


@pytest.mark.timeout(200)
def test_a_window_that_the_model_cannot_read(folder, tmp_path):
    done = launch(["python", TRAIN, *flags(folder, tmp_path / "out", window=128)])
    assert done.returncode == 2, done.stdout
    assert "window=128 is refused; allowed is at most 64, the encoder's max_position_embeddings" in done.stdout
