"""Attribution: whose tokens are whose, and shares and occlusion that are those of Hugging Face's own model."""

from __future__ import annotations

import copy
import importlib
import json

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, GenerationConfig

from cached_ds import attach
from cached_ds.cli import main
from cached_ds.data import train_tokenizer
from cached_ds.evaluation.attribution.attribute import TOP, attribute
from cached_ds.evaluation.attribution.page import BINS, positions
from cached_ds.evaluation.attribution.reading import Reading
from cached_ds.evaluation.attribution.sentences import sentences_of
from cached_ds.models.token_ids import document_ids
from helpers import tiny
from helpers.compare import EXACT
from lab import workshop

SENTENCES = ["The ship left.", "Was it late?", "日本語の文。", "Nobody knew 🚢 why!", "The end"]
TEXT = "The ship left.  Was it late? 日本語の文。Nobody knew 🚢 why!\nThe end"


@pytest.fixture(scope="module")
def tokenizers():
    """Byte-level tokenizers, which cut letters of some scripts into several tokens."""
    return {name: train_tokenizer([TEXT], vocab_size=300, model_type=name) for name in ("bart", "t5")}


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_every_token_is_in_its_sentence(tokenizers, family):
    tokenizer = tokenizers[family]
    ids = [tokenizer.eos_token_id, *tokenizer(TEXT)["input_ids"], tokenizer.pad_token_id]
    found = sentences_of(tokenizer, ids)
    assert [text for text, _ in found] == SENTENCES
    special = [at for at, token in enumerate(ids) if token in tokenizer.all_special_ids]
    assert sorted(special + [at for _, positions in found for at in positions]) == list(range(len(ids)))
    for text, own in found:
        assert own == list(range(own[0], own[-1] + 1))
        assert tokenizer.decode([ids[at] for at in own]).strip() == text


def test_a_summary_without_words_has_no_sentences(tokenizers):
    tokenizer = tokenizers["bart"]
    assert sentences_of(tokenizer, [tokenizer.bos_token_id, *tokenizer(" \n")["input_ids"]]) == []


@pytest.fixture(params=["bart", "t5"])
def written(request, tokenizers):
    """A reading, a summary, the tokenizer, and the model as it was before it was attached."""
    family, tokenizer = request.param, tokenizers[request.param]
    model = tiny.make_model(family, dtype=torch.float64).eval()
    model.resize_token_embeddings(len(tokenizer))
    for part in (model, model.get_encoder()):  # T5's have configs of their own
        part.config.pad_token_id, part.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    reference = copy.deepcopy(model)
    reference.set_attn_implementation("eager")
    attach(model, window=tiny.WINDOW)
    ids, summary = (document_ids(tokenizer, text) for text in (TEXT * 2, " ".join(SENTENCES)))
    with torch.no_grad():
        reading = Reading.of(model, torch.tensor([ids]))
    return reading, torch.tensor([[model.config.decoder_start_token_id, *summary]]), tokenizer, reference


@torch.no_grad()
def by_hugging_face(reading, summary, reference, *, without=None):
    """Log-likelihoods [T] of the summary's tokens and the weights [T, L], where some positions may be hidden."""
    mask = torch.ones_like(reading.ids)
    mask[0, list(without or [])] = 0
    found = reference(
        encoder_outputs=(reading.outputs.last_hidden_state,), attention_mask=mask, use_cache=False,
        decoder_input_ids=summary[:, :-1], output_attentions=True,
    )  # fmt: skip
    scores = F.log_softmax(found.logits[0], -1).gather(1, summary[0, 1:, None])[:, 0]
    return scores, torch.stack(found.cross_attentions).mean(dim=(0, 2))[0]


def test_a_hidden_window_is_a_masked_one(written):
    reading, summary, _, reference = written
    with torch.no_grad():
        _, scores = reading.weigh(summary)
    torch.testing.assert_close(scores, by_hugging_face(reading, summary, reference)[0], rtol=0, atol=EXACT)
    for number in (0, 2, len(reading.windows) - 1):
        with torch.no_grad():
            found = reading.scores_without(number, summary)
        expected, _ = by_hugging_face(reading, summary, reference, without=reading.windows[number])
        assert (found - scores).abs().max() > 1e-4
        torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


