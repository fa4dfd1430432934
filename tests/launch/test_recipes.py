"""The recipes of launch/recipes/: each reads a small data set with the hub's columns, trains, and says its settings.

What a test changes of a recipe is where the model and the documents are, and the numbers of steps.
"""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSeq2SeqLM

from cached_ds.data import train_tokenizer
from cached_ds.run.arguments import parse
from cached_ds.run.build import build_data
from helpers import tiny
from helpers.repo import ROOT
from lab import training
from lab.workshop import WORDS

RECIPES = {path.stem: path for path in sorted((ROOT / "launch/recipes").glob("*.yaml"))}
STEPS = {"max_steps": 2, "eval_steps": 1, "save_steps": 1, "disable_tqdm": True}
MIN_LENGTH = 4  # as bart-large-cnn has one of its own


def text(count, *, start=0):
    """So many words in a row."""
    return " ".join(WORDS[(start + number) % len(WORDS)] for number in range(count))


SUMMARY, LINES, SCENES = text(5), [text(40, start=n) for n in range(40)], [text(n) for n in (30, 1200, 7)]
# Recipe -> a row of its data set, and the document that is read of it: texts, each of which begins a window.
ROWS = {
    "govreport": ({"report": text(1500), "summary": SUMMARY}, [text(1500)]),
    "summscreen_fd": ({"Transcript": LINES, "Recap": [SUMMARY, "word9"], "File Name": "x"}, [" ".join(LINES)]),
    "qmsum": ({"id": "meeting 7", "src": f"<s> {text(3)}</s> {text(1500)}", "tgt": SUMMARY}, [text(1500)]),
    "mensa": ({"name": "film", "scenes": SCENES, "summary": SUMMARY, "labels": [1, 0, 1]}, SCENES),
    "booksum": ({"text": text(1500), "summary": SUMMARY}, [text(1500)]),
    "booksum-copy": ({"text": text(1500), "summary": [{"source": "s", "text": SUMMARY}]}, [text(1500)]),
}
POSITIONS = {
    "bart": {"max_position_embeddings": 1024},
    "led": {
        "max_encoder_position_embeddings": 2048,
        "max_decoder_position_embeddings": 1024,
        "attention_window": [64] * 2,
    },
}
# Recipe -> another model, and the flags that the recipe names for it.
OTHERS = {
    "booksum": ("led", ["--window", "2048"]),
    "summscreen_fd": ("t5", ["--window", "512", "--source_prefix", "a "]),
}
COPY = {"booksum-copy": ["--summary_column", "summary[0].text", "--dataset_config_name", "books"]}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of tiny models by family; they generate as bart-large-cnn does, and soon come to an end."""
    folders = {}
    for family in ("bart", "led", "t5"):
        folders[family] = tmp_path_factory.mktemp(family)
        tokenizer = train_tokenizer([" ".join(WORDS)], vocab_size=100, model_type=family, word_level=True)
        torch.manual_seed(0)
        config = tiny.make_config(family, 0.1)
        ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("pad", "eos")}
        config.update(ids | POSITIONS.get(family, {}) | {"vocab_size": len(tokenizer)})
        model = AutoModelForSeq2SeqLM.from_config(config)
        ends = {"exponential_decay_length_penalty": (MIN_LENGTH, 100.0)}
        model.generation_config.update(num_beams=4, min_length=MIN_LENGTH, no_repeat_ngram_size=3, **ends)
        model.save_pretrained(folders[family])
        tokenizer.save_pretrained(folders[family])
    return folders


@pytest.fixture
def command(tmp_path, models):
    """The command line of a recipe, for a family, on a saved data set of two rows."""

    def make(name, family="bart", more=()):
        row, _ = ROWS[name]
        splits = dict.fromkeys(("train", "validation", "test"), Dataset.from_list([row] * 2))
        DatasetDict(splits).save_to_disk(tmp_path / "data")
        places = {
            "model_name_or_path": models[family],
            "dataset_name": tmp_path / "data",
            "output_dir": tmp_path / "out",
        }
        given = [str(word) for flag, value in (places | STEPS).items() for word in (f"--{flag}", value)]
        return [str(RECIPES[name.removesuffix("-copy")]), *given, *COPY.get(name, []), *more]

    return make


@pytest.fixture
def in_process(monkeypatch):
    """launch/train.py in this process: it leaves pytest's logging alone, and an error is a failed test."""
    monkeypatch.setattr(training.train.rank_logs, "set_up", lambda *_, **__: None)
    monkeypatch.setattr(training.train.rank_logs, "open_file", lambda *_, **__: None)
    monkeypatch.setattr(training.train, "give_up", lambda code: pytest.fail(f"exit code {code}"))


