"""The model of a run: the precision it is loaded in, and LED's global attention."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoTokenizer, BartTokenizer, Seq2SeqTrainingArguments
from transformers.utils import is_bitsandbytes_available

from cached_ds.data import train_tokenizer
from cached_ds.run import build
from cached_ds.run.arguments import parse
from cached_ds.run.build import build_data, build_model
from cached_ds.run.training_checks import check_optimizer
from helpers import tiny
from helpers.repo import ROOT

TEXT = "one two three four five six seven eight nine ten " * 12


@pytest.fixture
def narrow(tmp_path, monkeypatch):
    """A checkpoint in bf16, and the flags of a run on it."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    tokenizer = train_tokenizer([TEXT], vocab_size=48, model_type="bart", word_level=True)
    tiny.make_model("bart", dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = json.dumps({"text": TEXT, "summary": "one two"})
    (tmp_path / "train.jsonl").write_text(rows + "\n", encoding="utf-8")
    words = ["--model_name_or_path", tmp_path / "model", "--train_file", tmp_path / "train.jsonl", "--window", 16]
    return [str(word) for word in [*words, "--output_dir", tmp_path / "out", "--report_to", "none"]]


def built(words):
    """The model that launch/train.py would train."""
    arguments = parse(words)
    return build_model(arguments, AutoTokenizer.from_pretrained(arguments.model.model_name_or_path))


@pytest.mark.parametrize("more", [[], ["--bf16", "true"]], ids=["float32", "autocast"])
def test_a_narrow_checkpoint_is_trained_in_float32(narrow, more):
    assert {parameter.dtype for parameter in built([*narrow, *more]).parameters()} == {torch.float32}


def led(narrow, *more):
    words = ["--config_name", "tiny-led", *narrow[2:], "--window", "32", *more]
    arguments = parse(words)
    tokenizer = train_tokenizer([TEXT], vocab_size=48, model_type="led", word_level=True)
    return build_model(arguments, tokenizer).get_encoder()._cached_ds.config.global_first_token


def test_led_is_trained_with_the_recipe_of_its_paper_unless_the_flags_say_otherwise(narrow):
    assert led(narrow) is True
    assert led(narrow, "--global_first_token", "true") is True
    assert led(narrow, "--global_first_token", "false") is False


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "zero3_offload"])
def test_the_shipped_configs_accumulate_and_reduce_in_float32(name):
    config = json.loads((ROOT / "ds_configs" / f"{name}.json").read_text(encoding="utf-8"))
    assert config["communication_data_type"] == config["data_types"]["grad_accum_dtype"] == "fp32"


def test_a_prefix_that_leaves_no_room_is_refused_by_file_and_line(narrow, tmp_path):
    rows = [{"text": TEXT, "summary": "one", "q": "one " * count} for count in (2, 14)]
    (tmp_path / "train.jsonl").write_text("".join(f"\n{json.dumps(row)}" for row in rows), encoding="utf-8")
    message = r"train.jsonl, line 3: a prefix of 14 tokens leaves no room in a window of 16, of which .* take 2"
    with pytest.raises(ValueError, match=message):
        build_data(parse([*narrow, "--prefix_column", "q"]))


def test_a_data_set_whose_rows_all_lack_a_text_is_refused(narrow, tmp_path):
    DatasetDict({"train": Dataset.from_list([{"text": ["one"], "summary": "two"}])}).save_to_disk(tmp_path / "saved")
    saved = ["--dataset_name", str(tmp_path / "saved"), "--text_column", "text[1]", "--do_train"]
    with pytest.raises(ValueError, match="--do_train needs train documents; every row lacks a text in the columns"):
        build_data(parse([*narrow[:2], *narrow[4:], *saved]))