def test_the_record_of_a_summary(written):
    reading, summary, tokenizer, reference = written
    record = attribute(reading, summary, tokenizer=tokenizer, occlusion=True)
    scores, weights = by_hugging_face(reading, summary, reference)
    parts = sentences_of(tokenizer, summary[0, 1:].tolist())
    assert [sentence.text for sentence in record.sentences] == SENTENCES == [text for text, _ in parts]
    assert record.spans[0][0] == 0 and record.spans[-1][1] == reading.ids.shape[1]
    for sentence, (_, own) in zip(record.sentences, parts, strict=True):
        expected = [weights[own, start:stop].sum().item() / len(own) for start, stop in record.spans]
        assert sentence.tokens == len(own) and sentence.shares == [round(value, 5) for value in expected]
        assert sentence.top == sorted(range(len(expected)), key=lambda at: -expected[at])[:TOP]
        hidden, _ = by_hugging_face(reading, summary, reference, without=reading.windows[sentence.top[0]])
        assert sentence.drop == round((scores - hidden)[own].sum().item(), 3)
    assert record.texts.keys() == {number for sentence in record.sentences for number in sentence.top}
    start, stop = record.spans[number := min(record.texts)]
    assert record.texts[number] == tokenizer.decode(reading.ids[0, start:stop], skip_special_tokens=True).strip()


def test_positions_spread_a_window_evenly():
    sentences = [{"tokens": 3, "shares": [0.5, 0.5]}, {"tokens": 1, "shares": [0.1, 0.9]}]
    found = positions({"tokens": 100, "spans": [[0, 40], [40, 100]], "sentences": sentences})
    assert len(found) == BINS and found.sum() == pytest.approx(1)
    assert found[:8] == pytest.approx([0.4 / 8] * 8) and found[8:] == pytest.approx([0.6 / 12] * 12)


def test_summarize_writes_what_report_draws(tmp_path, capsys):
    importlib.import_module("deepspeed")  # whose first import in a process prints which accelerator it found
    folder = workshop.build(tmp_path)
    limits = GenerationConfig.from_pretrained(folder / "model")
    limits.suppress_tokens = AutoTokenizer.from_pretrained(folder / "model").all_special_ids  # else it writes no word
    limits.forced_eos_token_id = None
    limits.save_pretrained(folder / "model")
    (tmp_path / "a.txt").write_text(" ".join(workshop.WORDS * 4))
    (tmp_path / "b.txt").write_text("word1 word2")
    files = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    capsys.readouterr()
    words = ["summarize", "--model", str(folder / "model"), "--window", "16", "--max_new_tokens", "8", "--json"]
    assert main([*words, *files]) == 0
    without = capsys.readouterr().out
    records = tmp_path / "attribution.jsonl"
    assert main([*words, "--attribution", str(records), "--occlusion", *files]) == 0
    assert capsys.readouterr().out == without
    long, short = (json.loads(line) for line in records.read_text().splitlines())
    for record, line in zip((long, short), without.splitlines(), strict=True):
        assert record["summary"] and record | json.loads(line) == record
    assert len(long["spans"]) == long["windows"] > 1 and isinstance(long["sentences"][0]["drop"], float)
    assert short["spans"] == [[0, short["tokens"]]] and short["sentences"][0]["drop"] is None, "nothing would be left"
    for path in (records, tmp_path):
        assert main(["report", str(path)]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    (tmp_path / "trainer_state.json").write_text('{"log_history": []}')
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in ("report.html", "training.png")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--occlusion"], "--occlusion: its results are written by --attribution FILE.jsonl, which is not given"),
        (
            ["--attribution", "no/such/folder/a.jsonl"],
            "--attribution no/such/folder/a.jsonl: its folder does not exist",
        ),
    ],
)
def test_what_could_not_be_written_is_refused_before_any_work(capsys, words, message):
    assert main(["summarize", "--model", "no-model-is-loaded", *words, "no-file-is-read.txt"]) == 2
    assert capsys.readouterr().err.startswith(f"cached-ds: error: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.jsonl: the file is empty"),
        (
            '{"document": "a"}\n',
            "a.jsonl, line 1: no record of where sentences come from, as --attribution writes them",
        ),
        ("\n[1]\n", "a.jsonl, line 2: no record of where sentences come from, as --attribution writes them"),
        ("words", "a.jsonl, line 1: no record of where sentences come from, as --attribution writes them"),
    ],
)
def test_a_file_of_other_things_is_refused(tmp_path, capsys, content, message):
    (tmp_path / "a.jsonl").write_text(content)
    assert main(["report", str(tmp_path / "a.jsonl")]) == 2
    assert capsys.readouterr().err == f"cached-ds: error: {tmp_path}/{message}\n"
    assert not (tmp_path / "report.html").exists()
