"""Bad input to launch/train.py: one clear sentence, exit code 2, no traceback, on every rank, before any work."""

from __future__ import annotations

import json

import pytest

from cached_ds.run.arguments import parse
from helpers.repo import TRAIN
from lab import commands
from lab.workshop import flags


def refused(folder, tmp_path, **changes):
    with pytest.raises(ValueError) as caught:
        parse(flags(folder, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists(), "nothing may be written before the input is checked"
    return str(caught.value)


def test_flags_of_run_summarization_that_are_not_taken_are_explained(folder, tmp_path):
    assert "--trust_remote_code is refused: code from the hub" in refused(folder, tmp_path, trust_remote_code=True)
    (tmp_path / "r.yaml").write_text("pad_to_max_length: true", encoding="utf-8")
    with pytest.raises(
        ValueError, match="r.yaml, line 1: pad_to_max_length is refused: documents are padded to the longest"
    ):
        parse([str(tmp_path / "r.yaml")])


def test_flags_of_the_hub_reach_those_who_load(folder, tmp_path):
    words = flags(folder, tmp_path / "out", cache_dir="here", model_revision="v1", token="secret")
    assert parse(words).model.from_hub() == {"cache_dir": "here", "revision": "v1", "token": "secret"}


def test_a_recipe_may_hold_the_deepspeed_config_itself(folder, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("deepspeed: {zero_optimization: {stage: 2}, train_batch_size: 0}", encoding="utf-8")
    with pytest.raises(ValueError, match="^deepspeed: train_batch_size=0 is refused"):
        parse([str(recipe), *flags(folder, tmp_path / "out")])


def test_unknown_flag_names_the_nearest(folder, tmp_path):
    assert "'--windw': did you mean '--window'?" in refused(folder, tmp_path, windw=8)


def test_unknown_recipe_key_names_file_and_nearest(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("max_step: 3", encoding="utf-8")
    with pytest.raises(ValueError, match=r"r\.yaml, line 1: unknown key 'max_step': did you mean 'max_steps'"):
        parse([str(recipe)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": "wide"}, "argument --window: invalid int value: 'wide'"),
        ({"window": 2}, "window=2 is refused"),
        ({"recompute": "some"}, "recompute='some' is refused"),
        ({"train_file": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"num_beams": 0}, "--num_beams 0 is refused"),
        ({"rouge_tokenizer": "french"}, "--rouge_tokenizer french is refused; allowed is english or unicode"),
        ({"attribution": "true"}, "--attribution true is refused; allowed is attention or occlusion"),
        ({"attribution": "attention"}, "--attribution: it is of predicted summaries; add --do_predict"),
        (
            {"attribution": "occlusion", "do_predict": True, "predict_with_generate": True}
            | {"stream_cross_attention": False},
            "--attribution: it is weighed tile by tile, and needs --stream_cross_attention true",
        ),
        ({"learning_rate": "nan"}, "--learning_rate nan is refused; allowed is a number >= 0"),
        ({"weight_decay": "inf"}, "--weight_decay inf is refused"),
        ({"max_grad_norm": "-1"}, "--max_grad_norm -1.0 is refused"),
        (
            {"label_smoothing_factor": "1.5"},
            "--label_smoothing_factor 1.5 is refused; allowed is a number >= 0 and < 1",
        ),
        ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size 0 is refused"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps 0 is refused"),
        ({"lang": "de_DE", "source_lang": "de_DE"}, "lang='de_DE' together with source_lang"),
        ({"config_name": "tiny-bart"}, "either --model_name_or_path"),
        ({"metric_for_best_model": "rouge7"}, "--metric_for_best_model: unknown metric 'rouge7'"),
        ({"metric_for_best_model": "rouge1"}, "ROUGE needs --predict_with_generate"),
        ({"report_to": "wandb"}, "--report_to wandb is refused: wandb is not installed"),
        ({"report_to": "tensorbord"}, "--report_to: unknown reporter 'tensorbord': did you mean 'tensorboard'?"),
        ({"zzz": 1}, "others, none of them like it"),
        ({"max_steps": "1e3"}, "max_steps/--max-steps: invalid int value: '1e3'"),
    ],
)
def test_values_that_are_not_allowed(folder, tmp_path, changes, message):
    assert message in refused(folder, tmp_path, **changes)


def test_unknown_shape_names_the_nearest(tmp_path):
    words = ["--config_name", "tiny-brat", "--dataset_name", "pysource", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="did you mean 'tiny-bart'"):
        parse(words)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"train_batch_size": 0}, 'train_batch_size=0 is refused; allowed is "auto" or an integer >= 1'),
        ({"gradient_clipping": -1}, "gradient_clipping=-1 is refused"),
        ({"zero_optimization": {"stage": 7}}, "zero_optimization.stage=7 is refused"),
        ({"zero_optimization": 2}, "zero_optimization=2 is refused; allowed is a mapping"),
        ({"zero_optimization": {"offload_optimizer": {"device": "gpu"}}}, "offload_optimizer.device='gpu' is refused"),
        ({"bf16": {"enabled": 3}}, "bf16.enabled=3 is refused"),
        ({"optimizer": {"type": "AdamNope"}}, "optimizer.type='AdamNope' is refused; allowed types are adagrad"),
        ({"scheduler": {"type": 5}}, "scheduler.type=5 is refused"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2 vs hf gradient_accumulation_steps=3"),
    ],
)
def test_deepspeed_values_that_are_not_allowed(folder, tmp_path, section, message):
    config = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"} | section
    (tmp_path / "ds.json").write_text(json.dumps(config), encoding="utf-8")
    assert message in refused(folder, tmp_path, deepspeed=tmp_path / "ds.json")