def test_segments_need_framed_windows(narrow, tmp_path):
    row = {"text": ["one two", "three"], "summary": "one"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    lists = [*narrow, "--text_lists", "windows"]
    splits, _ = build_data(parse(lists))
    assert splits["train"][0]["segment_lengths"] == [2, 1]
    with pytest.raises(ValueError, match="--frame_windows false is refused with --keep_prefix or --text_lists windows"):
        build_data(parse([*lists, "--frame_windows", "false"]))


def test_prefixes_that_are_kept_in_every_window_fill_it(narrow):
    splits, _ = build_data(parse([*narrow, "--source_prefix", "one two", "--keep_prefix"]))
    (row,) = splits["train"]
    assert row["segment_lengths"] == [14] * 10 and "prefix_length" not in row


def test_prefixes_kept_in_windows_that_overlap_are_refused(narrow):
    with pytest.raises(ValueError, match="--overlap 2 with --keep_prefix is refused; allowed is 0"):
        parse([*narrow, "--source_prefix", "one", "--keep_prefix", "--overlap", "2"])


def test_groups_larger_than_the_run_are_refused_before_documents_are_read(narrow):
    with pytest.raises(
        ValueError, match="document_parallel=2 is refused; allowed is a divisor of the number of ranks, 1"
    ):
        parse([*narrow, "--document_parallel", "2"])


def test_a_tokenizer_is_trained_on_lists_of_texts(narrow, tmp_path):
    row = {"text": ["one two", "three"], "summary": "one"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    shape = ["--config_name", "tiny-bart", "--vocab_size", "300", *narrow[2:], "--text_lists", "join"]
    assert build_data(parse(shape))[0]["train"][0]["length"] > 2
    assert build_data(parse([*shape[:-1], "windows"]))[0]["train"][0]["length"] > 2


def test_languages_of_a_tokenizer_that_has_none_are_refused(narrow):
    with pytest.raises(ValueError, match="lang='de_DE': this tokenizer has no languages"):
        build_data(parse([*narrow, "--lang", "de_DE"]))


def test_a_model_in_which_nothing_is_trainable_is_refused(narrow, monkeypatch):
    monkeypatch.setattr(build.AutoModelForSeq2SeqLM, "from_pretrained", lambda *_, **__: frozen())
    with pytest.raises(ValueError, match="nothing in this model is trainable; merge an adapter"):
        built([*narrow, "--do_train", "true"])


def frozen():
    """What transformers loads from the folder of an adapter."""
    return tiny.make_model("bart").requires_grad_(False)


def test_embeddings_grow_with_the_tokenizer(narrow, caplog):
    arguments = parse(narrow)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model.model_name_or_path)
    tokenizer.add_tokens([f"new{number}" for number in range(tiny.VOCABULARY)])
    model = build_model(arguments, tokenizer)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) > tiny.VOCABULARY
    assert f"the embeddings grow from {tiny.VOCABULARY} to {len(tokenizer)} tokens" in caplog.text


@pytest.mark.parametrize(
    ("flag", "more"), [("max_target_length", []), ("generation_max_length", ["--predict_with_generate"])]
)
def test_summaries_that_are_longer_than_the_decoders_positions_are_refused(narrow, flag, more):
    arguments = parse([*narrow, "--max_target_length", "400", *more])
    model = built(narrow)
    longest = model.config.max_position_embeddings
    labels = [1] * (longest + 1 if flag == "max_target_length" else 3)
    splits = {"train": Dataset.from_dict({"labels": [labels]})}
    with pytest.raises(
        ValueError, match=f"allowed is at most {longest}, the decoder's positions: give --{flag} {longest}"
    ):
        build.check_targets(model, splits, arguments)


def test_a_folder_without_a_tokenizer_is_named(narrow, monkeypatch):
    monkeypatch.setattr(build.AutoTokenizer, "from_pretrained", lambda *_, **__: BartTokenizer())
    with pytest.raises(ValueError, match="has no tokens for text; give --tokenizer_name"):
        build_data(parse(narrow))


def test_an_adapters_folder_without_a_tokenizer_is_named(narrow, tmp_path):
    base = tmp_path / "model"
    for file in base.glob("tokenizer*"):
        file.unlink()
    (base / "config.json").rename(tmp_path / "config.json")
    told = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path)}
    (base / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(ValueError, match="holds no tokenizer that can be read; give --tokenizer_name"):
        build_data(parse(narrow))


@pytest.mark.skipif(is_bitsandbytes_available(), reason="bitsandbytes is installed")
def test_an_optimizer_that_is_not_installed_is_refused_before_training(tmp_path):
    training = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", optim="adamw_bnb_8bit"
    )
    with pytest.raises(ValueError, match="--optim adamw_bnb_8bit is refused: .* install `bitsandbytes`"):
        check_optimizer(training, torch.nn.Linear(1, 1))


@pytest.mark.parametrize("name", ["window", "overlap", "windows_per_pass", "recompute", "tile", "sampled_windows"])
def test_a_number_reaches_the_config(name, tmp_path):
    """Fields of several types are text on the command line; those that are a number or None are numbers."""
    flags = ["--config_name", "tiny-bart", "--dataset_name", "keyfacts", "--output_dir", str(tmp_path), "--do_train"]
    assert getattr(parse([*flags, f"--{name}", "5"]).cached, name) == 5
