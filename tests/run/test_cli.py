"""The console script `cached-ds`: report, summarize and doctor, as a user calls them."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from cached_ds.cli import main
from cached_ds.models.families import usual_reading
from cached_ds.provenance.record import write_record
from cached_ds.settings.config import CachedConfig
from helpers import oracle, tiny
from lab import workshop


def test_report_draws_a_run(tmp_path, capsys):
    history = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "eval_loss": 2.5, "eval_rouge1": 10.0}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "training.png")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_report_names_a_folder_without_a_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "no trainer_state.json here" in capsys.readouterr().err


def test_summarize_reads_the_whole_file(tmp_path, capsys):
    importlib.import_module("deepspeed")  # whose first import in a process prints which accelerator it found
    capsys.readouterr()
    folder = workshop.build(tmp_path)
    text = " ".join(workshop.WORDS * 4) + " </s> <s>"  # characters, as in training, and no special tokens
    (tmp_path / "a.txt").write_text(text)
    options = ["--model", str(folder / "model"), "--window", "16", "--max_new_tokens", "8"]
    assert main(["summarize", *options, str(tmp_path / "a.txt")]) == 0
    expected = summary_by_the_oracle(folder, text)
    assert capsys.readouterr().out == f"{expected}\n"
    (tmp_path / "b.jsonl").write_text(json.dumps({"id": "7", "document": text}) + "\n")
    assert (
        main(["summarize", *options, "--json", "--num_beams", "1", "--cross_cache", "none", str(tmp_path / "b.jsonl")])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["summary"] == expected and found["document"] == f"{tmp_path / 'b.jsonl'}, line 1"
    assert found["windows"] > 1 and (found["num_beams"], found["max_new_tokens"], found["window"]) == (1, 8, 16)


@torch.no_grad()
def summary_by_the_oracle(folder, text, **cut):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    inputs = tokenizer(text, return_tensors="pt", split_special_tokens=True)
    hidden = oracle.encode(model, inputs["input_ids"], inputs["attention_mask"], **{"window": 16, **cut})
    tokens = model.generate(encoder_outputs=(hidden,), max_length=9)
    return tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


def summarized(folder, capsys, *options):
    words = ["--model", str(folder / "model"), "--max_new_tokens", "8", "--num_beams", "1", "--json", *options]
    assert main(["summarize", *words, str(folder / "a.txt")]) == 0
    found = json.loads(capsys.readouterr().out)
    return found, {name: found[name] for name in (*CachedConfig().reading, "source_prefix")}


def test_summarize_reads_as_the_model_was_trained(tmp_path, capsys):
    folder, prefix = workshop.build(tmp_path), f"{workshop.WORDS[3]} {workshop.WORDS[1]} "
    text = " ".join(workshop.WORDS * 4)
    (folder / "a.txt").write_text(text)
    reading = {"window": 12, "overlap": 2, "frame_windows": True, "global_first_token": None, "source_prefix": prefix}
    write_record(folder / "model", {"reading": reading})
    capsys.readouterr()
    found, used = summarized(folder, capsys)
    length = len(AutoTokenizer.from_pretrained(folder / "model")(prefix, add_special_tokens=False)["input_ids"])
    expected = summary_by_the_oracle(folder, prefix + text, window=12, overlap=2, prefix=[length])
    assert used == reading and found["summary"] == expected
    found, used = summarized(folder, capsys, "--window", "16", "--source_prefix", "")
    assert used == {**reading, "window": 16, "source_prefix": ""}
    assert found["summary"] == summary_by_the_oracle(folder, text, overlap=2)
    (folder / "model/run.json").write_text("{")
    assert main(["summarize", "--model", str(folder / "model"), str(folder / "a.txt")]) == 2
    assert "model/run.json: Expecting property name" in capsys.readouterr().err
    (folder / "model/run.json").unlink()
    assert usual_reading(tiny.make_model("led").config)["global_first_token"] is True
    positions = AutoModelForSeq2SeqLM.from_pretrained(folder / "model").config.max_position_embeddings
    assert summarized(folder, capsys)[1]["window"] == positions < CachedConfig().window


def test_documents_with_prefixes_of_their_own(tmp_path, capsys):
    folder, query = workshop.build(tmp_path), f"{workshop.WORDS[2]} "
    texts = [" ".join(workshop.WORDS * count) for count in (3, 2)]
    rows = [{"document": text, "q": prefix} for text, prefix in zip(texts, (query, ""), strict=True)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_record(folder / "model", {"reading": {"window": 16, "source_prefix": None, "own_prefixes": True}})
    words = ["--model", str(folder / "model"), "--max_new_tokens", "8", "--num_beams", "1", str(folder / "a.jsonl")]
    assert main(["summarize", *words]) == 2
    assert "a.jsonl, line 1: in training each document had a prefix of its own" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["summarize", *words, "--prefix_column", "q", "--source_prefix", query])
    assert "--source_prefix: not allowed with argument --prefix_column" in capsys.readouterr().err
    assert main(["summarize", *words, "--json", "--prefix_column", "q"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["source_prefix"] for each in found] == [query, ""]
    length = len(AutoTokenizer.from_pretrained(folder / "model")(query, add_special_tokens=False)["input_ids"])
    assert found[0]["summary"] == summary_by_the_oracle(folder, query + texts[0], prefix=[length])
    assert found[1]["summary"] == summary_by_the_oracle(folder, texts[1])


def test_summarize_refuses_more_tokens_than_the_decoder_has_positions(tmp_path, capsys):
    folder = workshop.build(tmp_path)
    (folder / "a.txt").write_text(" ".join(workshop.WORDS))
    positions = AutoModelForSeq2SeqLM.from_pretrained(folder / "model").config.max_position_embeddings
    words = ["--model", str(folder / "model"), "--num_beams", "1", str(folder / "a.txt"), "--max_new_tokens"]
    assert main(["summarize", *words, str(positions)]) == 0, "the last token is not read again"
    assert main(["summarize", *words, str(positions + 1)]) == 2
    assert f"max_new_tokens={positions + 1} is refused; allowed is at most {positions}" in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [("  \n", "the file is empty"), (None, "No such file")])
def test_summarize_refuses_what_it_cannot_read(tmp_path, capsys, content, message):
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_text(content)
    assert main(["summarize", "--model", "no-model-is-loaded", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and "a.txt" in error


@pytest.mark.parametrize("beams", ["0", "-1", "two"])
def test_summarize_refuses_numbers_that_are_none(capsys, beams):
    with pytest.raises(SystemExit) as caught:
        main(["summarize", "--model", "m", "--num_beams", beams, "a.txt"])
    assert caught.value.code == 2
    assert f"argument --num_beams: '{beams}' is refused; allowed is an integer >= 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--min_disk", "lots"], "argument --min_disk: 'lots' is refused; allowed are bytes, or a size such as 1GiB"),
        (["--max_skew", "-1"], "argument --max_skew: '-1' is refused; allowed is a number above 0"),
        (["--min_open_files", "few"], "argument --min_open_files: invalid int value: 'few'"),
    ],
)
def test_doctor_refuses_limits_that_are_none(capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *words])
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_doctor_says_what_train_would_refuse(capsys):
    calm = ["--min_disk", "1", "--min_memory", "1", "--min_open_files", "1"]
    assert main(["doctor", *calm, "--windw", "3"]) == 1
    shown = capsys.readouterr().out
    assert "unknown flag '--windw': did you mean '--window'?" in shown
    assert main(["--local_rank=0", "doctor", *calm]) == 0, "as DeepSpeed's launcher puts it"
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("healthy")


def test_other_commands_take_no_further_words(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["report", "somewhere", "--windw", "3"])
    assert caught.value.code == 2 and "unrecognized arguments: --windw 3" in capsys.readouterr().err


def test_summarize_with_a_family_that_names_its_layers_otherwise(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(workshop.build(tmp_path) / "model")
    model = tiny.make_model("t5")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    (tmp_path / "a.txt").write_text(" ".join(workshop.WORDS * 4))
    words = ["--model", str(tmp_path / "t5"), "--window", "16", "--max_new_tokens", "4", str(tmp_path / "a.txt")]
    assert main(["summarize", *words]) == 0