def test_a_stray_word_is_not_a_recipe():
    with pytest.raises(ValueError, match="'train': expected a flag, or a recipe"):
        parse(["train"])


def test_deepspeed_typo_is_found_before_any_work(folder, tmp_path):
    config = tmp_path / "ds.json"
    config.write_text(json.dumps({"zero_optimisation": {"stage": 2}}), encoding="utf-8")
    assert "zero_optimization" in refused(folder, tmp_path, deepspeed=config)


@pytest.fixture(scope="module")
def refused_runs(folder, tmp_path_factory):
    """What became of runs of launch/train.py that only a rank at work can refuse, started together."""
    output = tmp_path_factory.mktemp("refused")
    broken, empty, recipe = output / "broken.jsonl", output / "empty.jsonl", output / "window.yaml"
    recipe.write_text("seed: 1\nwindow: 128\n", encoding="utf-8")
    broken.write_text('{"text": "a b", "summary": "c"}\n{"text": "d"}\n', encoding="utf-8")
    empty.write_text('{"text": "a b", "summary": "c"}\n{"text": "", "summary": "d"}\n', encoding="utf-8")
    columns = {"text_column": "text", "summary_column": "summary"}
    two_ranks = [*commands.launcher("deepspeed"), TRAIN]
    runs = {
        "two ranks": [*two_ranks, *flags(folder, output / "ranks", train_file=broken, **columns)],
        "empty document": ["python", TRAIN, *flags(folder, output / "empty", train_file=empty)],
        "window": ["python", TRAIN, recipe, *flags(folder, output / "window", window=None)],
    }
    return dict(zip(runs, commands.run_together(list(runs.values())), strict=True))


@pytest.mark.timeout(200)
def test_all_ranks_end_together_with_exit_code_2(refused_runs):
    done = refused_runs["two ranks"]
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stdout
    assert done.stdout.count("train.py: error:") == 2, done.stdout
    assert "broken.jsonl" in done.stdout and "line 2" in done.stdout


@pytest.mark.timeout(200)
def test_a_document_without_words_is_named(refused_runs):
    done = refused_runs["empty document"]
    assert done.returncode == 2 and "line 2" in done.stdout, done.stdout


@pytest.mark.timeout(200)
def test_a_window_that_the_model_cannot_read(refused_runs):
    done = refused_runs["window"]
    assert done.returncode == 2, done.stdout
    assert (
        "window.yaml, line 2: window=128 is refused; allowed is at most 64, the encoder's max_position_embeddings"
        in done.stdout
    )