def test_every_recipe_has_its_data_set():
    assert RECIPES.keys() == {name.removesuffix("-copy") for name in ROWS}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("in_process")
def test_a_recipe_trains_validates_predicts_and_says_how(name, command, tmp_path, capsys):
    training.run(command(name, *OTHERS.get(name, ())))
    assert f"generation: num_beams 1, max_length 1024, min_length {MIN_LENGTH}, no_repeat_ng" in capsys.readouterr().out
    results = {split: json.loads((tmp_path / f"out/{split}_results.json").read_text()) for split in ("eval", "predict")}
    for split, found in results.items():
        assert found["generation_num_beams"] == 1 and found["generation_no_repeat_ngram_size"] == 3
        assert f"{split}_rouge1" in found and found[f"{split}_samples"] == 2
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    assert state["best_metric"] == max(log["eval_rouge1"] for log in state["log_history"] if "eval_rouge1" in log)
    record = json.loads((tmp_path / "out/predictions.jsonl").read_text().splitlines()[0])
    assert record["reference"] == SUMMARY and record["prediction"]
    assert record["id"] == ROWS[name][0].get("id", 0)


@pytest.mark.parametrize("name", ROWS)
def test_a_recipe_reads_its_documents_as_published(name, command):
    _, texts = ROWS[name]
    splits, tokenizer = build_data(parse(command(name)))
    parts = [tokenizer(each, add_special_tokens=False)["input_ids"] for each in texts]
    row, whole = splits["train"][0], [token for part in parts for token in part]
    assert tokenizer.decode(row["labels"], skip_special_tokens=True) == SUMMARY
    if name == "qmsum":
        query, room = tokenizer(text(3), add_special_tokens=False)["input_ids"], 1024 - 2 - 3
        whole = [token for at in range(0, len(whole), room) for token in (*query, *whole[at : at + room])]
        assert row["segment_lengths"] == [1022, 484]
    elif len(texts) > 1:
        assert row["segment_lengths"] == [len(part) for part in parts]
    assert row["input_ids"] == [tokenizer.bos_token_id, *whole, tokenizer.eos_token_id]


@pytest.mark.parametrize("name", RECIPES)
def test_settings_are_the_published_ones(name):
    arguments = parse([str(RECIPES[name])])
    told, model = arguments.training, arguments.model
    assert (model.model_name_or_path, arguments.cached.window) == ("facebook/bart-large-cnn", 1024)
    assert arguments.data.max_target_length == told.generation_max_length == 1024
    assert (told.learning_rate, told.warmup_steps, told.weight_decay, told.max_grad_norm) == (1e-4, 512, 0, 1)
    assert told.lr_scheduler_type == ("constant_with_warmup" if name == "qmsum" else "linear")
    assert told.per_device_train_batch_size * told.gradient_accumulation_steps == 1
    assert (told.generation_num_beams, told.num_train_epochs, told.seed) == (1, 200, 1234)
    assert (told.eval_steps, told.save_steps) == (250, 250)
    assert told.load_best_model_at_end and told.metric_for_best_model == "rouge1"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_needs(name):
    recipe = RECIPES[name].read_text(encoding="utf-8")
    heads = ("Data", "Not as there", "Lengths", "One GPU", "Eight GPUs", "Other models", "Compare with")
    assert [head for head in heads if f"\n# {head}" not in recipe] == []
    assert f"launch/recipes/{name}.yaml" in recipe and f"\noutput_dir: runs/{name}\n" in recipe
    (hub,) = [line.split(": ")[1] for line in recipe.splitlines() if line.startswith("dataset_name")]
    assert f"# Data           {hub}" in recipe
