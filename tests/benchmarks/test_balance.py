"""The simulation of idle ranks: step model, least time, partners met again, promises, and the files it writes."""

from __future__ import annotations

import itertools
import json
import statistics
import sys

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

import balance
from cached_ds.document_parallel.choice import StepModel, epoch_seconds
from cached_ds.training.sampler import LengthBalancedSampler
from probes import flops
from probes.idle import idle_share
from subjects.lengths import DATA, Lengths


def speed_json(path, seconds):
    rows = [
        {"settings": {"variant": variant, "length": length, "shape": {}}, "round": 0, "result": {"seconds": value}}
        for (variant, length), value in seconds.items()
    ]
    path.write_text(json.dumps({"trials": rows}), encoding="utf-8")
    return path


def test_lengths_have_the_mean_and_the_spread_that_are_said():
    for lengths in DATA.values():
        drawn = Lengths(20_000, lengths.mean, lengths.spread).draw(0)
        assert statistics.mean(drawn) == pytest.approx(lengths.mean, rel=0.05)
        assert max(drawn) / statistics.median(drawn) > 2.5 ** (lengths.spread / 0.3)


def test_the_step_model_is_fitted_to_cached_alone(tmp_path):
    seconds = {("cached", 1000): 3.0, ("cached", 4000): 9.0, ("full", 1000): 50.0}
    step = balance.step_model(speed_json(tmp_path / "speed.json", seconds))
    assert (step.fixed, step.per_token) == (pytest.approx(1.0), pytest.approx(0.002))
    assert balance.step_model(speed_json(tmp_path / "one.json", {("cached", 1000): 3.0})) is None
    assert balance.step_model(tmp_path / "missing.json") is None


def test_a_step_takes_no_less_than_its_decoder(tmp_path):
    step = balance.step_model(speed_json(tmp_path / "speed.json", {("cached", 1000): 1.0, ("cached", 4000): 4.1}))
    tokens = step.fixed / step.per_token
    assert tokens == flops.tokens_of_decoder(balance.MODEL, balance.LONG, "cached")
    lengths = [balance.MODEL.length_of(windows=count) for count in (50, 100)]
    short, long = (flops.step(balance.MODEL, length, "cached") for length in lengths)
    assert (long - short) / (lengths[1] - lengths[0]) * tokens == pytest.approx(2 * short - long, rel=0.02)


@pytest.mark.parametrize(("lengths", "least"), [([5, 1, 9, 2, 9, 3], 11 + 5), ([5, 1, 9, 2, 9, 3, 7], 11 + 7 + 3)])
def test_no_order_of_a_few_documents_beats_the_least_time(lengths, least):
    shape = {"num_ranks": 3, "fixed_tokens": 2}
    orders = itertools.permutations(range(len(lengths)))
    best = min(balance.epoch_time(lengths, order, **shape) for order in orders)
    step = StepModel(fixed=2, per_token=1)
    assert epoch_seconds(lengths, num_ranks=3, ranks_per_document=1, step=step) == least
    assert best == least + (2 if len(lengths) == 7 else 0)  # the last step is filled with the first one's shortest two


def test_partners_that_are_met_again_are_counted():
    assert balance.met_again([0, 1, 2, 3], [3, 2, 0, 1], num_ranks=2) == 1
    assert balance.met_again([0, 1, 2, 3], [0, 2, 1, 3], num_ranks=2) == 0
    assert balance.met_again([0, 1, 2, 3, 4], [2, 1, 0, 4, 3], num_ranks=3) == pytest.approx((3 * 1 + 2 * 1) / 5)


def test_ranks_that_share_wait_for_the_most_windows_of_their_step():
    step = StepModel(fixed=3, per_token=1, window=10)
    lengths = [40, 40, 40, 30, 30]  # alone, ranks would take 43 + 43 + 33
    first, second = balance.shared_rows(lengths, 2, 0, step=step)
    assert first == second, "one group: the order is the same to the clock"
    assert (first["document_parallel"], first["time"]) == (2, 5 * (20 + 3)), "of three windows, one rank has two"
    assert first["idle_share"] == pytest.approx(1 - (3 * 23 + 2 * 18) / (5 * 23))


def test_every_sampler_gives_two_different_epochs():
    lengths = Lengths(60, 1000, 0.5).draw(0)
    kinds = (RandomSampler, LengthGroupedSampler, LengthBalancedSampler)
    for name, kind in zip(balance.SAMPLERS, kinds, strict=True):
        sampler = balance.sampler_of(name, lengths, num_ranks=4, seed=0)
        first, second = balance.two_epochs(sampler)
        assert isinstance(sampler, kind)
        assert sorted(first) == sorted(second) == list(range(60)) and first != second


@given(
    lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=40),
    batch_size=st.integers(1, 3),
    num_ranks=st.integers(1, 4),
)
def test_idle_share_is_what_accelerates_shards_wait(lengths, batch_size, num_ranks):
    order = list(LengthBalancedSampler(lengths, batch_size=batch_size, num_ranks=num_ranks))
    batches = BatchSampler(order, batch_size, drop_last=False)
    shards = [BatchSamplerShard(batches, num_ranks, rank) for rank in range(num_ranks)]
    steps = [[sum(lengths[i] for i in batch) for batch in step] for step in zip(*shards, strict=True)]
    expected = 1 - sum(map(sum, steps)) / (num_ranks * sum(map(max, steps)))
    assert idle_share(lengths, order, batch_size=batch_size, num_ranks=num_ranks) == pytest.approx(expected, abs=1e-12)


def test_what_a_step_costs_beside_its_tokens_makes_ranks_more_alike():
    assert idle_share([1, 3], [0, 1], batch_size=1, num_ranks=2) == pytest.approx(1 - 4 / 6)
    assert idle_share([1, 3], [0, 1], batch_size=1, num_ranks=2, fixed_tokens=5) == pytest.approx(1 - 14 / 16)


@pytest.mark.parametrize(("ours", "code"), [(0.1, 0), (0.3, 1)])
def test_the_benchmark_writes_its_files_and_tells_a_broken_promise(tmp_path, monkeypatch, capsys, ours, code):
    monkeypatch.setattr(balance, "DATA", {"BookSum, chapters": Lengths(90, 5000, 0.9)})
    monkeypatch.setattr(balance, "TARGET", ("BookSum, chapters", 4))
    monkeypatch.setattr(balance, "ratio", lambda *_: ours)
    speed = str(tmp_path / "none.json")
    flags = ["--data", "BookSum, chapters", "--ranks", "4", "100", "--seeds", "1", "--speed", speed]
    monkeypatch.setattr(sys, "argv", ["balance.py", *flags, "--output_dir", str(tmp_path)])
    assert balance.main() == code
    assert f"{'FAIL' if code else 'PASS'}  BookSum, chapters, 4 ranks" in capsys.readouterr().out
    assert len((tmp_path / "balance.md").read_text(encoding="utf-8").splitlines()) == 4 + 1 + 4
    written = json.loads((tmp_path / "balance.json").read_text(encoding="utf-8"))
    assert (len(written["rows"]), written["fixed_tokens"]) == (2 * (6 + 2), balance.FIXED_TOKENS)
    assert (tmp_path / "balance.png").stat().st_size > 1000
